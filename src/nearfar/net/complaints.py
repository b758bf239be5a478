"""What is wrong with what peers say: counted, and logged in a form that can do no harm.

A peer's words are never logged as they are: a line break would forge a line of the log, and an escape
sequence would speak to the terminal of whoever reads it. Nor is every fault logged: whoever sends a million
bad frames would fill the disk.
"""

from __future__ import annotations

import logging

LONGEST_SHOWN = 200
"""Characters of a peer's words in a line of the log, or in an error's text."""
MOST_LINES = 20
"""Lines of the log in a `PERIOD`; the faults beyond are only counted, and told of as a number."""
PERIOD = 60.0
"""Seconds."""


def shown(words: object, longest: int = LONGEST_SHOWN) -> str:
    """`words` of a peer for a person: what is not printable is escaped, what is too long is cut off."""
    said = str(words)
    more = len(said) > longest
    said = said[:longest]
    if not said.isprintable():
        said = "".join(map(_escaped, said))
    return f"{said}…" if more else said


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")


class Complaints:
    """Logs faults as warnings, a bounded number of them, and counts all. For one thread at a time."""

    def __init__(self, log: logging.Logger, more: str = "%d more such faults were not logged") -> None:
        """`more` tells of those that were only counted, with %d for their number."""
        self.count = 0
        self._log = log
        self._more = more
        self._since = float("-inf")
        self._lines = 0
        self._unsaid = 0

    def note(self, text: str, fault: object, now: float) -> None:
        """Log `text`, with %s for the `fault`, unless too much was logged lately. `now`: any steady clock."""
        self._begin(now)
        if self._lines < MOST_LINES:
            self._lines += 1
            self._log.warning(text, shown(fault))
        else:
            self._unsaid += 1

    def note_again(self, now: float) -> None:
        """Count a fault that was logged before: it is only told of as a number."""
        self._begin(now)
        self._unsaid += 1

    def tick(self, now: float) -> None:
        """Tell how many were only counted, once the period is over, though no other comes."""
        if self._unsaid and now - self._since >= PERIOD:
            self._sum_up(now)

    def _begin(self, now: float) -> None:
        self.count += 1
        if now - self._since >= PERIOD:
            self._sum_up(now)

    def _sum_up(self, now: float) -> None:
        if self._unsaid:
            self._log.warning(self._more, self._unsaid)
        self._since, self._lines, self._unsaid = now, 0, 0
