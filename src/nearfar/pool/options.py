"""What can be said of a call beyond its function and arguments."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypedDict

from nearfar.pool.progress import Progress

__all__ = ["CallOptions", "ImapOptions", "Limits", "MapOptions", "limits"]

Limits = tuple[float | None, int]
"""`timeout` and `retries` of a task."""


class AccessOptions(TypedDict, total=False):
    """Who may join a pool, and how a client finds the right one: see `nearfar.net.access`."""

    keys: str | os.PathLike[str] | None
    """A folder of keys; None: what ``NEARFAR_KEYS`` names, if anything."""
    insecure: bool
    """Let in everyone, and believe whoever answers."""


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
    """The limits that `options` ask for. Raises `TypeError` for an option that is not of `allowed`."""
    if not options:
        return default
    for name in options:
        if name not in allowed.__annotations__:
            raise TypeError(f"got an unexpected keyword argument {name!r}")
    timeout, retries = options.get("timeout"), options.get("retries")
    return default[0] if timeout is None else timeout, default[1] if retries is None else retries
