"""The get side of a client, as a pure machine: the prefetch window, deliveries, and acknowledgements.

The getting half of an end, as a pure machine: what the host lent, what the program took, what is done.

Every item has a *position* in the session (see `host.leases`). `window` is how much the host may lend ahead
of the program: what somebody waits for now, and as much more as the program lately took in a few
milliseconds, so that a quick consumer never waits and a slow one holds nothing that another could have.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import partial
from itertools import count, repeat
from typing import Any, NamedTuple

from nearfar.errors import ItemError, ProtocolError, Untrusted
from nearfar.queues.messages import (
    LONGEST_ANSWER,
    MOST_RANGES,
    QueueMessage,
    QueueMessageType,
    share_of_answers,
)
from nearfar.serialization import item_codec


class DeliveredItem(NamedTuple):
    """An item in the program's hands."""

    position: int
    item: Any
    attempt: int
    session: int = 0
    """Which session of its end the position belongs to."""


@dataclass(slots=True)
class DeliveredBatch:
    """A batch in the buffer; read when its first item is taken."""

    position: int
    count: int
    attempt: int
    body: bytes
    items: list[Any] | None = None
    at: int = 0
    """Where among `items` the next one is."""
    weight: int = 0
    """Bytes that all of it came in."""
    plain: bool = False
    """It was read, and nothing in it is `Unreadable`."""

    def read(self, *, trusted: bool) -> None:
        """Read the items. In the place of one that cannot be read stands `Unreadable`."""
        try:
            self.items = item_codec.decode(self.body, self.count, trusted=trusted)
            self.plain = True
        except (ItemError, ProtocolError, Untrusted):
            self.items = self._read_singly(trusted)
        self.body = b""

    def _read_singly(self, trusted: bool) -> list[Any]:
        items: list[Any] = []
        bodies = item_codec.split(self.body)
        for _ in range(self.count):
            try:
                items += item_codec.decode(next(bodies, b""), 1, trusted=trusted)
            except (ItemError, ProtocolError, Untrusted) as error:
                items.append(Unreadable(error))
        return items


@dataclass(slots=True)
class Chunk:
    """The next items, which one thread takes by itself, without the lock: one step of C each.

    The thread takes from the left, and nobody else does. What it took is read off the length. Whoever holds
    the lock may take away what is left, from the right, item by item: so each item is taken once.
    """

    session: int
    first: int
    """The position of its first item."""
    items: deque[Any]
    """The items, or a `Taken` for each."""
    size: int
    holder: int
    settles: bool
    """With each item that is taken, the one before is done."""
    holding: int
    """The position of the item that the holder had in hand before, if that is then done."""
    counted: int = 0
    """Items of which is known that they were taken."""
    left: int = -1
    """Items that were taken away; -1 while they are there."""

    def taken(self) -> int:
        """How many items the thread took."""
        return self.size - (len(self.items) if self.left < 0 else self.left)

    def take_away(self) -> None:
        """Let the thread have nothing more."""
        left = 0
        try:
            while True:
                self.items.pop()
                left += 1
        except IndexError:
            self.left = left


Portion = tuple[int, deque[Any], Chunk]
"""Who may take items from where."""
NOTHING: Portion = (0, deque(), Chunk(0, 0, deque(), 0, 0, False, 0))


@dataclass(slots=True)
class Hand:
    """What a program takes, and says to be done, without the lock. It outlasts the sessions of its end."""

    getting: Portion = NOTHING
    """The thread that may take these items."""
    receiving: Portion = NOTHING
    """The same, of deliveries."""
    acks: list[DeliveredItem] = field(default_factory=list)
    """Deliveries that are done, until the machine counts them."""
    called: bool = False
    """Somebody is about to count them."""


class Unreadable(NamedTuple):
    """What reading an item raised."""

    error: Exception


AHEAD = 0.02
"""Seconds of the program's work that may lie in the buffer."""
PAUSE = 0.05
"""Seconds without a take after which what lies in the buffer is given back to others."""


@dataclass(slots=True)
class RateEstimator:
    """The time is looked at once for many takes: those before it, `untimed`, were spread evenly."""

    since: float = -PAUSE
    """When the last item was taken, as far as is known."""
    seconds: float = AHEAD
    """From one take to the next, smoothed."""
    untimed: int = 0

    def time(self, now: float) -> None:
        """It is `now`."""
        takes = self.untimed
        if takes:
            self.untimed = 0
            each = min((now - self.since) / takes, AHEAD)
            self.seconds += (each - self.seconds) * (1 - 0.875**takes)
            self.since = now

    def waited(self, since: float, now: float) -> None:
        """The program waited for an item: that is none of the time that it takes for one."""
        self.time(since)
        self.since += now - since


Ranges = list[list[int]]
"""First and last position of each, in the order in which it became so."""


@dataclass(slots=True)
class AckBatch:
    """What became of items, until it is told."""

    done: Ranges = field(default_factory=list)
    failed: Ranges = field(default_factory=list)
    unreadable: Ranges = field(default_factory=list)
    returned: Ranges = field(default_factory=list)
    answers: list[list[Any]] = field(default_factory=list)
    """Positions of items that are done, and what is to be said to those who put them."""

    def pressing(self) -> bool:
        """True if somebody needs to hear of it to go on."""
        return bool(self.failed or self.unreadable or self.returned or self.answers)

    @property
    def ended(self) -> int:
        """How many items were done, or given up."""
        return sum(last - first + 1 for rows in (self.done, self.failed) for first, last in rows) + len(
            self.answers
        )

    def take(self) -> list[list[list[Any]]]:
        """As much as fits into a message, by the order of the fields above; it is told by that."""
        parts: list[list[list[Any]]] = []
        for rows in (self.done, self.failed, self.unreadable, self.returned):
            parts.append(rows[:MOST_RANGES])
            del rows[:MOST_RANGES]
        share = share_of_answers(self.answers, MOST_RANGES)
        parts.append(self.answers[:share])
        del self.answers[:share]
        return parts


def extend(ranges: Ranges, first: int, last: int = 0) -> None:
    """Add `first` to `last` (0: that one alone) to `ranges`."""
    if ranges and ranges[-1][1] == first - 1:
        ranges[-1][1] = last or first
    else:
        ranges.append([first, last or first])


MOST_AHEAD = 2000
"""Items that may lie in the buffer."""
WINDOW_BYTES = 8 * 1024 * 1024
FEW = 16
"""Takes of which the host need not be told at once."""
_make_taken = partial(tuple.__new__, DeliveredItem)
"""In one step of C."""


@dataclass(slots=True)
class ItemReceiver:
    """All that was lent to one end in one session."""

    trusted: bool = False
    taken: int = 0
    closed: bool = False
    """The host is to lend nothing, whoever waits."""
    waiters: int = 0
    """Items that calls of the program wait for now."""
    buffered: int = 0
    hands: dict[int, int] = field(default_factory=dict)
    """The positions in the program's hands, oldest first, and the thread that took each."""
    session: int = 0
    hand: Hand = field(default_factory=Hand)
    due: int = 16
    """Takes after which it is to be told."""
    heavy: int = 0
    """Bytes of the batches that were taken to their end since the host was told."""
    average: int = 0
    """Bytes of an item of the batch that came last."""
    rests: bool = False
    """The program said that it is done with all that it had: somebody may wait for that."""
    _chunk: Chunk | None = None
    """What was handed out, to be taken without the lock."""
    _buffer: deque[DeliveredBatch] = field(default_factory=deque)
    _last: int = 0
    _ack_batch: AckBatch = field(default_factory=AckBatch)
    told_taken: int = 0
    _told_window: int = 0
    _pace: RateEstimator = field(default_factory=RateEstimator)

    @property
    def next_position(self) -> int:
        """That of the next item to come."""
        return self._last + 1

    # -- from the host ---------------------------------------------------------------------------

    def lend(self, position: int, count: int, attempt: int, body: bytes) -> None:
        """A batch came."""
        self._buffer.append(DeliveredBatch(position, count, attempt, body, weight=len(body)))
        self._last = position + count - 1
        self.buffered += count
        self.average = len(body) // count
        self.due = max(FEW, self.buffered // 2)

    def at_hand(self) -> bool:
        """Whether anything lies in the buffer, which nobody can take without the lock then."""
        self.collect()
        return self.buffered > 0

    @property
    def handed_out(self) -> bool:
        """Whether items may be taken without the lock."""
        return self._chunk is not None and len(self._chunk.items) > 0

    def waited(self, since: float, now: float) -> None:
        """The program waited for an item."""
        self._pace.waited(since, now)

    # -- from the program ------------------------------------------------------------------------

    def take(self, thread: int, now: float) -> DeliveredItem | None:
        """The next item; None when the buffer is empty.

        Raises what reading the item raises, once: it becomes a dead letter.
        """
        self.collect()
        if not self._buffer:
            return None
        delivered_batch = self._buffer[0]
        if delivered_batch.items is None:
            delivered_batch.read(trusted=self.trusted)
        position = delivered_batch.position
        item = delivered_batch.items[delivered_batch.at]  # type: ignore[index]
        self._step(1)
        self._pace.time(now)
        if isinstance(item, Unreadable):
            extend(self._ack_batch.unreadable, position)
            unpickling = isinstance(item.error, ItemError) and item.error.__cause__
            raise unpickling or item.error
        self.hands[position] = thread
        return DeliveredItem(position, item, delivered_batch.attempt, self.session)

    def hand_out(self, holder: int, thread: int, most: int, *, settles: bool, whole: bool) -> None:
        """Let `thread` take up to `most` of the next items by itself, for `holder`.

        With `settles`, each item is done when the thread takes its next, also the one that it has in hand
        now. With `whole` it takes each as a `Taken`.
        """
        self.collect()
        items: list[Any] = []
        for delivered_batch in self._buffer:
            if delivered_batch.items is None:
                delivered_batch.read(trusted=self.trusted)
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
        holding = self.taken if settles and self.hands.get(self.taken) == holder else 0
        self._chunk = chunk = Chunk(self.session, first, deque(items), size, holder, settles, holding)
        portion = (thread, chunk.items, chunk)
        if whole:
            self.hand.receiving = portion
        else:
            self.hand.getting = portion

    def count(self) -> None:
        """Note what was taken, and done, without the lock."""
        chunk = self._chunk
        if chunk is not None and (taken := chunk.taken()) > chunk.counted:
            self._note_taken(chunk, taken)
        acks = self.hand.acks
        if acks:
            some = acks[:]
            del acks[: len(some)]
            for one in some:
                if one.session == self.session:
                    self._done(one.position)
            self.rests = not self.hands and not self.buffered

    def collect(self) -> None:
        """As `count`; what was handed out and not taken is not to be had without the lock any more."""
        chunk = self._chunk
        if chunk is not None:
            self.hand.getting = self.hand.receiving = NOTHING
            chunk.take_away()
        self.count()
        self._chunk = None

    def taken_from(self, chunk: Chunk, lying: int) -> int:
        """The position of what a thread took from `chunk` when `lying` items were in it; 0 if it did not."""
        self.count()
        return chunk.first + chunk.size - lying if chunk.taken() > chunk.size - lying else 0

    def _note_taken(self, chunk: Chunk, taken: int) -> None:
        first, last = chunk.first + chunk.counted, chunk.first + taken - 1
        chunk.counted = taken
        if not chunk.settles:
            self.hands.update(dict.fromkeys(range(first, last + 1), chunk.holder))
        else:
            self._done(chunk.holding)
            if last > first:
                extend(self._ack_batch.done, first, last - 1)
            self.hands[last] = chunk.holder
            chunk.holding = last
        self._step(last - first + 1)

    def take_run(self, most: int, thread: int, now: float) -> tuple[int, list[Any]]:
        """The position of the next item, and up to `most` items from it on; none where `take` is to be asked,
        or the buffer is empty."""
        self.collect()
        if not self._buffer:
            return 0, []
        delivered_batch = self._buffer[0]
        if delivered_batch.items is None:
            delivered_batch.read(trusted=self.trusted)
        if not delivered_batch.plain:
            return 0, []
        position, count = delivered_batch.position, min(most, delivered_batch.count)
        items = delivered_batch.items[delivered_batch.at : delivered_batch.at + count]  # type: ignore[index]
        self.hands.update(dict.fromkeys(range(position, position + count), thread))
        self._step(count)
        self._pace.time(now)
        return position, items

    def let_go(self, position: int) -> None:
        """The item at `position` never reached who took it: the host has it again."""
        self.count()
        if self.hands.pop(position, None) is not None:
            self._ack_batch.returned.append([position, position])

    def next_is_unreadable(self) -> bool:
        """True if the next `take` is going to raise."""
        self.collect()
        if not self._buffer:
            return False
        delivered_batch = self._buffer[0]
        if delivered_batch.items is None:
            delivered_batch.read(trusted=self.trusted)
        return isinstance(delivered_batch.items[delivered_batch.at], Unreadable)  # type: ignore[index]

    def done(self, position: int, answer: bytes | None = None) -> None:
        """The program is done with an item; a position no longer in its hands is ignored.

        Raises `ItemError` for an answer that is too long to send; the item then stays in hand.
        """
        if answer is not None and len(answer) > LONGEST_ANSWER:
            raise ItemError(
                f"an answer of {len(answer)} bytes is too long: at most {LONGEST_ANSWER} can travel"
            )
        self.count()
        if answer is None:
            self._done(position)
        elif self.hands.pop(position, None) is not None:
            self._ack_batch.answers.append([position, answer])
        self.rests = not self.hands and not self.buffered

    def _done(self, position: int) -> None:
        if self.hands.pop(position, None) is not None:
            extend(self._ack_batch.done, position)

    def done_by(self, holder: int | None) -> None:
        """All that `holder` took is done; None: all but what holder 0 took."""
        self.collect()
        hands = self.hands
        mine = [p for p, h in hands.items() if h == holder or (holder is None and h)]
        for position in mine:
            del hands[position]
        if mine and mine[-1] - mine[0] == len(mine) - 1:
            extend(self._ack_batch.done, mine[0], mine[-1])
        else:
            for position in mine:
                extend(self._ack_batch.done, position)

    def done_oldest(self, holder: int) -> bool:
        """The oldest item of `holder`, or else of anyone but holder 0, is done; False if there is none."""
        self.count()
        mine = (p for p, h in self.hands.items() if h == holder)
        anyones = (p for p, h in self.hands.items() if h)
        oldest = next(mine, None) or next(anyones, None)
        if oldest is None:
            return False
        self.done(oldest)
        return True

    def fail(self, position: int) -> None:
        """The program gives an item up."""
        self.count()
        if self.hands.pop(position, None) is not None:
            extend(self._ack_batch.failed, position)

    def give_back(self) -> None:
        """Return all that lies in the buffer."""
        self.collect()
        if self._buffer:
            self._ack_batch.returned.append([self._buffer[0].position, self._last])
            self._buffer.clear()
            self.buffered = 0

    # -- to the host -----------------------------------------------------------------------------

    def window(self, now: float) -> int:
        """How many items may lie in the buffer."""
        if self.closed:
            return 0
        self._pace.time(now)
        if now - self._pace.since >= PAUSE:
            return self.waiters
        return max(self.waiters, min(MOST_AHEAD, int(AHEAD / max(self._pace.seconds, 1e-6))))

    def untold(self) -> int:
        """How many items the program took that the host was not told the end of."""
        return len(self.hands) + self._ack_batch.ended

    def news(self) -> bool:
        """True if there is something to tell besides the window."""
        return self.taken != self.told_taken or bool(self._ack_batch.done) or self._ack_batch.pressing()

    def pressing(self, now: float) -> bool:
        """True if the host is to be told now: it might lend too little or too much, or others wait."""
        told, untold, window = self._told_window, self.taken - self.told_taken, self.window(now)
        short = told - untold < max(self.waiters, told // 2)
        wide = window * 2 < told or (window < told and now - self._pace.since >= PAUSE)
        return short or wide or self.rests or self._ack_batch.pressing()

    def idle_items(self) -> bool:
        """True if more lies in the buffer than the program waits for."""
        return self.buffered > self.waiters

    def paused(self, now: float) -> bool:
        """True if the program stopped taking: what it does not wait for belongs to others."""
        self._pace.time(now)
        return now - self._pace.since >= PAUSE and self.idle_items()

    def deadline(self) -> float | None:
        """When the window shrinks because the program paused; None when there is nothing to shrink."""
        if self.buffered > self.waiters or self._told_window > self.waiters:
            return self._pace.since + PAUSE
        return None

    def report(self, now: float, ask: int = 0) -> QueueMessage | None:
        """What the host has to know; None when it knows."""
        window = self.window(now)
        if not (ask or window != self._told_window or self.news()):
            return None
        self.told_taken, self._told_window = self.taken, window
        self.heavy, self.rests = 0, False
        self.due = max(FEW, self.buffered // 2)
        return QueueMessage(
            QueueMessageType.REPORT, (window, WINDOW_BYTES, ask, self.taken, *self._ack_batch.take())
        )

    def _step(self, count: int) -> None:
        """The next `count` items are taken."""
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
