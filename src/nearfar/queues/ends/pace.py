"""How quickly a program takes items. Pure."""

from __future__ import annotations

from dataclasses import dataclass

AHEAD = 0.02
"""Seconds of the program's work that may lie in the buffer."""
PAUSE = 0.05
"""Seconds without a take after which what lies in the buffer is given back to others."""


@dataclass(slots=True)
class Pace:
    """The time is looked at once for many takes: those before it, `untimed`, were spread evenly."""

    since: float = -PAUSE
    """When the last item was taken, as far as is known."""
    seconds: float = AHEAD
    """From one take to the next, smoothed."""
    untimed: int = 0

    def time(self, now: float) -> None:
        """It is `now`."""
        takes = self.untimed
        if takes:
            self.untimed = 0
            each = min((now - self.since) / takes, AHEAD)
            self.seconds += (each - self.seconds) * (1 - 0.875**takes)
            self.since = now

    def waited(self, since: float, now: float) -> None:
        """The program waited for an item: that is none of the time that it takes for one."""
        self.time(since)
        self.since += now - since
