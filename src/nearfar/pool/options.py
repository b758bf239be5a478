"""Options of calls, and the size of the chunks that a map is cut into."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol, TypedDict

from nearfar.pool.progress import Progress

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
    """The limits in `options`. Raises `TypeError` for an option that is not in `allowed`, and as
    `checked`."""
    for name in options:
        if name not in allowed.__annotations__:
            raise TypeError(f"got an unexpected keyword argument {name!r}")
    timeout, retries = options.get("timeout"), options.get("retries")
    return checked(default[0] if timeout is None else timeout, default[1] if retries is None else retries)


def checked(timeout: float | None, retries: int) -> Limits:
    """Both, if they are valid. Raises `TypeError` and `ValueError`."""
    if timeout is not None and not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout is a number of seconds or None, not {timeout!r}")
    if timeout is not None and not timeout >= 0:
        raise ValueError(f"timeout must not be negative, as {timeout!r} is")
    if not isinstance(retries, int):
        raise TypeError(f"retries is a whole number, not {retries!r}")
    if retries < 0:
        raise ValueError(f"retries must not be negative, as {retries!r} is")
    return timeout, retries


class Sized(Protocol):
    """An object with the number of its workers."""

    @property
    def size(self) -> int: ...


def cut(iterable: Iterable[Any], size: int | None, workers: Sized) -> tuple[Iterator[Sequence[Any]], int]:
    """`iterable` in pieces of `size` (None: computed from the number of workers), and its length: an iterable
    without a length is read. Raises `ValueError` for a size below 1.
    """
    items: Any = iterable if hasattr(iterable, "__len__") else list(iterable)
    if size is None:
        size = default_chunksize(len(items), workers.size)
    elif size < 1:
        raise ValueError(f"Chunksize must be 1+, not {size!r}")
    return chunks(items, size), len(items)


def default_chunksize(length: int, workers: int) -> int:
    """Items of a chunk for `length` items, as in the standard library: four chunks for each worker."""
    size, extra = divmod(length, 4 * workers)
    return max(1, size + bool(extra))


def chunks(items: Iterable[Any], size: int) -> Iterator[Sequence[Any]]:
    """`items` in pieces of `size`, the last one perhaps smaller.

    Lists, tuples and ranges are cut by slices: a slice of a `range` is a range, however long.
    """
    if type(items) in (list, tuple, range):
        for start in range(0, len(items), size):  # type: ignore[arg-type]
            yield items[start : start + size]  # type: ignore[index]
        return
    source = iter(items)
    while piece := tuple(islice(source, size)):
        yield piece
