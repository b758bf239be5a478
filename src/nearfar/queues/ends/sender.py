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
from itertools import islice

from nearfar.net import codec
from nearfar.queues.wire import Kind, Message

BATCH_ITEMS = 512
BATCH_BYTES = 256 * 1024
MOST_ASKED = 4096
"""Items that room is asked for at once."""
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

    def settle(self, first: int, last: int) -> None:
        pieces = []
        for start, stop in self.open:
            if last < start or stop < first:
                pieces.append((start, stop))
                continue
            if start < first:
                pieces.append((start, first - 1))
            if last < stop:
                pieces.append((last + 1, stop))
        self.open = pieces

    def items(self) -> Iterator[tuple[int, bytes]]:
        """The items that are not settled, with their numbers."""
        body, number = memoryview(self.body), self.first
        for start, stop in self.open:
            body = body[codec.cut(bytes(body), start - number) :]
            for number in range(start, stop + 1):
                at = codec.cut(bytes(body), 1)
                yield number, bytes(body[:at])
                body = body[at:]
            number = stop + 1


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

    # -- from the program ------------------------------------------------------------------------

    def put(self, entry: Entry) -> None:
        """Queue the items of `entry` behind those that wait already."""
        self.entries.append(entry)
        self.admit()

    def withdraw(self, entry: Entry) -> None:
        """Take back what was not admitted of `entry`."""
        if entry.items:
            self.entries.remove(entry)
            entry.items.clear()

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
        waiting = (item for _, item, _ in self._again) if self._again else self._waiting()
        sizes = [len(item) for item in islice(waiting, MOST_ASKED)]
        if not sizes:
            return None
        if self.bounded_bytes:
            sizes = list(_first_share(sizes, self.bounded_bytes // 4))
        items = max(0, len(sizes) - self._room[0])
        size = max(0, sum(sizes) - self._room[1])
        return (self._received[0] + items, self._received[1] + size)

    def messages(self) -> Iterator[Message]:
        """PUT messages for all that was admitted and not sent."""
        while self._fresh:
            first, item, to = self._fresh.popleft()
            parts, size = [item], len(item)
            while self._fresh and len(parts) < BATCH_ITEMS and size < BATCH_BYTES:
                number, item, other = self._fresh[0]
                if number != first + len(parts) or other != to:
                    break
                self._fresh.popleft()
                parts.append(item)
                size += len(item)
            count = len(parts)
            body = b"".join(parts) if count > 1 else parts[0]
            self._keep(Batch(first, count, body, to, [(first, first + count - 1)]))
            yield Message(Kind.PUT, (first, count, to), body)

    def sent(self, line_number: int, size: int) -> None:
        """A PUT went out as message `line_number` of the line."""
        self._unstored.append((line_number, size))
        self._unstored_bytes += size

    # -- from the host ---------------------------------------------------------------------------

    def acked(self, line_number: int) -> None:
        """The host has every message of the line up to `line_number`."""
        while self._unstored and self._unstored[0][0] <= line_number:
            self._unstored_bytes -= self._unstored.popleft()[1]

    def gain(self, items: int, size: int) -> None:
        """The host granted more room."""
        self._room = (self._room[0] + items, self._room[1] + size)
        self._received = (self._received[0] + items, self._received[1] + size)

    def spare(self) -> tuple[int, int]:
        """Give back the room that is not used."""
        room = self._room
        self._room = (0, 0)
        self._received = (self._received[0] - room[0], self._received[1] - room[1])
        return room

    def settle(self, rows: Iterable[tuple[int, int, int, bytes | None]]) -> None:
        """The host says what became of items: (first, count, outcome, answer)."""
        for first, count, outcome, answer in rows:
            if outcome:
                self.outcomes.append(Settled(first, count, outcome, answer))
            self._settle(first, first + count - 1)

    def begin(self, stored: int, *, maxsize: int, maxbytes: int) -> None:
        """A new session: the host has, or had, everything up to number `stored`; the rest goes again."""
        self.bounded = bool(maxsize or maxbytes)
        self.bounded_bytes = maxbytes
        self._room = self._received = (0, 0)
        self._unstored.clear()
        self._unstored_bytes = 0
        again: list[tuple[int, bytes, str | None]] = []
        for first in list(self._firsts):
            batch = self._batches[first]
            if first + batch.count - 1 > stored:
                again += [(number, item, batch.to) for number, item in batch.items()]
                self._drop(first)
        again += [*self._fresh, *self._again]
        self._fresh.clear()
        self._again = deque(sorted(again))

    # -- inside ----------------------------------------------------------------------------------

    def _fits(self, size: int) -> bool:
        if self._unstored_bytes and self._unstored_bytes + size > UNSTORED_BYTES:
            return False
        if not self.bounded:
            return True
        return self._room[0] > 0 and (not self.bounded_bytes or self._room[1] >= size)

    def _waiting(self) -> Iterator[bytes]:
        for entry in self.entries:
            yield from entry.items

    def _use_room(self, size: int) -> None:
        if self.bounded:
            self._room = (self._room[0] - 1, self._room[1] - size if self.bounded_bytes else 0)

    def _keep(self, batch: Batch) -> None:
        if self._firsts and batch.first < self._firsts[-1]:
            self._firsts.insert(bisect_right(self._firsts, batch.first), batch.first)
        else:
            self._firsts.append(batch.first)
        self._batches[batch.first] = batch

    def _drop(self, first: int) -> None:
        del self._batches[first]
        del self._firsts[bisect_right(self._firsts, first) - 1]

    def _settle(self, first: int, last: int) -> None:
        index = max(0, bisect_right(self._firsts, first) - 1)
        touched = []
        while index < len(self._firsts) and self._firsts[index] <= last:
            touched.append(self._batches[self._firsts[index]])
            index += 1
        for batch in touched:
            before = sum(stop - start + 1 for start, stop in batch.open)
            batch.settle(first, last)
            self.settled += before - sum(stop - start + 1 for start, stop in batch.open)
            if not batch.open:
                self._drop(batch.first)


def _first_share(sizes: list[int], most: int) -> Iterator[int]:
    """At least the first of `sizes`, and as many as `most` bytes and a batch allow."""
    total = 0
    for index, size in enumerate(sizes):
        total += size
        if index and (total > most or index >= BATCH_ITEMS):
            return
        yield size
