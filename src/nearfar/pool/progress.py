"""The progress of a map: passed to a callback, or shown on a terminal."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from nearfar.pool.call import call_back

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress

Progress = bool | Callable[[int, int | None], object]
"""True: show it on standard error, if that is a terminal, or below a notebook's cell. A callable is called
with done and total items; total is None for an iterator, which does not say how long it is."""


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

        self._rich = _columns(Console(file=stream))
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


class NotebookBar:
    """The same bar as HTML in the output of a notebook's cell, replaced at most ten times a second."""

    def __init__(self, total: int | None) -> None:
        from IPython.display import display
        from rich.console import Console

        self._rich = _columns(Console())
        self._task = self._rich.add_task("", total=total)
        # Rich gives its renderables an HTML form; to replace it takes no widgets, only IPython.
        self._handle = display(self._rich, display_id=True)
        self._due = 0.0

    def show(self, done: int, _total: int | None) -> None:
        self._rich.update(self._task, completed=done)
        now = time.monotonic()
        if now >= self._due:
            self._due = now + 0.1
            self._handle.update(self._rich)

    def finish(self) -> None:
        self._handle.update(self._rich)


def _columns(console: Console) -> RichProgress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    # Without a thread of its own.
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, auto_refresh=False)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, and rich can draw there."""
    if "IPython" not in sys.modules or not importlib.util.find_spec("rich"):
        return False
    from rich.console import Console

    return Console().is_jupyter


def reporter(progress: Progress | None, total: int | None, stream: TextIO | None = None) -> Reporter | None:
    """The reporter for `progress`; None if `progress` is false, or there is no terminal or notebook.

    `stream`: None for standard error.
    """
    if not progress:
        return None
    if progress is not True:
        return Reporter(progress, total)
    if stream is None and in_notebook():
        bar = NotebookBar(total)
        return Reporter(bar.show, total, bar.finish)
    stream = stream or sys.stderr
    if stream is None or not stream.isatty():
        return None
    shown = Bar(stream, total) if importlib.util.find_spec("rich") else ProgressLine(stream)
    return Reporter(shown.show, total, shown.finish)
