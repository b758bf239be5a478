"""The put side of a client, pure: the put buffer, batches, credit, and items that are not settled.

An item is kept from `put` until it is settled::

    put -> PutRequest (waits for room) -> Unsent (has a number) -> InFlight (sent) -> settled
    put -> PutBuffer (has its room) ------^

Small items of single puts collect in the `PutBuffer` until the client's driver takes them, so that a put that
need not wait does not use the protocol's lock. Items in flight are resent to a broker that restarted without
them. If broker and client share memory, the items are there (`shared_ring.OwnRing`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from nearfar.errors import ProtocolError
from nearfar.queues.client.put_buffer import ANY, PutBuffer, packed
from nearfar.queues.messages import QueueMessage, QueueMessageType
from nearfar.serialization import item_codec
from nearfar.serialization.item_codec import (
    Encoded,
    Parts,
    joined,
)
from nearfar.serialization.shared_ring import SIZE, OwnRing, Place


@dataclass(frozen=True, slots=True)
class Batch:
    """Concatenated items."""

    count: int
    body: Encoded


@dataclass(order=True, frozen=True, slots=True)
class Unsent:
    """Items with numbers, not sent yet."""

    first: int
    count: int
    body: Encoded
    to: str | None


@dataclass(slots=True, eq=False)
class PutRequest:
    """Items of one call of `put` or `put_many` that wait for room: single ones, or each `Batch` as one."""

    items: deque[Encoded | Batch]
    to: str | None = None
    admitted: int = 0
    last: int = 0
    """The number of the last item admitted."""


@dataclass(slots=True)
class InFlight:
    """Items sent in one message and not all settled."""

    first: int
    count: int
    body: bytes | Place
    to: str | None
    open: list[tuple[int, int]]
    """The ranges of numbers that are not settled."""

    def settle(self, first: int, last: int) -> int:
        """Settle items `first` to `last`; returns how many of them were not settled before."""
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

    def items(self, body: bytes) -> Iterator[tuple[int, bytes]]:
        """The items that are not settled, with their numbers; `body` is that of this message."""
        items = list(item_codec.split(body))
        for start, stop in self.open:
            for number in range(start, stop + 1):
                yield number, items[number - self.first]


def several(item: Encoded | Batch) -> Batch:
    """An item, or a batch, as a batch."""
    return item if isinstance(item, Batch) else Batch(1, item)


def count_of(item: Encoded | Batch) -> int:
    """The number of items."""
    return item.count if isinstance(item, Batch) else 1


def one_by_one(fresh: Unsent) -> Iterator[Unsent]:
    """Each item of `fresh` as an `Unsent` of its own."""
    for number, body in enumerate(item_codec.split(joined(fresh.body)), fresh.first):
        yield Unsent(number, 1, body, fresh.to)


BATCH_ITEMS = 2048
BATCH_BYTES = 960 * 1024
MOST_ASKED = 4096
"""Items for which room is requested at once, at most."""
MOST_ROOM = 1 << 62
"""Items, and bytes, that a broker may grant in one session: larger numbers could not be sent back."""
UNSTORED_BYTES = 64 * 1024 * 1024
"""Bytes that may be on their way to the broker at once (a single larger item may be sent alone)."""
PLACED = 8 * 1024
"""Bytes of a message's items above which sharing them costs less than sending them, ..."""
PLACED_EACH = 512
"""... if they have this many on average: for small items, other costs dominate."""
CROWDED = 3 * SIZE // 4
"""Bytes of backlog above which puts should wait for the consumers, while these take items."""
EASED = SIZE // 2
"""Bytes of backlog down to which such puts wait."""
MUCH = 256 * 1024
"""Bytes of such messages after which memory is shared: a new ring costs as much as sending some."""


class CreditRequest(NamedTuple):
    """The requested room, as totals since the session began, so that crossing messages count only once."""

    items: int
    size: int
    """Bytes; 0 if they are not bounded."""
    least: int
    """Bytes that the next item needs."""


@dataclass(slots=True)
class Settled:
    """The outcome of one item, or of several that were simply done."""

    first: int
    count: int
    outcome: int
    answer: bytes | None


@dataclass(slots=True)
class ItemSender:
    """Everything that one client put. `bounded` and `bounded_bytes` are known from WELCOME on."""

    bounded: bool = True
    bounded_bytes: int = 0
    last: int = 0
    """The number of the last item admitted."""
    settled: int = 0
    entries: deque[PutRequest] = field(default_factory=deque)
    outcomes: deque[Settled] = field(default_factory=deque)
    """The outcomes other than "done", until `ProducerCalls.outcomes` takes them."""
    put_buffer: PutBuffer = field(default_factory=PutBuffer)
    gave_up: bool = False
    """Whether items were withdrawn for which the broker may have granted room: it must be notified."""
    barred: bool = True
    """Whether the put buffer must not be used: the queue is closed or shut down, or there is no session."""
    ring: OwnRing | None = None
    """The memory that is shared with the broker, if any."""
    places: bool = False
    """Whether the broker of this session has opened the ring."""
    overtaken: bool = False
    """Whether the consumers took no items while a put waited for that: then puts do not wait, and their items
    are sent over the socket, until the backlog is `EASED`."""
    large: int = 0
    """Bytes of messages that were sent in this session and could have been shared."""
    _again: deque[Unsent] = field(default_factory=deque)
    """Items to resend, one by one."""
    _fresh: deque[Unsent] = field(default_factory=deque)
    _batches: dict[int, InFlight] = field(default_factory=dict)
    _firsts: list[int] = field(default_factory=list)
    """The keys of `_batches`, in ascending order."""
    _waiting: int = 0
    """Items in `entries`."""
    _room: tuple[int, int] = (0, 0)
    _received: tuple[int, int] = (0, 0)
    _unstored: deque[tuple[int, int, int, int]] = field(default_factory=deque)
    """PUTs that the broker may lack: message number, bytes, first item and count."""
    _unstored_bytes: int = 0

    @property
    def idle(self) -> bool:
        """True if everything admitted was sent, and no items wait for room."""
        return not (self.entries or self._again or self._fresh or self.put_buffer.items)

    @property
    def unsettled(self) -> int:
        return self.last + len(self.put_buffer.items) - self.settled

    @property
    def backlog(self) -> int:
        """Bytes of items that the consumers have not settled, or the broker has not received, with shared
        memory; 0 without it."""
        return max(self.ring.used, self._unstored_bytes) if self.ring is not None else 0

    @property
    def crowded(self) -> bool:
        """Whether puts should wait for the consumers before the ring is full."""
        return self.backlog > CROWDED and not self.overtaken

    @property
    def handed_over(self) -> bool:
        """True if the present broker, or an earlier one, has received everything that was put."""
        return self.idle and not self._unstored

    # -- from the program ------------------------------------------------------------------------

    def put(self, entry: PutRequest, *, first: bool = False) -> None:
        """Queue the items of `entry` behind those that wait already, or before them."""
        self._clear_put_buffer()
        if first:
            self.entries.appendleft(entry)
        else:
            self.entries.append(entry)
        self._waiting += sum(map(count_of, entry.items))
        self.admit()

    def withdraw(self, entry: PutRequest) -> None:
        """Withdraw the items of `entry` that were not admitted; later ones may be smaller, and fit."""
        if entry.items:
            self.entries.remove(entry)
            self._waiting -= sum(map(count_of, entry.items))
            entry.items.clear()
            self.gave_up = self.bounded
            self.admit()

    def bar(self) -> None:
        """Close the put buffer for this session."""
        self.barred = True
        self._clear_put_buffer()

    def admit(self) -> None:
        """Admit the items for which there is room."""
        self._clear_put_buffer()
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
        self._open_put_buffer()

    def _admit_from(self, entry: PutRequest) -> bool:
        """Admit as many of the next items of `entry` as fit; False if none does."""
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

    # -- to the broker ---------------------------------------------------------------------------

    def need(self) -> CreditRequest | None:
        """The room to request; None if no items wait for it."""
        items = len(self._again) + self._waiting
        if not (self.bounded and items):
            return None
        size, least = self._waiting_bytes() if self.bounded_bytes else (0, 0)
        if self._room[0] and self._room[1] >= least:
            return None  # there is room: the items wait until the broker has acked those in flight
        used = self.used()
        return CreditRequest(used.items + min(items, MOST_ASKED), used.size + size, used.size + least)

    @property
    def holds_room(self) -> bool:
        """Whether there is room here; if the next item needs more, it was added after the last request."""
        return self._room != (0, 0)

    def used(self) -> CreditRequest:
        """The totals of a client that requests nothing: the room that it has used."""
        items, size = self._received[0] - self._room[0], self._received[1] - self._room[1]
        return CreditRequest(items, size, 0)

    def messages(self) -> list[QueueMessage]:
        """PUT messages for all that was admitted and not sent."""
        self._clear_put_buffer()
        made: list[QueueMessage] = []
        while self._fresh:
            fresh = self._fresh.popleft()
            first, count, body, to = fresh.first, fresh.count, fresh.body, fresh.to
            size = len(body)
            parts = [*body.pieces] if isinstance(body, Parts) else [body]
            while self._fresh and count < BATCH_ITEMS:
                fresh = self._fresh[0]
                more, body = fresh.count, fresh.body
                if fresh.first != first + count or fresh.to != to:
                    break
                if count + more > BATCH_ITEMS or size + len(body) > BATCH_BYTES:
                    break
                self._fresh.popleft()
                parts += item_codec.pieces(body)
                count += more
                size += len(body)
            place = self._place(parts, size) if size >= max(PLACED, count * PLACED_EACH) else None
            sent = place or (b"".join(parts) if len(parts) > 1 else parts[0])
            self._firsts.append(first)
            self._batches[first] = InFlight(first, count, sent, to, [(first, first + count - 1)])
            made.append(QueueMessage(QueueMessageType.PUT, (first, count, to), sent))
        if not (self.entries or self._again):
            self._open_put_buffer()
        return made

    def _place(self, parts: list[bytes], size: int) -> Place | None:
        """Share the items of a message; None if they must be sent."""
        if self.places and self.ring is not None:
            return None if self.overtaken else self.ring.place(parts, size)
        self.large += size
        return None

    def sent(self, line_number: int, size: int, first: int, count: int) -> None:
        """Record that a PUT of `size` bytes, with items from `first` on, was sent as `line_number`."""
        self._unstored.append((line_number, size, first, count))

    def arrived(self, size: int) -> None:
        """Record that a broker in this process has a PUT of `size` bytes, as soon as it was sent."""
        self._unstored_bytes -= size
        if self.entries or self._again:
            self.admit()

    def number(self) -> int:
        """Number the items in the put buffer, and return the last number."""
        self._clear_put_buffer()
        if not (self.entries or self._again):
            self._open_put_buffer()
        return self.last

    def unsent(self, upto: int) -> int:
        """How many items up to that number were not sent to this broker."""
        return sum(_share(one.first, one.count, upto) for one in (*self._again, *self._fresh))

    def unstored(self, upto: int) -> int:
        """How many items up to that number the broker may lack: not sent, or not acked."""
        waiting = sum(_share(first, count, upto) for _, _, first, count in self._unstored)
        return waiting + self.unsent(upto)

    # -- from the broker -------------------------------------------------------------------------

    def acked(self, line_number: int) -> None:
        """Record that the broker has every message up to `line_number`."""
        if not self._unstored or self._unstored[0][0] > line_number:
            return
        while self._unstored and self._unstored[0][0] <= line_number:
            self._unstored_bytes -= self._unstored.popleft()[1]
        self.admit()

    def gain(self, items: int, size: int) -> None:
        """Add room that the broker granted. Raises `ProtocolError` for a total above `MOST_ROOM`."""
        if max(self._received[0] + items, self._received[1] + size) > MOST_ROOM:
            raise ProtocolError(f"room for {items} items and {size} bytes: the total is too large")
        self._room = (self._room[0] + items, self._room[1] + size)
        self._received = (self._received[0] + items, self._received[1] + size)

    def spare(self) -> tuple[int, int]:
        """Give back unused room, and return it."""
        self._clear_put_buffer()
        room = self._room
        self._room = (0, 0)
        self._received = (self._received[0] - room[0], self._received[1] - room[1])
        return room

    def settle(self, rows: Iterable[tuple[int, int, int, bytes | None]]) -> None:
        """Record outcomes from the broker, perhaps repeated: (first, count, outcome, answer)."""
        for first, count, outcome, answer in rows:
            if self._settle(first, first + count - 1) and outcome:
                self.outcomes.append(Settled(first, count, outcome, answer))

    def begin(self, stored: int, *, maxsize: int, maxbytes: int) -> None:
        """Begin a session: the broker has, or had, everything up to number `stored`; send the rest again."""
        self._clear_put_buffer()
        self.bounded = bool(maxsize or maxbytes)
        self.bounded_bytes = maxbytes
        self._room = self._received = (0, 0)
        self._unstored.clear()
        self._unstored_bytes = 0
        self.gave_up = self.places = False
        self.large = 0
        again = [one for fresh in (*self._fresh, *self._again) for one in one_by_one(fresh)]
        self._fresh.clear()
        for batch in list(self._batches.values()):
            if batch.first + batch.count - 1 > stored:
                body = self._forget(batch.first)
                again += [Unsent(number, 1, item, batch.to) for number, item in batch.items(body)]
        self._firsts = list(self._batches)
        self._again = deque(sorted(again))

    # -- inside ----------------------------------------------------------------------------------

    def _fits(self, count: int, body: Encoded) -> tuple[int, int]:
        """How many of the `count` items of `body` fit into the room now, and their bytes."""
        size = len(body)
        if self._unstored_bytes and self._unstored_bytes + size > UNSTORED_BYTES:
            return 0, 0
        if not self.bounded:
            return count, size
        most = min(count, self._room[0])
        room = self._room[1] if self.bounded_bytes else size
        if most == count and room >= size:
            return count, size
        return item_codec.fitting(joined(body), most, room) if count > 1 and most else (0, 0)

    def _waiting_bytes(self) -> tuple[int, int]:
        """The bytes to request for the waiting items, and those of the next one."""
        size = items = least = 0
        for count, body in self._all_waiting():
            least = least or (len(body) if count == 1 else item_codec.cut(joined(body), 1))
            items += count
            size += len(body)
            if items >= MOST_ASKED or size >= self.bounded_bytes:
                break
        return max(least, min(size, self.bounded_bytes)), least

    def _all_waiting(self) -> Iterator[tuple[int, Encoded]]:
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

    def _open_put_buffer(self) -> None:
        """Reserve room for the put buffer: it is used when the buffer is cleared."""
        if self.barred or self._unstored_bytes > UNSTORED_BYTES // 2:
            return
        items, size = self._room
        self.put_buffer.open(items if self.bounded else ANY, size if self.bounded_bytes else ANY)

    def _clear_put_buffer(self) -> None:
        """Number the items of the put buffer, which were admitted when they were added."""
        items = self.put_buffer.clear()
        for count, body in packed(items, BATCH_ITEMS, BATCH_BYTES) if items else ():
            self._use_room(count, len(body))
            self._fresh.append(Unsent(self.last + 1, count, body, None))
            self.last += count

    def _settle(self, first: int, last: int) -> int:
        """Settle the open ones of items `first` to `last`; returns how many there were."""
        start = max(0, bisect_right(self._firsts, first) - 1)
        stop = bisect_right(self._firsts, last)
        settled, still_open = 0, []
        for number in self._firsts[start:stop]:
            batch = self._batches[number]
            settled += batch.settle(first, last)
            if batch.open:
                still_open.append(number)
            else:
                self._free(self._batches.pop(number).body)
        self._firsts[start:stop] = still_open
        self.settled += settled
        return settled

    def _forget(self, first: int) -> bytes:
        """Remove a message that will be resent; returns its body."""
        body = self._batches.pop(first).body
        if isinstance(body, Place):
            assert self.ring is not None
            place, body = body, self.ring.read(body)
            self.ring.give_back(place)
        return body

    def _free(self, body: bytes | Place) -> None:
        if isinstance(body, Place) and self.ring is not None:
            self.ring.give_back(body)
            self.overtaken = self.overtaken and self.backlog > EASED

    def end(self) -> None:
        """Stop sharing memory, after the last session: the broker keeps what it needs."""
        if self.ring is not None:
            self.ring.close()
            self.ring, self.places = None, False


def _share(first: int, count: int, upto: int) -> int:
    """How many of `count` numbers from `first` on are at most `upto`."""
    return max(0, min(count, upto - first + 1))


def _pieces(count: int, encoded: Encoded, fits: int, size: int) -> list[Encoded | Batch]:
    """`count` items in pieces: the `fits` ones that fit, of `size` bytes; the next one; the rest."""
    body = joined(encoded)
    pieces: list[Encoded | Batch] = []
    if fits:
        pieces.append(Batch(fits, body[:size]))
    after = size + item_codec.cut(body[size:], 1)
    pieces.append(body[size:after])
    if count - fits > 1:
        pieces.append(Batch(count - fits - 1, body[after:]))
    return pieces
