"""The putting half of an end, as a pure machine: from `put` to the host, and kept until the item is settled.

::

    put -> Entry (waits for room) -> fresh (has a number) -> Batch (sent) -> settled

What is in a Batch is sent again to a host that comes back without it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from nearfar.errors import ProtocolError
from nearfar.net import codec
from nearfar.queues.wire import Kind, Message

BATCH_ITEMS = 512
BATCH_BYTES = 256 * 1024
MOST_ASKED = 4096
"""Items that room is asked for at once."""
MOST_ROOM = 1 << 62
"""Items, and bytes, that a host may grant in one session: more could not be told back."""
UNSTORED_BYTES = 64 * 1024 * 1024
"""Bytes that may be on their way to the host at once (a single larger item may go alone)."""


@dataclass(slots=True, eq=False)
class Entry:
    """Items of one call of `put` or `put_many`, waiting for room."""

    items: deque[bytes]
    to: str | None = None
    admitted: int = 0
    last: int = 0
    """The number of the last item admitted."""


@dataclass(slots=True)
class Batch:
    """Items sent as one and not all settled."""

    first: int
    count: int
    body: bytes
    to: str | None
    open: list[tuple[int, int]]
    """The ranges of numbers that are not settled."""

    def settle(self, first: int, last: int) -> int:
        """Items `first` to `last` are settled; tells how many of them had not been."""
        pieces, settled = [], 0
        for start, stop in self.open:
            low, high = max(start, first), min(stop, last)
            if low > high:
                pieces.append((start, stop))
                continue
            settled += high - low + 1
            if start < low:
                pieces.append((start, low - 1))
            if high < stop:
                pieces.append((high + 1, stop))
        self.open = pieces
        return settled

    def items(self) -> Iterator[tuple[int, bytes]]:
        """The items that are not settled, with their numbers."""
        items = list(codec.split(self.body))
        for start, stop in self.open:
            for number in range(start, stop + 1):
                yield number, items[number - self.first]


@dataclass(slots=True)
class Settled:
    """What became of one item, or of several that were simply done."""

    first: int
    count: int
    outcome: int
    answer: bytes | None


@dataclass(slots=True)
class Sender:
    """All that one end put. `bounded` and `bounded_bytes` are known once the host has welcomed it."""

    bounded: bool = True
    bounded_bytes: int = 0
    last: int = 0
    """The number of the last item admitted."""
    settled: int = 0
    entries: deque[Entry] = field(default_factory=deque)
    outcomes: deque[Settled] = field(default_factory=deque)
    """What was settled with more than "done", until `take_outcomes`."""
    _again: deque[tuple[int, bytes, str | None]] = field(default_factory=deque)
    _fresh: deque[tuple[int, bytes, str | None]] = field(default_factory=deque)
    _batches: dict[int, Batch] = field(default_factory=dict)
    _firsts: list[int] = field(default_factory=list)
    """The keys of `_batches`, which rise."""
    _waiting: int = 0
    """Items in `entries`."""
    _room: tuple[int, int] = (0, 0)
    _received: tuple[int, int] = (0, 0)
    _unstored: deque[tuple[int, int]] = field(default_factory=deque)
    _unstored_bytes: int = 0

    @property
    def idle(self) -> bool:
        """True if everything admitted was sent, and nothing waits for room."""
        return not (self.entries or self._again or self._fresh)

    @property
    def unsettled(self) -> int:
        return self.last - self.settled

    @property
    def handed_over(self) -> bool:
        """True if a host has, or had, everything that was put."""
        return self.idle and not self._unstored

    # -- from the program ------------------------------------------------------------------------

    def put(self, entry: Entry) -> None:
        """Queue the items of `entry` behind those that wait already."""
        self.entries.append(entry)
        self._waiting += len(entry.items)
        self.admit()

    def withdraw(self, entry: Entry) -> None:
        """Take back what was not admitted of `entry`; those behind it may be smaller, and fit."""
        if entry.items:
            self.entries.remove(entry)
            self._waiting -= len(entry.items)
            entry.items.clear()
            self.admit()

    def admit(self) -> None:
        """Let in what there is room for."""
        while self._again and self._fits(len(self._again[0][1])):
            number, item, to = self._again.popleft()
            self._use_room(len(item))
            self._fresh.append((number, item, to))
        while self.entries and not self._again:
            entry = self.entries[0]
            while entry.items:
                if not self._fits(len(entry.items[0])):
                    return
                item = entry.items.popleft()
                self._waiting -= 1
                self._use_room(len(item))
                self.last += 1
                entry.admitted += 1
                entry.last = self.last
                self._fresh.append((self.last, item, entry.to))
            self.entries.popleft()

    # -- to the host -----------------------------------------------------------------------------

    def need(self) -> tuple[int, int] | None:
        """The room to ask for, as totals since the session began; None when nothing waits."""
        if not self.bounded:
            return None
        items, size = len(self._again) + self._waiting, 0
        if self.bounded_bytes:
            sizes = list(_first_share(self._sizes(), self.bounded_bytes // 4))
            items, size = len(sizes), sum(sizes)
        if not items:
            return None
        items = max(0, min(items, MOST_ASKED) - self._room[0])
        size = max(0, size - self._room[1])
        return (self._received[0] + items, self._received[1] + size)

    def messages(self) -> Iterator[Message]:
        """PUT messages for all that was admitted and not sent."""
        while self._fresh:
            first, item, to = self._fresh.popleft()
            parts, size = [item], len(item)
            while self._fresh and len(parts) < BATCH_ITEMS:
                number, item, other = self._fresh[0]
                if number != first + len(parts) or other != to or size + len(item) > BATCH_BYTES:
                    break
                self._fresh.popleft()
                parts.append(item)
                size += len(item)
            count = len(parts)
            body = b"".join(parts)
            self._firsts.append(first)
            self._batches[first] = Batch(first, count, body, to, [(first, first + count - 1)])
            yield Message(Kind.PUT, (first, count, to), body)

    def sent(self, line_number: int, size: int) -> None:
        """A PUT of `size` bytes went out as message `line_number` of the line."""
        self._unstored.append((line_number, size))

    # -- from the host ---------------------------------------------------------------------------

    def acked(self, line_number: int) -> None:
        """The host has every message of the line up to `line_number`."""
        if not self._unstored or self._unstored[0][0] > line_number:
            return
        while self._unstored and self._unstored[0][0] <= line_number:
            self._unstored_bytes -= self._unstored.popleft()[1]
        self.admit()

    def gain(self, items: int, size: int) -> None:
        """The host granted more room. Raises `ProtocolError` where that comes to more than there can be."""
        if max(self._received[0] + items, self._received[1] + size) > MOST_ROOM:
            raise ProtocolError(f"room for {items} items and {size} bytes more than can be told")
        self._room = (self._room[0] + items, self._room[1] + size)
        self._received = (self._received[0] + items, self._received[1] + size)

    def spare(self) -> tuple[int, int]:
        """Give back the room that is not used."""
        room = self._room
        self._room = (0, 0)
        self._received = (self._received[0] - room[0], self._received[1] - room[1])
        return room

    def settle(self, rows: Iterable[tuple[int, int, int, bytes | None]]) -> None:
        """The host says what became of items, perhaps again: (first, count, outcome, answer)."""
        for first, count, outcome, answer in rows:
            if self._settle(first, first + count - 1) and outcome:
                self.outcomes.append(Settled(first, count, outcome, answer))

    def begin(self, stored: int, *, maxsize: int, maxbytes: int) -> None:
        """A new session: the host has, or had, everything up to number `stored`; the rest goes again."""
        self.bounded = bool(maxsize or maxbytes)
        self.bounded_bytes = maxbytes
        self._room = self._received = (0, 0)
        self._unstored.clear()
        self._unstored_bytes = 0
        again = [*self._fresh, *self._again]
        self._fresh.clear()
        for batch in list(self._batches.values()):
            if batch.first + batch.count - 1 > stored:
                again += [(number, item, batch.to) for number, item in batch.items()]
                del self._batches[batch.first]
        self._firsts = list(self._batches)
        self._again = deque(sorted(again))

    # -- inside ----------------------------------------------------------------------------------

    def _fits(self, size: int) -> bool:
        if self._unstored_bytes and self._unstored_bytes + size > UNSTORED_BYTES:
            return False
        if not self.bounded:
            return True
        return self._room[0] > 0 and (not self.bounded_bytes or self._room[1] >= size)

    def _sizes(self) -> Iterator[int]:
        for _, item, _ in self._again:
            yield len(item)
        for entry in self.entries:
            yield from map(len, entry.items)

    def _use_room(self, size: int) -> None:
        self._unstored_bytes += size
        if self.bounded:
            self._room = (self._room[0] - 1, self._room[1] - size if self.bounded_bytes else 0)

    def _settle(self, first: int, last: int) -> int:
        """Settle what is open of items `first` to `last`; tells how many there were."""
        start = max(0, bisect_right(self._firsts, first) - 1)
        stop = bisect_right(self._firsts, last)
        settled, still_open = 0, []
        for number in self._firsts[start:stop]:
            batch = self._batches[number]
            settled += batch.settle(first, last)
            if batch.open:
                still_open.append(number)
            else:
                del self._batches[number]
        self._firsts[start:stop] = still_open
        self.settled += settled
        return settled


def _first_share(sizes: Iterable[int], most: int) -> Iterator[int]:
    """At least the first of `sizes`, and as many as `most` bytes and a batch allow."""
    total = 0
    for index, size in enumerate(sizes):
        total += size
        if index and (total > most or index >= BATCH_ITEMS):
            return
        yield size
