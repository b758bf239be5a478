"""Options of calls, the size of chunks, and the progress of a map."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol, TextIO, TypedDict

from nearfar.pool.call import call_back

__all__ = [
    "CallOptions",
    "ImapOptions",
    "Limits",
    "MapOptions",
    "Progress",
    "Reporter",
    "Sized",
    "checked",
    "chunks",
    "cut",
    "default_chunksize",
    "limits",
    "reporter",
]


Progress = bool | Callable[[int, int | None], object]
"""True: show it on standard error, if that is a terminal. A callable is called with done and total items;
total is None for an iterator, which does not say how long it is."""


class Reporter:
    """Counts items that have ended, well or not, and calls `show` with the count and the total."""

    def __init__(
        self,
        show: Callable[[int, int | None], object],
        total: int | None,
        finish: Callable[[], object] | None = None,
    ) -> None:
        """`finish` is called once, at the end."""
        self._show = show
        self._total = total
        self._finish = finish
        self._done = 0
        # Chunks end in any thread; counts are shown one after another, and never go back.
        self._lock = threading.RLock()

    def add(self, items: int) -> None:
        """`items` more have ended. What `show` raises is logged."""
        with self._lock:
            self._done += items
            call_back("progress callback", self._show, self._done, self._total)

    def close(self) -> None:
        """The map has ended."""
        with self._lock:
            finish, self._finish = self._finish, None
            if finish is not None:
                call_back("progress callback", finish)


class Line:
    """A counting line that is written over and over, ten times a second at most."""

    def __init__(self, stream: TextIO, every: float = 0.1) -> None:
        self._stream = stream
        self._every = every
        self._due = 0.0
        self._said = ""

    def show(self, done: int, total: int | None) -> None:
        self._said = f"{done:,}" if total is None else f"{done:,} of {total:,}"
        now = time.monotonic()
        if now >= self._due:
            self._due = now + self._every
            self._write("")

    def finish(self) -> None:
        if self._said:
            self._write("\n")

    def _write(self, end: str) -> None:
        self._stream.write(f"\r{self._said}\x1b[K{end}")
        self._stream.flush()


class Bar:
    """A bar, drawn by rich; it pulses while the total is unknown."""

    def __init__(self, stream: TextIO, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        self._rich = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(file=stream),
            auto_refresh=False,  # without a thread of its own
        )
        self._task = self._rich.add_task("", total=total)
        self._due = 0.0

    def show(self, done: int, _total: int | None) -> None:
        now = time.monotonic()
        if not self._rich.live.is_started:
            self._rich.start()
        self._rich.update(self._task, completed=done, refresh=now >= self._due)
        if now >= self._due:
            self._due = now + 0.1

    def finish(self) -> None:
        if self._rich.live.is_started:
            self._rich.stop()


def reporter(progress: Progress | None, total: int | None, stream: TextIO | None = None) -> Reporter | None:
    """What `progress` asks for, or None for nothing: `progress` is false, or there is no terminal.

    `stream`: None for standard error.
    """
    if not progress:
        return None
    if progress is not True:
        return Reporter(progress, total)
    stream = stream or sys.stderr
    if stream is None or not stream.isatty():
        return None
    shown = Bar(stream, total) if importlib.util.find_spec("rich") else Line(stream)
    return Reporter(shown.show, total, shown.finish)


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


class Sized(Protocol):
    """An object with the number of its workers."""

    @property
    def size(self) -> int: ...


def cut(iterable: Iterable[Any], size: int | None, workers: Sized) -> tuple[Iterator[Sequence[Any]], int]:
    """`iterable` in pieces of `size` (None: as suits the workers), and its length: it is read if it does not
    tell. Raises `ValueError` for a size below 1.
    """
    items: Any = iterable if hasattr(iterable, "__len__") else list(iterable)
    if size is None:
        size = default_chunksize(len(items), workers.size)
    elif size < 1:
        raise ValueError(f"Chunksize must be 1+, not {size!r}")
    return chunks(items, size), len(items)


def default_chunksize(length: int, workers: int) -> int:
    """Items a chunk for `length` items, as the standard counts: four chunks for each worker."""
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
