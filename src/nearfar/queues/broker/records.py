"""The records of the ledger: producers, consumers, deliveries, and ranges of items."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from enum import IntEnum
from math import inf
from typing import Self

from nearfar.errors import ProtocolError
from nearfar.serialization import item_codec
from nearfar.serialization.shared_ring import Body, KeptBody


@dataclass(slots=True)
class ItemRange:
    """Items `first` to ``first + count - 1`` of a producer, concatenated in `body`."""

    producer: str
    first: int
    count: int
    body: Body
    order: int
    """The place of the first item among all items of the queue."""
    to: str | None = None
    """A tag: only a consumer with this tag may have these items."""
    attempt: int = 1
    strikes: int = 0
    """Consumers that were lost, or gave up, while they held an item of this run."""
    history: tuple[str, ...] = ()
    """What became of each earlier attempt."""

    def cut(self, count: int) -> tuple[Self, Self]:
        """The first `count` items and the others.

        If a body holds fewer items than its producer announced, the last ones get no bytes: no consumer can
        read them, so they become dead letters, like other unreadable items.
        """
        try:
            body = self.body.view() if isinstance(self.body, KeptBody) else self.body
            at = item_codec.cut(body, count)
        except ProtocolError:
            at = len(self.body)
        head = replace(self, count=count, body=self.body[:at])
        tail = replace(
            self,
            first=self.first + count,
            count=self.count - count,
            body=self.body[at:],
            order=self.order + count,
        )
        return head, tail


class ReadyList:
    """Runs that wait, the oldest first."""

    __slots__ = ("_heap", "bytes", "items")

    def __init__(self) -> None:
        self._heap: list[tuple[int, ItemRange]] = []
        self.items = 0
        self.bytes = 0

    def __bool__(self) -> bool:
        return bool(self._heap)

    def add(self, run: ItemRange) -> None:
        heapq.heappush(self._heap, (run.order, run))
        self.items += run.count
        self.bytes += len(run.body)

    @property
    def oldest(self) -> int:
        """The order of the next item; the list must not be empty."""
        return self._heap[0][0]

    def take(self, items: int, size: int) -> ItemRange:
        """Up to `items` items of the oldest run, at least one.

        A run larger than `size` bytes is cut by the average size of its items: the result may be larger.
        """
        run = heapq.heappop(self._heap)[1]
        self.items -= run.count
        self.bytes -= len(run.body)
        if run.count > 1 and (run.count > items or len(run.body) > size):
            average = len(run.body) // run.count or 1
            run, rest = run.cut(max(1, min(items, size // average, run.count - 1)))
            self.add(rest)
        return run

    def clear(self) -> list[ItemRange]:
        """Take everything."""
        runs = [run for _, run in sorted(self._heap)]
        self._heap.clear()
        self.items = self.bytes = 0
        return runs


class Deliveries:
    """The items lent to one consumer and not settled yet.

    Each item lent gets the next *position*, from 1. No position is used twice, so it identifies one attempt
    at one item: an ack for a position that is not here is late. The consumer's program has taken the items up
    to `taken`; the others wait in its buffer.
    """

    __slots__ = ("_positions", "_runs", "held_items", "last", "taken", "untaken_bytes", "untaken_items")

    def __init__(self) -> None:
        self._positions: list[int] = []
        self._runs: list[ItemRange] = []
        self.last = 0
        self.taken = 0
        self.held_items = 0
        """Items that the program has taken and not settled."""
        self.untaken_items = 0
        self.untaken_bytes = 0

    @property
    def oldest(self) -> int | None:
        """The order of the item that was lent first; None if there is none."""
        return self._runs[0].order if self._runs else None

    def lend(self, run: ItemRange) -> int:
        """Note `run` as lent; returns the position of its first item."""
        position = self.last + 1
        self._positions.append(position)
        self._runs.append(run)
        self.last += run.count
        self.untaken_items += run.count
        self.untaken_bytes += len(run.body)
        return position

    def take(self, upto: int) -> None:
        """Record that the program has every item up to position `upto`; a lower one changes nothing."""
        upto = min(upto, self.last)
        if upto <= self.taken:
            return
        for run in self._runs[self._index(self.taken + 1) : self._index(upto + 1)]:
            self.untaken_items -= run.count
            self.untaken_bytes -= len(run.body)
            self.held_items += run.count
        self.taken = upto

    def remove(self, first: int, last: int) -> list[ItemRange]:
        """Remove and return what is here of positions `first` to `last`."""
        start, stop = self._index(first), self._index(last + 1)
        removed = self._runs[start:stop]
        for position, run in zip(self._positions[start:stop], removed, strict=True):
            if position > self.taken:
                self.untaken_items -= run.count
                self.untaken_bytes -= len(run.body)
            else:
                self.held_items -= run.count
        del self._runs[start:stop], self._positions[start:stop]
        return removed

    def _index(self, position: int) -> int:
        """The index of the first run from `position` on; a run that spans it is cut there."""
        index = bisect_left(self._positions, position)
        if index:
            first, run = self._positions[index - 1], self._runs[index - 1]
            if position < first + run.count:
                self._runs[index - 1 : index] = run.cut(position - first)
                self._positions.insert(index, position)
        return index


DEAD_LETTERS_KEPT = 10_000
DEAD_BYTES_KEPT = 64 << 20
"""Bytes of dead letters: the oldest are forgotten. One larger letter is kept by itself."""


class Settlement(IntEnum):
    """The outcome of an item, as reported to its producer."""

    DONE = 0
    ANSWERED = 1
    DEAD = 2
    UNDELIVERABLE = 3
    DROPPED = 4


class ProducerState(IntEnum):
    """Whether a producer may still put."""

    OPEN = 0
    GONE = 1
    """It said goodbye."""
    LOST = 2
    """It died, or fell silent, before it said goodbye."""


@dataclass(slots=True)
class News:
    """An outcome not yet reported to the producer, of `count` items from `first` on."""

    first: int
    count: int
    outcome: Settlement
    answer: bytes | None = None


@dataclass(slots=True)
class ProducerRecord:
    """One producer, for as long as the queue exists: its numbers outlast its connections."""

    name: str
    state: ProducerState = ProducerState.OPEN
    stored: int = 0
    """The number of its last item that was stored."""
    granted: tuple[int, int] = (0, 0)
    """Items and bytes it may still put under the bound."""
    news: list[News] = field(default_factory=list)
    round: int = -1
    """The last round of a standing queue in which it came."""
    arrived: float = -inf
    """When it first came."""
    helper: bool = False
    """Another producer vouches for it: it does not count among the expected or the lost producers."""

    def note(self, news: News) -> None:
        """Store `news` to be sent; adjacent items that are done are merged."""
        last = self.news[-1] if self.news else None
        if (
            last is not None
            and news.outcome is last.outcome is Settlement.DONE
            and last.first + last.count == news.first
        ):
            last.count += news.count
        else:
            self.news.append(news)


@dataclass(slots=True)
class ConsumerRecord:
    """One consumer's session."""

    name: str
    tags: frozenset[str]
    leases: Deliveries = field(default_factory=Deliveries)
    window_items: int = 0
    window_bytes: int = 0

    @property
    def has_capacity(self) -> bool:
        """True if it may be lent items now. A single item may be larger than the window."""
        leases = self.leases
        if not leases.untaken_items:
            return self.window_items > 0
        return leases.untaken_items < self.window_items and leases.untaken_bytes < self.window_bytes


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Items given up after `max_attempts`, or unreadable."""

    count: int
    body: bytes
    producer: str
    attempts: int
    history: tuple[str, ...]
