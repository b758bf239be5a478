"""The putting half of an end, as a pure machine: from `put` to the host, and kept until the item is settled.

::

    put -> Entry (waits for room) -> fresh (has a number) -> Batch (sent) -> settled
    put -> Tray (has its room) ------^

What is in a Batch is sent again to a host that comes back without it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from nearfar.errors import ProtocolError
from nearfar.net import codec
from nearfar.queues.ends.batches import (
    Batch,
    Entry,
    Fresh,
    Several,
    count_of,
    one_by_one,
    several,
)
from nearfar.queues.ends.tray import ANY, Tray, packed
from nearfar.queues.wire import Kind, Message

BATCH_ITEMS = 512
BATCH_BYTES = 240 * 1024
MOST_ASKED = 4096
"""Items that room is asked for at once."""
MOST_ROOM = 1 << 62
"""Items, and bytes, that a host may grant in one session: more could not be told back."""
UNSTORED_BYTES = 64 * 1024 * 1024
"""Bytes that may be on their way to the host at once (a single larger item may go alone)."""


class Need(NamedTuple):
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
    tray: Tray = field(default_factory=Tray)
    gave_up: bool = False
    """Something was withdrawn for which the host may have granted room: it is to be told so."""
    barred: bool = True
    """Nothing is to be put by way of the tray: the queue is closed, or shut, or not known yet."""
    _again: deque[Fresh] = field(default_factory=deque)
    """One by one."""
    _fresh: deque[Fresh] = field(default_factory=deque)
    _batches: dict[int, Batch] = field(default_factory=dict)
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
        return not (self.entries or self._again or self._fresh or self.tray.items)

    @property
    def unsettled(self) -> int:
        return self.last + len(self.tray.items) - self.settled

    @property
    def handed_over(self) -> bool:
        """True if a host has, or had, everything that was put."""
        return self.idle and not self._unstored

    # -- from the program ------------------------------------------------------------------------

    def put(self, entry: Entry, *, first: bool = False) -> None:
        """Queue the items of `entry` behind those that wait already, or before them."""
        self._clear_tray()
        if first:
            self.entries.appendleft(entry)
        else:
            self.entries.append(entry)
        self._waiting += sum(map(count_of, entry.items))
        self.admit()

    def withdraw(self, entry: Entry) -> None:
        """Take back what was not admitted of `entry`; those behind it may be smaller, and fit."""
        if entry.items:
            self.entries.remove(entry)
            self._waiting -= sum(map(count_of, entry.items))
            entry.items.clear()
            self.gave_up = self.bounded
            self.admit()

    def bar(self) -> None:
        """Let nothing more in by way of the tray, in this session."""
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

    def _admit_from(self, entry: Entry) -> bool:
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
        self._fresh.append(Fresh(self.last + 1, fits, body, entry.to))
        self.last += fits
        entry.admitted += fits
        entry.last = self.last
        return True

    # -- to the host -----------------------------------------------------------------------------

    def need(self) -> Need | None:
        """The room to ask for; None when nothing waits for it."""
        items = len(self._again) + self._waiting
        if not (self.bounded and items):
            return None
        size, least = self._waiting_bytes() if self.bounded_bytes else (0, 0)
        if self._room[0] and self._room[1] >= least:
            return None  # it has its room, and waits for the host to have what is on its way
        used = self.used()
        return Need(used.items + min(items, MOST_ASKED), used.size + size, used.size + least)

    def used(self) -> Need:
        """The same, of an end that asks for nothing: all that it has used."""
        items, size = self._received[0] - self._room[0], self._received[1] - self._room[1]
        return Need(items, size, 0)

    def messages(self) -> Iterator[Message]:
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
            self._batches[first] = Batch(first, count, body, to, [(first, first + count - 1)])
            yield Message(Kind.PUT, (first, count, to), body)
        if not (self.entries or self._again):
            self._open_tray()

    def sent(self, line_number: int, size: int, first: int, count: int) -> None:
        """A PUT of `size` bytes, with items from `first` on, went out as message `line_number`."""
        self._unstored.append((line_number, size, first, count))

    def number(self) -> int:
        """Give what lies in the tray its numbers, and return the last."""
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
                again += [Fresh(number, 1, item, batch.to) for number, item in batch.items()]
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
        return codec.fitting(body, most, room) if count > 1 and most else (0, 0)

    def _waiting_bytes(self) -> tuple[int, int]:
        """Of what waits: how many bytes to ask for, and how many its next item has."""
        size = items = least = 0
        for count, body in self._all_waiting():
            least = least or (len(body) if count == 1 else codec.cut(body, 1))
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
        """Set room aside for what may come by way of the tray: it is used when that is cleared."""
        if self.barred or self._unstored_bytes > UNSTORED_BYTES // 2:
            return
        items, size = self._room
        self.tray.open(items if self.bounded else ANY, size if self.bounded_bytes else ANY)

    def _clear_tray(self) -> None:
        """Give numbers to what came by way of the tray: it was admitted when it got there."""
        for count, body in packed(self.tray.clear(), BATCH_ITEMS, BATCH_BYTES):
            self._use_room(count, len(body))
            self._fresh.append(Fresh(self.last + 1, count, body, None))
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


def _pieces(count: int, body: bytes, fits: int, size: int) -> list[bytes | Several]:
    """`count` items cut up: those that fit, which take `size` bytes; the next one; the rest."""
    pieces: list[bytes | Several] = []
    if fits:
        pieces.append(Several(fits, body[:size]))
    after = size + codec.cut(body[size:], 1)
    pieces.append(body[size:after])
    if count - fits > 1:
        pieces.append(Several(count - fits - 1, body[after:]))
    return pieces
