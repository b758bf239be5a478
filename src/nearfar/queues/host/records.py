"""What the ledger notes: producers and what they are told, consumers and what they have, dead letters."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from math import inf

from nearfar.queues.host.leases import Leases

DEAD_LETTERS_KEPT = 10_000
DEAD_BYTES_KEPT = 64 << 20
"""Bytes of dead letters: the oldest are forgotten. One larger letter is kept by itself."""


class Outcome(IntEnum):
    """What became of an item, as its producer is told."""

    DONE = 0
    ANSWERED = 1
    DEAD = 2
    UNDELIVERABLE = 3
    DROPPED = 4


class State(IntEnum):
    """A producer's: may it still put?"""

    OPEN = 0
    GONE = 1
    """It said goodbye."""
    LOST = 2
    """It died, or fell silent, before it said goodbye."""


@dataclass(slots=True)
class News:
    """What a producer has not been told yet: `count` items from `first` on came to this end."""

    first: int
    count: int
    outcome: Outcome
    answer: bytes | None = None


@dataclass(slots=True)
class Producer:
    """One producer, for as long as the queue lives: its numbers outlast its connections."""

    name: str
    state: State = State.OPEN
    stored: int = 0
    """The number of its last item that was stored."""
    granted: tuple[int, int] = (0, 0)
    """Items and bytes it may still put under the bound."""
    news: list[News] = field(default_factory=list)
    round: int = -1
    """The last round of a standing queue that it came in."""
    arrived: float = -inf
    """When it first came."""
    helper: bool = False
    """Another producer vouches for it: nobody expects it, misses it, or waits for its goodbye."""

    def note(self, news: News) -> None:
        """Keep `news` to be told; what is done right after its neighbour is told with it."""
        last = self.news[-1] if self.news else None
        if (
            last is not None
            and news.outcome is last.outcome is Outcome.DONE
            and last.first + last.count == news.first
        ):
            last.count += news.count
        else:
            self.news.append(news)


@dataclass(slots=True)
class Consumer:
    """One consumer's session."""

    name: str
    tags: frozenset[str]
    leases: Leases = field(default_factory=Leases)
    window_items: int = 0
    window_bytes: int = 0

    @property
    def hungry(self) -> bool:
        """True if it may be lent something now. One item may always be larger than the window."""
        leases = self.leases
        if not leases.untaken_items:
            return self.window_items > 0
        return leases.untaken_items < self.window_items and leases.untaken_bytes < self.window_bytes


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Items put aside."""

    count: int
    body: bytes
    producer: str
    attempts: int
    history: tuple[str, ...]
