"""The get side of a client, pure: the prefetch window, deliveries, and acks.

Every item has a *position* in the session (see `broker.records.Deliveries`). The window is the number of
items that the broker may lend in advance: those that calls wait for now, and as many more as the program
lately took in `AHEAD` seconds. So a fast consumer never waits, and a slow one holds no items that another
could take.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import partial
from itertools import count, repeat
from math import inf
from typing import Any

from nearfar.errors import ItemError, ProtocolError
from nearfar.queues.client.deliveries import (
    NOTHING,
    AckBatch,
    DeliveredBatch,
    DeliveredChunk,
    DeliveredItem,
    Hand,
    Holdings,
    Unreadable,
    extend,
)
from nearfar.queues.messages import (
    LONGEST_ANSWER,
    QueueMessage,
    QueueMessageType,
)
from nearfar.serialization.shared_ring import Place, ReadRings

LINGER = 0.01
"""Seconds that a report of takes may wait for more of them."""
AHEAD = 0.02
"""The size of the buffer, in seconds of the program's work."""
PAUSE = 0.05
"""Seconds without a take after which the items in the buffer are returned, for other consumers."""


@dataclass(slots=True)
class RateEstimator:
    """Estimates the seconds per take. The clock is read once for many takes: the `untimed` ones before are
    assumed to be spread evenly."""

    since: float = -PAUSE
    """When the last item was taken, by the last reading of the clock."""
    seconds: float = AHEAD
    """Seconds from one take to the next, smoothed."""
    untimed: int = 0

    def time(self, now: float) -> None:
        """Include the untimed takes up to `now` in the estimate."""
        takes = self.untimed
        if takes:
            self.untimed = 0
            each = min((now - self.since) / takes, AHEAD)
            self.seconds += (each - self.seconds) * (1 - 0.875**takes)
            self.since = now

    def waited(self, since: float, now: float) -> None:
        """Exclude the time from `since` to `now`, in which the program waited for an item."""
        self.time(since)
        self.since += now - since


MOST_AHEAD = 4000
"""Items that may be in the buffer."""
WINDOW_BYTES = 8 * 1024 * 1024
HEAVY = 1024 * 1024
"""Bytes taken after which a report is sent at once."""
HEAVIEST = 512 * 1024
"""Bytes of items after which no further batch is decoded in advance: recently used memory is in the cache."""
FEW = 16
"""Takes that need not be reported at once."""
_make_taken = partial(tuple.__new__, DeliveredItem)
"""Makes a `DeliveredItem` in one step in C."""


@dataclass(slots=True)
class ItemReceiver:
    """The items lent to one client in one session."""

    trusted: bool = False
    taken: int = 0
    closed: bool = False
    """The window is 0, even if calls wait."""
    waiters: int = 0
    """Items that calls of the program wait for now."""
    buffered: int = 0
    hands: Holdings = field(default_factory=Holdings)
    """The positions that the program holds; the holder is a thread, or 0 for a delivery."""
    session: int = 0
    hand: Hand = field(default_factory=Hand)
    rings: ReadRings = field(default_factory=ReadRings)
    """The shared memory in which items may come."""
    blind: bool = False
    """Some of it could not be read: the broker must send the items over the socket."""
    due: int = 16
    """Takes after which a report is due."""
    heavy: int = 0
    """Bytes of the batches fully taken since the last report."""
    average: int = 0
    """The average bytes of an item in the latest batch."""
    rests: bool = False
    """The program has settled everything that it held: others may wait for that."""
    chunk: DeliveredChunk | None = None
    """The items handed out, to be taken without the lock."""
    _buffer: deque[DeliveredBatch] = field(default_factory=deque)
    _last: int = 0
    _ack_batch: AckBatch = field(default_factory=AckBatch)
    told_taken: int = 0
    told_at: float = 0.0
    """When the broker was last told everything."""
    few: int = MOST_AHEAD
    """Takes of which the broker must be told at once, as they free much of the room that puts may wait for;
    half of the buffer, without a bound."""
    little: int = HEAVY
    """The same in bytes."""
    _told_window: int = 0
    _pace: RateEstimator = field(default_factory=RateEstimator)

    def bound(self, maxsize: int, maxbytes: int) -> None:
        """Tell of takes in time for the puts to a queue with these bounds (0: none)."""
        if maxsize:
            self.few = min(self.few, -(-maxsize // 8))
        if maxbytes:
            self.little = min(self.little, -(-maxbytes // 8))

    # -- from the broker -------------------------------------------------------------------------

    def lend(self, position: int, count: int, attempt: int, body: bytes | Place) -> None:
        """Store a batch in the buffer. Raises `ProtocolError` if another position is the next one."""
        if position != self._last + 1:
            raise ProtocolError(f"item {position} comes where {self._last + 1} is next")
        size = len(body)
        self._buffer.append(DeliveredBatch(position, count, attempt, body, None, 0, size))
        self._last += count
        self.buffered += count
        self.average = size // count
        self.due = max(FEW, self.buffered // 2)

    def at_hand(self) -> bool:
        """Whether there are items in the buffer; withdraws those that could be taken without the lock."""
        if self.chunk is not None or self.hand.acks:
            self.collect()
        return bool(self._buffer) and self._next() is not None

    def waited(self, since: float, now: float) -> None:
        """Exclude a wait of the program from its rate."""
        self._pace.waited(since, now)

    # -- from the program ------------------------------------------------------------------------

    def take(self, thread: int, now: float) -> DeliveredItem | None:
        """The next item; None when the buffer is empty.

        Raises the error of decoding the item, once: the item becomes a dead letter.
        """
        if self.chunk is not None or self.hand.acks:
            self.collect()
        delivered_batch = self._next()
        if delivered_batch is None:
            return None
        position = delivered_batch.position
        item = delivered_batch.items[delivered_batch.at]  # type: ignore[index]
        self._step(1)
        self._pace.time(now)
        if isinstance(item, Unreadable):
            extend(self._ack_batch.unreadable, position)
            unpickling = isinstance(item.error, ItemError) and item.error.__cause__
            raise unpickling or item.error
        self.hands.add(position, position, thread)
        return DeliveredItem(position, item, delivered_batch.attempt, self.session)

    def hand_out(self, holder: int, thread: int, most: int, *, settles: bool, whole: bool) -> None:
        """Let `thread` take up to `most` of the next items without the lock, for `holder`.

        With `settles`, each item is acked when the thread takes its next one, including the one it holds now.
        With `whole` it takes each as a `DeliveredItem`.
        """
        self.collect()
        if self._next() is None:
            return
        items: list[Any] = []
        heavy = 0
        for delivered_batch in self._buffer:
            heavy += delivered_batch.weight
            if delivered_batch.items is None and (heavy > HEAVIEST or not self._read(delivered_batch)):
                break
            if not delivered_batch.plain or delivered_batch.items is None or len(items) >= most:
                break
            some = delivered_batch.items[
                delivered_batch.at : delivered_batch.at + min(most - len(items), delivered_batch.count)
            ]
            if whole:
                each = zip(
                    count(delivered_batch.position),
                    some,
                    repeat(delivered_batch.attempt),
                    repeat(self.session),
                )
                some = list(map(_make_taken, each))
            items += some
        if not items:
            return
        first, size = self._buffer[0].position, len(items)
        holding = self.taken if settles and self.hands.holder_of(self.taken) == holder else 0
        self.chunk = chunk = DeliveredChunk(self.session, first, deque(items), size, holder, settles, holding)
        portion = (thread, chunk.items, chunk)
        if whole:
            self.hand.receiving = portion
        else:
            self.hand.getting = portion

    def count(self) -> None:
        """Count what was taken and acked without the lock."""
        chunk = self.chunk
        if chunk is not None and (taken := chunk.taken()) > chunk.counted:
            self._note_taken(chunk, taken)
        if self.hand.acks:
            self._count_acks()

    def _count_acks(self) -> None:
        acks, number = self.hand.acks, self.session
        some = acks[:]
        del acks[: len(some)]
        first, last = 0, -1
        for position, _, _, session in some:
            if session == number:
                if position == last + 1:
                    last = position
                else:
                    if first:
                        self._done(first, last)
                    first = last = position
        if first:
            self._done(first, last)
        self.rests = not self.hands and not self.buffered

    def collect(self) -> None:
        """As `count`, and withdraw the items that were handed out and not taken."""
        chunk = self.chunk
        if chunk is not None:
            self.hand.getting = self.hand.receiving = NOTHING
            chunk.take_away()
        self.count()
        self.chunk = None

    def taken_from(self, chunk: DeliveredChunk, lying: int) -> int:
        """The position of the item that a thread took from `chunk` when it had `lying` items; 0 for none."""
        self.count()
        return chunk.first + chunk.size - lying if chunk.taken() > chunk.size - lying else 0

    def _note_taken(self, chunk: DeliveredChunk, taken: int) -> None:
        first, last = chunk.first + chunk.counted, chunk.first + taken - 1
        chunk.counted = taken
        if not chunk.settles:
            self.hands.add(first, last, chunk.holder)
        else:
            self._done(chunk.holding)
            if last > first:
                extend(self._ack_batch.done, first, last - 1)
            self.hands.add(last, last, chunk.holder)
            chunk.holding = last
        self._step(last - first + 1)

    def take_run(self, most: int, thread: int, now: float) -> tuple[int, list[Any]]:
        """The position of the next item, and up to `most` items from there; no items if the buffer is empty,
        or if `take` must be used."""
        self.collect()
        delivered_batch = self._next()
        if delivered_batch is None or not delivered_batch.plain:
            return 0, []
        position, count = delivered_batch.position, min(most, delivered_batch.count)
        items = delivered_batch.items[delivered_batch.at : delivered_batch.at + count]  # type: ignore[index]
        self.hands.add(position, position + count - 1, thread)
        self._step(count)
        self._pace.time(now)
        return position, items

    def let_go(self, position: int) -> None:
        """Return the item at `position`, which never reached the caller."""
        self.count()
        self._ack_batch.returned += self.hands.remove(position)

    def next_is_unreadable(self) -> bool:
        """True if the next `take` will raise."""
        delivered_batch = self._next() if self.at_hand() else None
        if delivered_batch is None:
            return False
        return isinstance(delivered_batch.items[delivered_batch.at], Unreadable)  # type: ignore[index]

    def done(self, position: int, answer: bytes | None = None) -> None:
        """Ack an item; a position that the program no longer holds is ignored.

        Raises `ItemError` for an answer that is too long to send; the program then still holds the item.
        """
        if answer is not None and len(answer) > LONGEST_ANSWER:
            raise ItemError(
                f"an answer of {len(answer)} bytes is too long: at most {LONGEST_ANSWER} can be sent"
            )
        self.count()
        if answer is None:
            self._done(position)
        elif self.hands.remove(position):
            self._ack_batch.answers.append([position, answer])
        self.rests = not self.hands and not self.buffered

    def _done(self, first: int, last: int = 0) -> None:
        for low, high in self.hands.remove(first, last):
            extend(self._ack_batch.done, low, high)

    def done_by(self, holder: int | None) -> None:
        """Ack everything that `holder` took; None: everything except what holder 0 took."""
        if self.chunk is not None or self.hand.acks:
            self.collect()
        if self.hands:
            for first, last in self.hands.remove_of(holder):
                extend(self._ack_batch.done, first, last)

    def done_oldest(self, holder: int) -> bool:
        """Ack the oldest item of `holder`, or else of any but holder 0; False if there is none."""
        self.count()
        oldest = self.hands.oldest(holder)
        if not oldest:
            return False
        self.done(oldest)
        return True

    def fail(self, position: int) -> None:
        """Nack an item."""
        self.count()
        if self.hands.remove(position):
            extend(self._ack_batch.failed, position)

    def give_back(self) -> None:
        """Return everything in the buffer."""
        self.collect()
        if self._buffer:
            self._ack_batch.returned.append([self._buffer[0].position, self._last])
            self._buffer.clear()
            self.buffered = 0

    # -- to the broker ---------------------------------------------------------------------------

    def window(self, now: float) -> int:
        """How many items may be in the buffer."""
        if self.closed:
            return 0
        pace = self._pace
        if pace.untimed:
            pace.time(now)
        if now - pace.since >= PAUSE:
            return self.waiters
        ahead = int(AHEAD / pace.seconds) if pace.seconds > AHEAD / MOST_AHEAD else MOST_AHEAD
        return ahead if ahead > self.waiters else self.waiters

    def untold(self) -> int:
        """How many items the program took whose outcome was not reported."""
        return len(self.hands) + self._ack_batch.ended

    def news(self) -> bool:
        """True if there is something to report, apart from the window."""
        batch = self._ack_batch
        return bool(
            self.taken != self.told_taken
            or batch.done
            or batch.failed
            or batch.unreadable
            or batch.returned
            or batch.answers
        )

    def takes_press(self) -> bool:
        """True if takes must be reported now."""
        untold = self.taken - self.told_taken
        return (
            untold >= self.due
            or untold >= self.few
            or self.heavy >= self.little
            or untold * self.average >= self.little
        )

    def report_is_due(self, now: float) -> bool:
        """True if a report is due now: the broker might lend too few or too many items, or others wait for
        what was taken or settled, or a report has waited for long enough."""
        told, waiters, batch = self._told_window, self.waiters, self._ack_batch
        rest = told + self.told_taken - self.taken
        if self.rests or rest < waiters or rest < told // 2:
            return True
        if batch.failed or batch.unreadable or batch.returned or batch.answers:
            return True
        if self.taken == self.told_taken and not batch.done:
            self.told_at = now
        elif now >= self.told_at + LINGER or self.takes_press():
            return True
        if told <= waiters:
            return False
        window = self.window(now)
        return window * 2 < told or (window < told and now - self._pace.since >= PAUSE)

    def idle_items(self) -> bool:
        """True if the buffer has more items than the program waits for."""
        return self.buffered > self.waiters

    def paused(self, now: float) -> bool:
        """True if the program stopped taking, so that surplus items should go to others."""
        self._pace.time(now)
        return now - self._pace.since >= PAUSE and self.idle_items()

    def due_at(self, *, pauses: bool) -> float:
        """When something is due, if nothing happens: a report, or with `pauses`, a smaller window because the
        program paused."""
        when = inf
        chunk = self.chunk
        if (chunk is not None and chunk.items) or self.news():  # what is taken without the lock is reported
            when = self.told_at + LINGER
        if pauses and (self.buffered > self.waiters or self._told_window > self.waiters):
            paused = self._pace.since + PAUSE
            return paused if paused < when else when
        return when

    def report(self, now: float, ask: int = 0) -> QueueMessage | None:
        """The REPORT to send; None if there is nothing new."""
        window = self.window(now)
        if not (ask or window != self._told_window or self.news()):
            return None
        self.told_taken, self._told_window, self.told_at = self.taken, window, now
        self.heavy, self.rests = 0, False
        self.due = max(FEW, self.buffered // 2)
        return QueueMessage(
            QueueMessageType.REPORT, (window, WINDOW_BYTES, ask, self.taken, *self._ack_batch.take())
        )

    def _next(self) -> DeliveredBatch | None:
        """The batch with the next item, decoded; None if the buffer is empty."""
        while self._buffer:
            delivered_batch = self._buffer[0]
            if delivered_batch.items is not None or self._read(delivered_batch):
                return delivered_batch
            self._buffer.popleft()
            self.buffered -= delivered_batch.count
        return None

    def _read(self, delivered_batch: DeliveredBatch) -> bool:
        """Decode a batch; False if its body cannot be read: then it is returned to the broker.

        That happens if this process cannot open the memory; the broker then sends the body. It also happens
        after this process was suspended for so long that others have received the items.
        """
        try:
            delivered_batch.read(self.rings, trusted=self.trusted)
        except (OSError, MemoryError):
            self.blind = True
            outcome = self._ack_batch.returned
        except ProtocolError:
            outcome = self._ack_batch.unreadable
        else:
            return True
        outcome.append([delivered_batch.position, delivered_batch.position + delivered_batch.count - 1])
        return False

    def _step(self, count: int) -> None:
        """Advance over the next `count` items, which were taken."""
        self._pace.untimed += count
        self.buffered -= count
        while count:
            delivered_batch = self._buffer[0]
            some = min(count, delivered_batch.count)
            count -= some
            self.taken = delivered_batch.position + some - 1
            delivered_batch.at += some
            delivered_batch.position += some
            delivered_batch.count -= some
            if not delivered_batch.count:
                self.heavy += delivered_batch.weight
                self._buffer.popleft()
