"""What a consumer has: batches that wait in its buffer, items that its program holds, and acks to report."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, repeat
from operator import itemgetter
from typing import Any, NamedTuple

from nearfar.errors import ItemError, ProtocolError, Untrusted
from nearfar.queues.messages import MOST_RANGES, share_of_answers
from nearfar.serialization import item_codec
from nearfar.serialization.shared_ring import Place, ReadRings


class DeliveredItem(NamedTuple):
    """An item that the program has taken."""

    position: int
    item: Any
    attempt: int
    session: int = 0
    """The number of the client's session to which the position belongs."""


@dataclass(slots=True)
class DeliveredBatch:
    """A batch in the buffer; decoded when its first item is taken."""

    position: int
    count: int
    attempt: int
    body: bytes | Place
    items: list[Any] | None = None
    at: int = 0
    """The index of the next item in `items`."""
    weight: int = 0
    """Bytes of the whole batch, as received."""
    plain: bool = False
    """Whether it was decoded, and nothing in it is `Unreadable`."""

    def read(self, rings: ReadRings, *, trusted: bool) -> None:
        """Decode the items. An `Unreadable` replaces an item that cannot be decoded.

        Raises OSError, MemoryError or ProtocolError if the body is in shared memory and cannot be read.
        """
        body = self.body
        if isinstance(body, Place):
            if len(body) >= self.count * item_codec.LONG:
                self.items = rings.read(body, partial(item_codec.decode_long, count=self.count))
                if self.items is not None:
                    self.plain = True
                    return
            body = rings.read(body, bytes)
        try:
            self.items = item_codec.decode(body, self.count, trusted=trusted)
            self.plain = True
        except (ItemError, ProtocolError, Untrusted):
            self.items = self._read_singly(body, trusted)
        self.body = b""

    def _read_singly(self, body: bytes, trusted: bool) -> list[Any]:
        items: list[Any] = []
        bodies = item_codec.split(body)
        for _ in range(self.count):
            try:
                items += item_codec.decode(next(bodies, b""), 1, trusted=trusted)
            except (ItemError, ProtocolError, Untrusted) as error:
                items.append(Unreadable(error))
        return items


@dataclass(slots=True)
class DeliveredChunk:
    """The next items, which one thread takes without the lock: each by one atomic step in C.

    Only that thread takes from the left; the length shows how many it took. A thread that holds the lock may
    withdraw the remaining items from the right, one by one: so each item is taken once.
    """

    session: int
    first: int
    """The position of its first item."""
    items: deque[Any]
    """The items, or a `DeliveredItem` for each."""
    size: int
    holder: int
    settles: bool
    """Whether taking an item acks the one before."""
    holding: int
    """The position of the item that the holder took before, if the next take acks it."""
    counted: int = 0
    """Items already counted as taken."""
    left: int = -1
    """Items that were withdrawn; -1 before that."""

    def taken(self) -> int:
        """How many items the thread took."""
        return self.size - (len(self.items) if self.left < 0 else self.left)

    def take_away(self) -> None:
        """Withdraw the remaining items from the thread."""
        left = 0
        try:
            while True:
                self.items.pop()
                left += 1
        except IndexError:
            self.left = left


Portion = tuple[int, deque[Any], DeliveredChunk]
"""The thread that may take items, the items, and their chunk."""
NOTHING: Portion = (0, deque(), DeliveredChunk(0, 0, deque(), 0, 0, False, 0))


@dataclass(slots=True)
class Hand:
    """Items that a program takes and acks without the lock. It outlasts the sessions of its client."""

    getting: Portion = NOTHING
    """The items for `get`."""
    receiving: Portion = NOTHING
    """The items for `receive`."""
    acks: list[DeliveredItem] = field(default_factory=list)
    """Acked deliveries, until `ItemReceiver.count` reads them."""
    called: bool = False
    """Whether they will be counted soon."""


class Unreadable(NamedTuple):
    """The error of decoding an item."""

    error: Exception


Ranges = list[list[int]]
"""The first and last position of each range, in the order in which it was added."""


@dataclass(slots=True)
class AckBatch:
    """The outcomes of items, until they are reported."""

    done: Ranges = field(default_factory=list)
    failed: Ranges = field(default_factory=list)
    unreadable: Ranges = field(default_factory=list)
    returned: Ranges = field(default_factory=list)
    answers: list[list[Any]] = field(default_factory=list)
    """Positions of items that are done, with the answers for their producers."""

    @property
    def ended(self) -> int:
        """How many items were done, or given up."""
        return sum(last - first + 1 for rows in (self.done, self.failed) for first, last in rows) + len(
            self.answers
        )

    def take(self) -> list[list[list[Any]]]:
        """Remove and return as much as fits into a message, in the order of the fields above."""
        parts: list[list[list[Any]]] = []
        for rows in (self.done, self.failed, self.unreadable, self.returned):
            parts.append(rows[:MOST_RANGES])
            del rows[:MOST_RANGES]
        share = share_of_answers(self.answers, MOST_RANGES)
        parts.append(self.answers[:share])
        del self.answers[:share]
        return parts


def extend(ranges: Ranges, first: int, last: int = 0) -> None:
    """Add `first` to `last` (0: only `first`) to `ranges`."""
    if ranges and ranges[-1][1] == first - 1:
        ranges[-1][1] = last or first
    else:
        ranges.append([first, last or first])


class Holdings:
    """The positions that the program holds, in ascending order, and who took each: a row for each run of
    positions of one holder."""

    __slots__ = ("_rows",)

    def __init__(self) -> None:
        self._rows: list[list[int]] = []

    def __bool__(self) -> bool:
        return bool(self._rows)

    def __len__(self) -> int:
        return sum([last - first + 1 for first, last, _ in self._rows])

    def holders(self) -> Iterator[int]:
        """The holder of each position."""
        return chain.from_iterable(repeat(holder, last - first + 1) for first, last, holder in self._rows)

    def oldest(self, holder: int | None = None) -> int:
        """The first position of `holder`, or else of any but holder 0; 0 if there is none."""
        mine = (first for first, _, other in self._rows if other == holder)
        return next(mine, 0) or next((first for first, _, other in self._rows if other), 0)

    def holder_of(self, position: int) -> int | None:
        at = self._index(position)
        return self._rows[at][2] if at < len(self._rows) and self._rows[at][0] <= position else None

    def add(self, first: int, last: int, holder: int) -> None:
        """Add positions after all those here."""
        rows = self._rows
        if rows and rows[-1][2] == holder and rows[-1][1] == first - 1:
            rows[-1][1] = last
        else:
            rows.append([first, last, holder])

    def remove(self, first: int, last: int = 0) -> Ranges:
        """Remove what is here of `first` to `last` (0: only `first`), and return that."""
        rows, last = self._rows, last or first
        at = self._index(first)
        removed: Ranges = []
        while at < len(rows) and rows[at][0] <= last:
            start, stop, holder = rows[at]
            low, high = max(start, first), min(stop, last)
            removed.append([low, high])
            rest = [[start, low - 1, holder]] if start < low else []
            if high < stop:
                rest.append([high + 1, stop, holder])
            rows[at : at + 1] = rest
            at += len(rest)
        return removed

    def remove_of(self, holder: int | None) -> Ranges:
        """Remove and return what `holder` has; None: what everyone has but holder 0."""
        rows = self._rows
        removed = [
            [first, last] for first, last, other in rows if other == holder or (holder is None and other)
        ]
        if len(removed) == len(rows):
            rows.clear()
        else:
            rows[:] = [row for row in rows if row[2] != holder and (holder is not None or not row[2])]
        return removed

    def _index(self, position: int) -> int:
        """The index of the first row that does not end before `position`."""
        rows = self._rows
        if not rows or position <= rows[0][1]:
            return 0
        return bisect_left(rows, position, key=itemgetter(1))
