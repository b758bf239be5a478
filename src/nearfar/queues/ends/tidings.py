"""What an end has to tell its host of items that it was lent. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nearfar.queues.wire import MOST_RANGES, share_of_answers

Ranges = list[list[int]]
"""First and last position of each, in the order in which it became so."""


@dataclass(slots=True)
class Tidings:
    """What became of items, until it is told."""

    done: Ranges = field(default_factory=list)
    failed: Ranges = field(default_factory=list)
    unreadable: Ranges = field(default_factory=list)
    returned: Ranges = field(default_factory=list)
    answers: list[list[Any]] = field(default_factory=list)
    """Positions of items that are done, and what is to be said to those who put them."""

    def pressing(self) -> bool:
        """True if somebody needs to hear of it to go on."""
        return bool(self.failed or self.unreadable or self.returned or self.answers)

    @property
    def ended(self) -> int:
        """How many items were done, or given up."""
        return sum(last - first + 1 for rows in (self.done, self.failed) for first, last in rows) + len(
            self.answers
        )

    def take(self) -> list[list[list[Any]]]:
        """As much as fits into a message, by the order of the fields above; it is told by that."""
        parts: list[list[list[Any]]] = []
        for rows in (self.done, self.failed, self.unreadable, self.returned):
            parts.append(rows[:MOST_RANGES])
            del rows[:MOST_RANGES]
        share = share_of_answers(self.answers, MOST_RANGES)
        parts.append(self.answers[:share])
        del self.answers[:share]
        return parts


def extend(ranges: Ranges, first: int, last: int = 0) -> None:
    """Add `first` to `last` (0: that one alone) to `ranges`."""
    if ranges and ranges[-1][1] == first - 1:
        ranges[-1][1] = last or first
    else:
        ranges.append([first, last or first])
