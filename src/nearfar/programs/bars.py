"""Progress on a terminal: a bar, drawn by rich (the extra ``download``)."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column

from nearfar.programs.counts import Counts, Pace, describe, describe_pace


class Bars:
    """A bar with counts, rates and the time left; it pulses while the total is unknown."""

    def __init__(self, console: Console | None = None, every: float = 0.1) -> None:
        """Draw at most once in `every` seconds, on `console` (default: standard error)."""
        self._every = every
        self._now = 0.0
        self._due: float | None = None
        self._pace = Pace()
        words = TextColumn("{task.description}", table_column=Column(ratio=1), markup=False)
        self._rich = RichProgress(
            BarColumn(bar_width=30),
            words,
            console=console or Console(stderr=True),
            auto_refresh=False,
            expand=True,
            get_time=lambda: self._now,
        )
        self._bar = self._rich.add_task("", total=None)

    def show(self, counts: Counts, now: float) -> None:
        """Draw, if the last time is long enough ago."""
        self._pace.note(counts, now)
        if self._due is None:
            self._rich.start()
        elif now < self._due:
            return
        self._due = now + self._every
        self._draw(counts, now)

    def close(self, counts: Counts, now: float) -> None:
        """Draw the end, and leave it standing."""
        if self._due is not None:
            self._draw(counts, now)
            self._rich.stop()

    def _draw(self, counts: Counts, now: float) -> None:
        self._now = now
        said = f"{describe(counts)}; {describe_pace(self._pace, counts, now)}"
        self._rich.update(
            self._bar, description=said, total=counts.total, completed=counts.progress, refresh=True
        )
