"""The put side of a client, as a pure machine: the put buffer, batches, credit, and items that are not
acknowledged.

Where small items of single puts gather until the end's loop takes them in: a put that has to wait for
nothing does not touch the machine.

The putting half of an end, as a pure machine: from `put` to the host, and kept until the item is settled.

::

    put -> Entry (waits for room) -> fresh (has a number) -> Batch (sent) -> settled
    put -> Tray (has its room) ------^

What is in a Batch is sent again to a host that comes back without it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from operator import length_hint
from typing import Any, NamedTuple

from nearfar.errors import ProtocolError
from nearfar.queues.messages import QueueMessage, QueueMessageType
from nearfar.serialization import item_codec
from nearfar.serialization.item_codec import encode, encode_leaves

LARGEST = 64 * 1024
"""Bytes or characters of an item that may lie here: larger ones go by themselves."""
LIGHT = 255
"""Bytes or characters of an item that is kept as it is, and packed with the others of its batch."""
HEADER = 2
"""Bytes that stand before such an item when it is packed, at most."""
NUMBER = 9
"""Bytes of a number when it is packed, at most."""
MOST = 1024
"""Items that may lie here."""
MANY = 512
"""Items after which the loop is to take them in, whoever comes by."""
HEAVY = 256 * 1024
"""Bytes after which it is to do so."""
ANY = 1 << 62
"""Bytes: more than ever lie here."""
UNITS = 16 * MOST
"""Room is taken in as many units, so that it is a step of C to take some: what an item does not fill of its
last unit is at most a sixteenth of what all have."""

WayIn = tuple[Callable[[Any], object], Iterator[int], Iterator[int], int]
_LEAST, _GREATEST = -(1 << 63), (1 << 64) - 1
"""The integers that msgpack has by itself."""
_NUMBERS = frozenset({bool, float, type(None)})
_SIZED = frozenset({bytes, str})


class Packed(bytes):
    """An item that was packed when it was put: it may change afterwards, or is not light."""


class PutBuffer:
    """`append_now` may be called by any thread, and in the middle of itself, by a signal's handler or a
    finalizer; all else only with the machine's lock held.

    What lies here is in the queue. In a bounded queue room for it was set aside with `open`, and an item
    comes in by a single step of C, which takes one of the permits, and room, and adds to the items: there is
    nothing to be torn. Without a bound, threads that put at once may exceed the limit by one item each.
    """

    __slots__ = ("_free", "_way_in", "_weight", "called", "items", "limit", "trusted")

    def __init__(self) -> None:
        self.items: list[Any] = []
        """Leaves, which cannot change, as they were put; others as `Packed`."""
        self.limit = 0
        """How many items may lie here."""
        self.called = False
        """Somebody was told of the items that lie here. Who puts one and finds this false has to tell."""
        self.trusted = False
        self._free = False
        """There is no bound."""
        self._way_in: WayIn = (self.items.append, iter(()), iter(()), 1)
        """Where items are added; the permits: how many there are then, for each that may come; the units of
        room; and the bytes of one."""
        self._weight = 0

    def append_now(self, item: Any) -> int:
        """Take in `item`, and tell how many lie here now, or `MANY` when they have become heavy; 0 if it was
        not taken, and is to be put in the other way.

        Raises what `codec.encode` raises. Called for each item, hence so flat.
        """
        kind = type(item)
        if kind is bytes or (kind is str and item.isascii()):
            size = len(item) + HEADER
            if size > LIGHT + HEADER:
                return self._slip_packed(item)
        elif kind in _NUMBERS or (kind is int and _LEAST <= item <= _GREATEST):
            size = NUMBER
        else:
            return self._slip_packed(item)
        if self._free:
            items = self.items
            lying = len(items)
            if lying >= self.limit:
                return 0
            items.append(item)
            return lying + 1
        return self._slip_within_bounds(item, size)

    def _slip_packed(self, item: Any) -> int:
        if not self.limit or (item.__class__ in _SIZED and len(item) > LARGEST):
            return 0
        packed = Packed(encode(item, trusted=self.trusted))
        if len(packed) > LARGEST:
            return 0
        lying = self._slip_within_bounds(packed, len(packed))
        if lying:
            before = self._weight
            self._weight = before + len(packed)
            if before <= HEAVY < before + len(packed):
                return MANY
        return lying

    def _slip_within_bounds(self, item: Any, size: int) -> int:
        add, permits, room, unit = self._way_in
        if size > unit:
            room = _some(room, -(-size // unit))
        for _, lying, _ in zip(room, permits, map(add, (item,)), strict=False):
            return lying
        return 0

    def open(self, limit: int, room: int = ANY) -> None:
        """After `clear`: let in up to `limit` items, of up to `room` bytes together."""
        if not room:
            return
        self.limit = min(limit, MOST)
        unit = max(1, room // UNITS)
        permits = iter(range(len(self.items) + 1, self.limit + 1))
        self._way_in = (self.items.append, permits, iter(range(room // unit)), unit)
        self._free = limit == ANY

    def clear(self) -> list[Any]:
        """Take out what lies here, and let in nothing more until `open`."""
        self.called = False
        if not self.items and not self.limit:
            return []
        self._free = False
        list(self._way_in[1])  # use up the permits: who is about to come in does not
        self.limit = self._weight = 0
        items = self.items[:]
        del self.items[: len(items)]  # the same list: a put without a bound may be about to add to it
        return items


def packed(items: list[Any], most: int, size: int) -> Iterator[tuple[int, bytes]]:
    """`items` of a put buffer end to end, as (count, body): up to `most` of them, and about `size` bytes,
    each."""
    if Packed not in set(map(type, items)):
        for start in range(0, len(items), most):
            chunk = items[start : start + most]
            yield len(chunk), encode_leaves(chunk)
        return
    parts: list[bytes] = []
    total = 0
    for item in items:
        part = item if type(item) is Packed else encode(item, trusted=False)
        if parts and (len(parts) >= most or total + len(part) > size):
            yield len(parts), b"".join(parts)
            parts, total = [], 0
        parts.append(part)
        total += len(part)
    if parts:
        yield len(parts), b"".join(parts)


def _some(room: Iterator[int], units: int) -> Iterator[int]:
    """What takes so many units of `room` in one step, and gives nothing where there are fewer.

    Where others have taken some since this looked, what is left is taken in vain.
    """
    return islice(room, units - 1, None) if length_hint(room) >= units else iter(())


@dataclass(frozen=True, slots=True)
class Batch:
    """Items end to end."""

    count: int
    body: bytes


@dataclass(order=True, frozen=True, slots=True)
class Unsent:
    """Items with numbers, not sent yet."""

    first: int
    count: int
    body: bytes
    to: str | None


@dataclass(slots=True, eq=False)
class PutRequest:
    """Items of one call of `put` or `put_many`, waiting for room: one by one, or `Batch` as one."""

    items: deque[bytes | Batch]
    to: str | None = None
    admitted: int = 0
    last: int = 0
    """The number of the last item admitted."""


@dataclass(slots=True)
class InFlight:
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
        items = list(item_codec.split(self.body))
        for start, stop in self.open:
            for number in range(start, stop + 1):
                yield number, items[number - self.first]


def several(item: bytes | Batch) -> Batch:
    """An item, or several, as several."""
    return item if isinstance(item, Batch) else Batch(1, item)


def count_of(item: bytes | Batch) -> int:
    """How many items that is."""
    return item.count if isinstance(item, Batch) else 1


def one_by_one(fresh: Unsent) -> Iterator[Unsent]:
    """Each item for itself."""
    for number, body in enumerate(item_codec.split(fresh.body), fresh.first):
        yield Unsent(number, 1, body, fresh.to)


BATCH_ITEMS = 512
BATCH_BYTES = 240 * 1024
MOST_ASKED = 4096
"""Items that room is asked for at once."""
MOST_ROOM = 1 << 62
"""Items, and bytes, that a host may grant in one session: more could not be told back."""
UNSTORED_BYTES = 64 * 1024 * 1024
"""Bytes that may be on their way to the host at once (a single larger item may go alone)."""


class CreditRequest(NamedTuple):
    """The room that is asked for, as totals since the session began, so that what crosses on the way counts
    once."""

    items: int
    size: int
    """Bytes; 0 where they are not bounded."""
    least: int
    """Bytes without which the next item does not fit."""


@dataclass(slots=True)
class Settled:
    """What became of one item, or of several that were simply done."""

    first: int
    count: int
    outcome: int
    answer: bytes | None


@dataclass(slots=True)
class ItemSender:
    """All that one end put. `bounded` and `bounded_bytes` are known once the host has welcomed it."""

    bounded: bool = True
    bounded_bytes: int = 0
    last: int = 0
    """The number of the last item admitted."""
    settled: int = 0
    entries: deque[PutRequest] = field(default_factory=deque)
    outcomes: deque[Settled] = field(default_factory=deque)
    """What was settled with more than "done", until `take_outcomes`."""
    put_buffer: PutBuffer = field(default_factory=PutBuffer)
    gave_up: bool = False
    """Something was withdrawn for which the host may have granted room: it is to be told so."""
    barred: bool = True
    """Nothing is to be put by way of the put buffer: the queue is closed, or shut, or not known yet."""
    _again: deque[Unsent] = field(default_factory=deque)
    """One by one."""
    _fresh: deque[Unsent] = field(default_factory=deque)
    _batches: dict[int, InFlight] = field(default_factory=dict)
    _firsts: list[int] = field(default_factory=list)
    """The keys of `_batches`, which rise."""
    _waiting: int = 0
    """Items in `entries`."""
    _room: tuple[int, int] = (0, 0)
    _received: tuple[int, int] = (0, 0)
    _unstored: deque[tuple[int, int, int, int]] = field(default_factory=deque)
    """PUTs that the host may lack: number in the line, bytes, first item and count."""
    _unstored_bytes: int = 0

    @property
    def idle(self) -> bool:
        """True if everything admitted was sent, and nothing waits for room."""
        return not (self.entries or self._again or self._fresh or self.put_buffer.items)

    @property
    def unsettled(self) -> int:
        return self.last + len(self.put_buffer.items) - self.settled

    @property
    def handed_over(self) -> bool:
        """True if a host has, or had, everything that was put."""
        return self.idle and not self._unstored

    # -- from the program ------------------------------------------------------------------------

    def put(self, entry: PutRequest, *, first: bool = False) -> None:
        """Queue the items of `entry` behind those that wait already, or before them."""
        self._clear_tray()
        if first:
            self.entries.appendleft(entry)
        else:
            self.entries.append(entry)
        self._waiting += sum(map(count_of, entry.items))
        self.admit()

    def withdraw(self, entry: PutRequest) -> None:
        """Take back what was not admitted of `entry`; those behind it may be smaller, and fit."""
        if entry.items:
            self.entries.remove(entry)
            self._waiting -= sum(map(count_of, entry.items))
            entry.items.clear()
            self.gave_up = self.bounded
            self.admit()

    def bar(self) -> None:
        """Let nothing more in by way of the put buffer, in this session."""
        self.barred = True
        self._clear_tray()

    def admit(self) -> None:
        """Let in what there is room for."""
        self._clear_tray()
        while self._again and self._fits(1, self._again[0].body)[0]:
            again = self._again.popleft()
            self._use_room(1, len(again.body))
            self._fresh.append(again)
        while self.entries and not self._again:
            entry = self.entries[0]
            while entry.items:
                if not self._admit_from(entry):
                    return
            self.entries.popleft()
        self._open_tray()

    def _admit_from(self, entry: PutRequest) -> bool:
        """Let in what fits of the next that `entry` has; False if nothing does."""
        some = several(entry.items[0])
        count, body = some.count, some.body
        fits, size = self._fits(count, body)
        if fits < count and count > 1:
            entry.items.popleft()
            entry.items.extendleft(reversed(_pieces(count, body, fits, size)))
        if not fits:
            return False
        body = several(entry.items.popleft()).body
        self._waiting -= fits
        self._use_room(fits, size)
        self._fresh.append(Unsent(self.last + 1, fits, body, entry.to))
        self.last += fits
        entry.admitted += fits
        entry.last = self.last
        return True

    # -- to the host -----------------------------------------------------------------------------

    def need(self) -> CreditRequest | None:
        """The room to ask for; None when nothing waits for it."""
        items = len(self._again) + self._waiting
        if not (self.bounded and items):
            return None
        size, least = self._waiting_bytes() if self.bounded_bytes else (0, 0)
        if self._room[0] and self._room[1] >= least:
            return None  # it has its room, and waits for the host to have what is on its way
        used = self.used()
        return CreditRequest(used.items + min(items, MOST_ASKED), used.size + size, used.size + least)

    def used(self) -> CreditRequest:
        """The same, of an end that asks for nothing: all that it has used."""
        items, size = self._received[0] - self._room[0], self._received[1] - self._room[1]
        return CreditRequest(items, size, 0)

    def messages(self) -> Iterator[QueueMessage]:
        """PUT messages for all that was admitted and not sent."""
        self._clear_tray()
        while self._fresh:
            fresh = self._fresh.popleft()
            first, count, body, to = fresh.first, fresh.count, fresh.body, fresh.to
            parts, size = [body], len(body)
            while self._fresh and count < BATCH_ITEMS:
                fresh = self._fresh[0]
                more, body = fresh.count, fresh.body
                if fresh.first != first + count or fresh.to != to:
                    break
                if count + more > BATCH_ITEMS or size + len(body) > BATCH_BYTES:
                    break
                self._fresh.popleft()
                parts.append(body)
                count += more
                size += len(body)
            body = b"".join(parts) if len(parts) > 1 else parts[0]
            self._firsts.append(first)
            self._batches[first] = InFlight(first, count, body, to, [(first, first + count - 1)])
            yield QueueMessage(QueueMessageType.PUT, (first, count, to), body)
        if not (self.entries or self._again):
            self._open_tray()

    def sent(self, line_number: int, size: int, first: int, count: int) -> None:
        """A PUT of `size` bytes, with items from `first` on, went out as message `line_number`."""
        self._unstored.append((line_number, size, first, count))

    def number(self) -> int:
        """Give what lies in the put buffer its numbers, and return the last."""
        self._clear_tray()
        if not (self.entries or self._again):
            self._open_tray()
        return self.last

    def unsent(self, upto: int) -> int:
        """How many items up to that number have not been sent to this host."""
        return sum(_share(one.first, one.count, upto) for one in (*self._again, *self._fresh))

    def unstored(self, upto: int) -> int:
        """How many items up to that number the host may not have: never sent, or not confirmed."""
        waiting = sum(_share(first, count, upto) for _, _, first, count in self._unstored)
        return waiting + self.unsent(upto)

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
        self._clear_tray()
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
        self._clear_tray()
        self.bounded = bool(maxsize or maxbytes)
        self.bounded_bytes = maxbytes
        self._room = self._received = (0, 0)
        self._unstored.clear()
        self._unstored_bytes = 0
        self.gave_up = False
        again = [one for fresh in (*self._fresh, *self._again) for one in one_by_one(fresh)]
        self._fresh.clear()
        for batch in list(self._batches.values()):
            if batch.first + batch.count - 1 > stored:
                again += [Unsent(number, 1, item, batch.to) for number, item in batch.items()]
                del self._batches[batch.first]
        self._firsts = list(self._batches)
        self._again = deque(sorted(again))

    # -- inside ----------------------------------------------------------------------------------

    def _fits(self, count: int, body: bytes) -> tuple[int, int]:
        """How many of the `count` items of `body` there is room for now, and their bytes."""
        size = len(body)
        if self._unstored_bytes and self._unstored_bytes + size > UNSTORED_BYTES:
            return 0, 0
        if not self.bounded:
            return count, size
        most = min(count, self._room[0])
        room = self._room[1] if self.bounded_bytes else size
        if most == count and room >= size:
            return count, size
        return item_codec.fitting(body, most, room) if count > 1 and most else (0, 0)

    def _waiting_bytes(self) -> tuple[int, int]:
        """Of what waits: how many bytes to ask for, and how many its next item has."""
        size = items = least = 0
        for count, body in self._all_waiting():
            least = least or (len(body) if count == 1 else item_codec.cut(body, 1))
            items += count
            size += len(body)
            if items >= MOST_ASKED or size >= self.bounded_bytes:
                break
        return max(least, min(size, self.bounded_bytes)), least

    def _all_waiting(self) -> Iterator[tuple[int, bytes]]:
        for again in self._again:
            yield 1, again.body
        for entry in self.entries:
            for item in entry.items:
                some = several(item)
                yield some.count, some.body

    def _use_room(self, count: int, size: int) -> None:
        self._unstored_bytes += size
        if self.bounded:
            self._room = (self._room[0] - count, self._room[1] - size if self.bounded_bytes else 0)

    def _open_tray(self) -> None:
        """Set room aside for what may come by way of the put buffer: it is used when that is cleared."""
        if self.barred or self._unstored_bytes > UNSTORED_BYTES // 2:
            return
        items, size = self._room
        self.put_buffer.open(items if self.bounded else ANY, size if self.bounded_bytes else ANY)

    def _clear_tray(self) -> None:
        """Give numbers to what came by way of the put buffer: it was admitted when it got there."""
        for count, body in packed(self.put_buffer.clear(), BATCH_ITEMS, BATCH_BYTES):
            self._use_room(count, len(body))
            self._fresh.append(Unsent(self.last + 1, count, body, None))
            self.last += count

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


def _share(first: int, count: int, upto: int) -> int:
    """How many of `count` numbers from `first` on are up to that one."""
    return max(0, min(count, upto - first + 1))


def _pieces(count: int, body: bytes, fits: int, size: int) -> list[bytes | Batch]:
    """`count` items cut up: those that fit, which take `size` bytes; the next one; the rest."""
    pieces: list[bytes | Batch] = []
    if fits:
        pieces.append(Batch(fits, body[:size]))
    after = size + item_codec.cut(body[size:], 1)
    pieces.append(body[size:after])
    if count - fits > 1:
        pieces.append(Batch(count - fits - 1, body[after:]))
    return pieces
