"""Checks of what peers send: names and leases, and a bounded log of what is malformed.

Text of a peer is never logged as it is: a line break would forge a line of the log, and an escape sequence
would control the reader's terminal. Nor is every fault logged: a million bad frames would fill the disk.
"""

from __future__ import annotations

import logging
import re
from typing import Any

LONGEST_NAME = 200
"""Characters of a name (of a client, an agent, a worker, a tag)."""
LONGEST_TEXT = 10_000
"""Characters of a text for the user: it may contain anything, and is escaped when shown."""
SHORTEST_LEASE, LONGEST_LEASE = 0.001, 1e6
"""Seconds: with less, a peer would only send heartbeats; more is too large for a poll."""


NAME = (
    r"\A(?:[ -~]+|[^\0-\x1f\x7f-\xa0\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u1680\u180e"
    r"\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ud800-\uf8ff\ufeff\ufff9-\ufffb\U000110bd\U000110cd"
    r"\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001-\U000e007f"
    r"\U000f0000-\U0010ffff]+)\Z"
)
"""The pattern of a name: no control or format characters, no line breaks, no spaces but the usual one, no
surrogates, nothing private. Which characters are assigned depends on the version of Python, so that does not
matter. ASCII comes first because it is tested faster."""


def lease(value: Any) -> bool:
    return type(value) in (int, float) and SHORTEST_LEASE <= value <= LONGEST_LEASE


def name(value: str) -> bool:
    return len(value) <= LONGEST_NAME and re.match(NAME, value) is not None


LONGEST_SHOWN = 200
"""Characters of a peer's text in a line of the log, or in an error's text."""
MOST_LINES = 20
"""Lines of the log in a `PERIOD`; further faults are only counted, and logged as a number."""
PERIOD = 60.0
"""Seconds."""


def shown(words: object, longest: int = LONGEST_SHOWN) -> str:
    """`words` of a peer, fit to be shown: unprintable characters are escaped, and long text is cut off."""
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


class ProtocolErrors:
    """Logs a bounded number of faults as warnings, and counts all. For one thread at a time."""

    def __init__(self, log: logging.Logger, more: str = "%d more such faults were not logged") -> None:
        """`more` is the text for those that were only counted, with %d for their number."""
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
        """Count a fault that was logged before, without logging it again."""
        self._begin(now)
        self._unsaid += 1

    def tick(self, now: float) -> None:
        """Once the period is over, log how many faults were only counted, even if no further one comes."""
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
