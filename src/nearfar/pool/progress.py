"""The progress of a map: passed to a callback, or shown on a terminal."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from nearfar.pool.call import call_back

Progress = bool | Callable[[int, int | None], object]
"""True: show it on standard error, if that is a terminal. A callable is called with done and total items;
total is None for an iterator, which does not say how long it is."""


class Reporter:
    """Counts ended items, successful or not, and calls `show` with the count and the total."""

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
        # Chunks end in any thread; counts are shown in order, and never decrease.
        self._lock = threading.RLock()

    def add(self, items: int) -> None:
        """Count `items` more. What `show` raises is logged."""
        with self._lock:
            self._done += items
            call_back("progress callback", self._show, self._done, self._total)

    def close(self) -> None:
        """Called at the end of the map."""
        with self._lock:
            finish, self._finish = self._finish, None
            if finish is not None:
                call_back("progress callback", finish)


class ProgressLine:
    """A line with the count, which is overwritten at most ten times a second."""

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
    """The reporter for `progress`; None if `progress` is false, or there is no terminal.

    `stream`: None for standard error.
    """
    if not progress:
        return None
    if progress is not True:
        return Reporter(progress, total)
    stream = stream or sys.stderr
    if stream is None or not stream.isatty():
        return None
    shown = Bar(stream, total) if importlib.util.find_spec("rich") else ProgressLine(stream)
    return Reporter(shown.show, total, shown.finish)
