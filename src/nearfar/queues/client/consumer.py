"""The get side of a client, as a pure machine: the prefetch window, deliveries, and acknowledgements.

The getting half of an end, as a pure machine: what the host lent, what the program took, what is done.

Every item has a *position* in the session (see `host.leases`). `window` is how much the host may lend ahead
of the program: what somebody waits for now, and as much more as the program lately took in a few
milliseconds, so that a quick consumer never waits and a slow one holds nothing that another could have.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
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

    def read(self, *, trusted: bool) -> bool:
        """Read the items; whether all could be. In the place of another stands `Unreadable`."""
        plain = True
        try:
            self.items = item_codec.decode(self.body, self.count, trusted=trusted)
        except (ItemError, ProtocolError, Untrusted):
            self.items, plain = self._read_singly(trusted), False
        self.body = b""
        return plain

    def _read_singly(self, trusted: bool) -> list[Any]:
        items: list[Any] = []
        bodies = item_codec.split(self.body)
        for _ in range(self.count):
            try:
                items += item_codec.decode(next(bodies, b""), 1, trusted=trusted)
            except (ItemError, ProtocolError, Untrusted) as error:
                items.append(Unreadable(error))
        return items


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

    def __bool__(self) -> bool:
        return bool(self.done) or self.pressing

    @property
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
    plain: DeliveredBatch | None = None
    """The first loan, once it is read and nothing in it is unreadable."""
    latest: dict[int, int] = field(default_factory=dict)
    """The last position that each thread took, if that is all that it has in hand."""
    tell_at: tuple[int, int] = (1, 0)
    """The positions whose take is a reason to think of telling the host."""
    due: int = 16
    """Takes after which it is to be told."""
    heavy: int = 0
    """Bytes of the batches that were taken to their end since the host was told."""
    average: int = 0
    """Bytes of an item of the batch that came last."""
    rests: bool = False
    """The program said that it is done with all that it had: somebody may wait for that."""
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
        self.tell_at = (self.told_taken + 1, self.taken + self.due)

    def waited(self, since: float, now: float) -> None:
        """The program waited for an item."""
        self._pace.waited(since, now)

    # -- from the program ------------------------------------------------------------------------

    def take(self, thread: int, now: float) -> DeliveredItem | None:
        """The next item; None when the buffer is empty.

        Raises what reading the item raises, once: it becomes a dead letter.
        """
        if not self._buffer:
            return None
        delivered_batch = self._buffer[0]
        if delivered_batch.items is None:
            self._read(delivered_batch)
        position = delivered_batch.position
        item = delivered_batch.items[delivered_batch.at]  # type: ignore[index]
        self._step(delivered_batch)
        self._pace.time(now)
        if isinstance(item, Unreadable):
            extend(self._ack_batch.unreadable, position)
            unpickling = isinstance(item.error, ItemError) and item.error.__cause__
            raise unpickling or item.error
        self.hands[position] = thread
        if self.latest.get(thread, 0) in self.hands:
            self.latest.pop(thread)
        else:
            self.latest[thread] = position
        return DeliveredItem(position, item, delivered_batch.attempt, self.session)

    def get_now(self, thread: int, *, settle: bool) -> tuple[Any] | None:
        """The next item for a thread that has taken nothing but what `get_now` gave it; None if `take` is to
        be asked. With `settle`, what it took before is done.

        Called for each item, hence so flat. A signal's handler may raise at a call, and nowhere else: before
        the item is in hand, or where `let_go` is said for it.
        """
        delivered_batch, hands = self.plain, self.hands
        if delivered_batch is None:
            return None
        if settle:
            before = self.latest.get(thread, 0)
            if before in hands:
                done = self._ack_batch.done
                del hands[before]
                if done and done[-1][1] == before - 1:
                    done[-1][1] = before
                else:
                    done.append([before, before])
            elif hands and thread in hands.values():
                return None
        position = delivered_batch.position
        found = (delivered_batch.items[delivered_batch.at],)  # type: ignore[index]
        self.taken = self.latest[thread] = position
        hands[position] = thread
        self._pace.untimed += 1
        self.buffered -= 1
        delivered_batch.at += 1
        delivered_batch.position += 1
        delivered_batch.count -= 1
        if not delivered_batch.count:
            self.plain = None
            self.heavy += delivered_batch.weight
            self._buffer.popleft()
        return found

    def take_run(self, most: int, thread: int, now: float) -> tuple[int, list[Any]]:
        """The position of the next item, and up to `most` items from it on; none where `take` is to be asked,
        or the buffer is empty."""
        if not self._buffer:
            return 0, []
        delivered_batch = self._buffer[0]
        if delivered_batch.items is None:
            self._read(delivered_batch)
        if self.plain is not delivered_batch:
            return 0, []
        position, count = delivered_batch.position, min(most, delivered_batch.count)
        items = delivered_batch.items[delivered_batch.at : delivered_batch.at + count]  # type: ignore[index]
        self.hands.update(dict.fromkeys(range(position, position + count), thread))
        self.latest.pop(thread, None)
        self._step(delivered_batch, count)
        self._pace.time(now)
        return position, items

    def let_go(self, position: int) -> None:
        """The item at `position` never reached who took it: the host has it again."""
        if self.hands.pop(position, None) is not None:
            self._ack_batch.returned.append([position, position])

    def next_is_unreadable(self) -> bool:
        """True if the next `take` is going to raise."""
        if not self._buffer:
            return False
        delivered_batch = self._buffer[0]
        if delivered_batch.items is None:
            self._read(delivered_batch)
        return isinstance(delivered_batch.items[delivered_batch.at], Unreadable)  # type: ignore[index]

    def done(self, position: int, answer: bytes | None = None) -> None:
        """The program is done with an item; a position no longer in its hands is ignored.

        Raises `ItemError` for an answer that is too long to send; the item then stays in hand.
        """
        if answer is not None and len(answer) > LONGEST_ANSWER:
            raise ItemError(
                f"an answer of {len(answer)} bytes is too long: at most {LONGEST_ANSWER} can travel"
            )
        if self.hands.pop(position, None) is None:
            return
        if answer is None:
            extend(self._ack_batch.done, position)
        else:
            self._ack_batch.answers.append([position, answer])
        self.rests = not self.hands and not self.buffered

    def done_by(self, holder: int | None) -> None:
        """All that `holder` took is done; None: all but what holder 0 took."""
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
        mine = (p for p, h in self.hands.items() if h == holder)
        anyones = (p for p, h in self.hands.items() if h)
        oldest = next(mine, None) or next(anyones, None)
        if oldest is None:
            return False
        self.done(oldest)
        return True

    def fail(self, position: int) -> None:
        """The program gives an item up."""
        if self.hands.pop(position, None) is not None:
            extend(self._ack_batch.failed, position)

    def give_back(self) -> None:
        """Return all that lies in the buffer."""
        if self._buffer:
            self._ack_batch.returned.append([self._buffer[0].position, self._last])
            self.plain = None
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

    def unreported(self) -> int:
        """How many takes the host has not been told of."""
        return self.taken - self.told_taken

    def news(self) -> bool:
        """True if there is something to tell besides the window."""
        return bool(self._ack_batch) or self.taken != self.told_taken

    def pressing(self, now: float) -> bool:
        """True if the host is to be told now: it might lend too little or too much, or others wait."""
        told, untold, window = self._told_window, self.unreported(), self.window(now)
        short = told - untold < max(self.waiters, told // 2)
        wide = window * 2 < told or (window < told and now - self._pace.since >= PAUSE)
        return short or wide or self.rests or self._ack_batch.pressing

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
        self.tell_at = (self.taken + 1, self.taken + self.due)
        return QueueMessage(
            QueueMessageType.REPORT, (window, WINDOW_BYTES, ask, self.taken, *self._ack_batch.take())
        )

    def _read(self, delivered_batch: DeliveredBatch) -> None:
        if delivered_batch.read(trusted=self.trusted) and delivered_batch is self._buffer[0]:
            self.plain = delivered_batch

    def _step(self, delivered_batch: DeliveredBatch, count: int = 1) -> None:
        """The next items of `delivered_batch`, which is the first, are taken."""
        self.taken = delivered_batch.position + count - 1
        self._pace.untimed += count
        self.buffered -= count
        delivered_batch.at += count
        delivered_batch.position += count
        delivered_batch.count -= count
        if not delivered_batch.count:
            self.plain = None
            self.heavy += delivered_batch.weight
            self._buffer.popleft()
