"""What can be said of a call beyond its function and arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from nearfar.pool.progress import Progress

__all__ = ["CallOptions", "ImapOptions", "Limits", "MapOptions", "checked", "limits"]

Limits = tuple[float | None, int]
"""`timeout` and `retries` of a task."""


class CallOptions(TypedDict, total=False):
    """Options of a single call. None stands for the pool's default."""

    timeout: float | None
    """Seconds that a task may run, from its start; then its worker is killed: `TaskTimeout`."""
    retries: int | None
    """How often a task may run again after the loss of its worker; then it fails: `WorkerLost`."""


class MapOptions(CallOptions, total=False):
    """Options of a map. The limits are those of each chunk."""

    progress: Progress | None


class ImapOptions(MapOptions, total=False):
    """Options of `imap` and `imap_unordered`."""

    window: int | None
    """Items that may be read ahead of the results that were taken."""


def limits(options: Mapping[str, Any], default: Limits, allowed: type) -> Limits:
    """The limits that `options` ask for. Raises `TypeError` for an option that is not of `allowed`, and as
    `checked`."""
    for name in options:
        if name not in allowed.__annotations__:
            raise TypeError(f"got an unexpected keyword argument {name!r}")
    timeout, retries = options.get("timeout"), options.get("retries")
    return checked(default[0] if timeout is None else timeout, default[1] if retries is None else retries)


def checked(timeout: float | None, retries: int) -> Limits:
    """Both, if they make sense. Raises `TypeError` and `ValueError`."""
    if timeout is not None and not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout is a number of seconds or None, not {timeout!r}")
    if timeout is not None and not timeout >= 0:
        raise ValueError(f"timeout must not be negative, as {timeout!r} is")
    if not isinstance(retries, int):
        raise TypeError(f"retries is a whole number, not {retries!r}")
    if retries < 0:
        raise ValueError(f"retries must not be negative, as {retries!r} is")
    return timeout, retries
