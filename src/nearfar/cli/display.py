"""Shows how far a long job is: counts, sizes, rates and the time left, as bars, as lines, or not at all.

It has no thread and no clock: the program calls `Progress.show` with the time, as often as it likes.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from nearfar.cli.common import in_color
from nearfar.cli.progress import Counts, TransferRate, describe, describe_rate

if TYPE_CHECKING:
    from rich.console import Console


class Progress(Protocol):
    """Shows how far a job is."""

    @property
    def live(self) -> bool:
        """Whether it is on the terminal now, and shows that the program stops."""

    def show(self, counts: Counts, now: float) -> None:
        """Show `counts` at `now` (seconds of a monotonic clock), if an update is due."""

    def close(self, counts: Counts, now: float) -> None:
        """Show the final state, and restore the terminal. Called once, as the last call."""


class NoProgress:
    """Shows nothing."""

    live = False

    def show(self, counts: Counts, now: float) -> None:
        """Show nothing."""

    def close(self, counts: Counts, now: float) -> None:
        """Show nothing."""


def log_line(line: str) -> None:
    """Log one line of progress, in the format of ``--log-format``."""
    logging.getLogger("nearfar").info("%s", line, extra={"event": "progress"})


class ProgressLines:
    """One line every few seconds; none for a job that ends before the first one is due."""

    live = False

    def __init__(self, every: float = 10.0, say: Callable[[str], None] = log_line) -> None:
        """Write a line every `every` seconds."""
        self._every = every
        self._say = say
        self._rate = TransferRate(window=2 * every)
        self._due: float | None = None

    def show(self, counts: Counts, now: float) -> None:
        """Write a line if the last one is long enough ago."""
        self._rate.note(counts, now)
        if self._due is None:
            self._due = now + self._every
        elif now >= self._due:
            self._due = now + self._every
            self._say(f"{describe(counts)}; {describe_rate(self._rate, counts, now)}")

    def close(self, counts: Counts, now: float) -> None:
        """Nothing: the program itself prints the result."""


def make_console(choice: str, stream: TextIO, **settings: Any) -> Console:
    """A console of rich, with colors as ``--color`` says."""
    from rich.console import Console

    colored = in_color(choice, stream)
    system: Any = "auto" if colored and stream.isatty() else "standard" if colored else None
    return Console(file=stream, color_system=system, no_color=not colored, **settings)


def progress_of(options: argparse.Namespace) -> Progress:
    """The progress for the options of a program. Raises as `make_progress`."""
    how, color = options.progress, options.color
    return make_progress(how, quiet=options.quiet, log_format=options.log_format, color=color)


def make_progress(
    how: str = "auto",
    *,
    quiet: bool = False,
    log_format: str = "text",
    color: str = "auto",
    every: float = 10.0,
) -> Progress:
    """The progress that ``--progress`` asks for.

    ``auto``: nothing if `quiet`; a bar on a terminal, with messages as text; else a line every `every`
    seconds. Without rich (the extra ``download``), a terminal gets lines too. Raises `ValueError` if a bar is
    asked for without rich.
    """
    drawable = importlib.util.find_spec("rich") is not None
    if how == "bar" and not drawable:
        raise ValueError("--progress bar needs rich: pip install 'nearfar[download]'")
    if how == "auto":
        terminal = log_format == "text" and sys.stderr.isatty()
        how = "off" if quiet else "bar" if terminal and drawable else "plain"
    if how == "bar":
        from nearfar.cli.bars import ProgressBars

        return ProgressBars(make_console(color, sys.stderr, force_terminal=True))
    return NoProgress() if how == "off" else ProgressLines(every)
