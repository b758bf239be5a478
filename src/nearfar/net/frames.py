"""Checks of what peers send: field types, announced lengths, and a bounded log of what is malformed.

What is wrong with what peers say: counted, and logged in a form that can do no harm.

A peer's words are never logged as they are: a line break would forge a line of the log, and an escape
sequence would speak to the terminal of whoever reads it. Nor is every fault logged: whoever sends a million
bad frames would fill the disk.

Unpacking what may announce more than it holds.

A list of msgpack says first how long it is, and its reader makes room for so many at once. Five bytes may
announce as many as the whole message has bytes, and lists may stand in each other a thousand deep: a megabyte
would have eight gigabytes made room for. To skip over a value makes no room, and fails where anything is
missing.
"""

from __future__ import annotations

import logging
from typing import Any

import msgpack

LONGEST_NAME = 200
"""Characters of a name: of an end, an agent, a worker, a tag. All of them are printable."""
LONGEST_TEXT = 10_000
"""Characters of what is told to a person: it may hold anything, and is escaped where it is shown."""
SHORTEST_LEASE, LONGEST_LEASE = 0.001, 1e6
"""Seconds: less would have a peer do nothing but beat, more is no number that a poll takes."""


def natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def positive(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 63


def flag(value: Any) -> bool:
    return type(value) is bool


def text(value: Any) -> bool:
    return type(value) is str and len(value) <= LONGEST_TEXT


def lease(value: Any) -> bool:
    return type(value) in (int, float) and SHORTEST_LEASE <= value <= LONGEST_LEASE


def name(value: Any) -> bool:
    return type(value) is str and 0 < len(value) <= LONGEST_NAME and value.isprintable()


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


class ProtocolErrors:
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


HARMLESS = 16 * 1024
"""Bytes: the room that a shorter message can announce is little, and soon given back."""


def unpack(data: Any, longest: int, **options: Any) -> Any:
    """The one value in `data`, no list of which may be longer than `longest`. Raises what msgpack raises."""
    if len(data) > HARMLESS:
        check(data)
    return msgpack.unpackb(
        data, strict_map_key=False, max_array_len=min(longest, max(1, len(data))), **options
    )


def long_lists(data: bytes) -> bool:
    """False if certainly no list in `data`, but the one that it may begin with, is of more than 15."""
    return data.find(b"\xdd", 1) >= 0 or data.find(b"\xdc", 1) >= 0


def check(data: Any) -> None:
    """Raise what msgpack raises unless `data` begins with a whole value: then nothing in it lies."""
    unpacker = msgpack.Unpacker(max_buffer_size=len(data))
    unpacker.feed(data)
    unpacker.skip()
