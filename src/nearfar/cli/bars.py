"""Progress on a terminal: a bar for all files, and one for each large file, drawn by rich.

No line is ever wider than the terminal, and the cursor stays visible: however the program ends, the terminal
needs no reset.
"""

from __future__ import annotations

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nearfar.cli.progress import Counts, TransferRate, describe_briefly, size
from nearfar.readable import readable

WIDEST, NARROWEST = 30, 6
"""Characters of a bar."""
PART = 5
"""A bar takes a fifth of the terminal's width, within these bounds."""
ECHO = 3
"""Columns that stay free at the right: the terminal itself writes ``^C`` there, and wraps no line."""
OTHER_LINES = 3
"""Lines of the terminal that the bars leave free."""


class ProgressBars:
    """Draws without a thread. The bar of all files pulses while their number is unknown."""

    def __init__(self, console: Console, every: float = 0.1) -> None:
        """Draw at most once in `every` seconds, on `console`."""
        self._console = console
        self._every = every
        self._due: float | None = None
        self._rate = TransferRate()
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="crop")

    @property
    def live(self) -> bool:
        return self._live.is_started

    def show(self, counts: Counts, now: float) -> None:
        """Draw, if the last time is long enough ago."""
        self._rate.note(counts, now)
        if self._due is None:
            self._live.start()
            self._console.show_cursor(True)
        elif now < self._due:
            return
        self._due = now + self._every
        self._draw(counts, now)

    def close(self, counts: Counts, now: float) -> None:
        """Draw the end, and leave it on the terminal."""
        if self._due is not None:
            self._draw(counts, now)
            self._live.stop()

    def _draw(self, counts: Counts, now: float) -> None:
        width, height = self._console.size
        bar = max(NARROWEST, min(WIDEST, width // PART))
        room = max(1, width - bar - 1 - ECHO)
        # The texts have the space between the columns: versions of rich pad the last one differently.
        lines = Table.grid()
        lines.add_column(width=bar, no_wrap=True)
        lines.add_column(width=1 + room, no_wrap=True, overflow="ellipsis")
        said = describe_briefly(self._rate, counts, now, room)
        lines.add_row(_bar(counts.progress, counts.total, bar, now), Text(f" {said}"))
        for name, came, length in counts.large[: max(0, height - OTHER_LINES)]:
            of = "" if length is None else f" of {size(length)}"
            lines.add_row(_bar(came, length, bar, now), Text(f" {size(came)}{of}  {readable(name)}"))
        self._live.update(lines, refresh=True)


def _bar(done: float, total: float | None, width: int, now: float) -> ProgressBar:
    return ProgressBar(total, min(done, total or done), width=width, pulse=total is None, animation_time=now)
