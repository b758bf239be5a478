"""The getting half of an end, as a pure machine: what the host lent, what the program took, what is done.

Every item has a *position* in the session (see `host.leases`). `window` is how much the host may lend ahead
of the program: what somebody waits for now, and as much more as the program lately took in a few
milliseconds, so that a quick consumer never waits and a slow one holds nothing that another could have.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import partial
from itertools import count, repeat
from typing import Any

from nearfar.errors import ItemError
from nearfar.queues.ends.loans import NOTHING, Chunk, Hand, Loan, Taken, Unreadable
from nearfar.queues.ends.pace import AHEAD, PAUSE, Pace
from nearfar.queues.ends.tidings import Tidings, extend
from nearfar.queues.wire import LONGEST_ANSWER, Kind, Message

MOST_AHEAD = 2000
"""Items that may lie in the buffer."""
WINDOW_BYTES = 8 * 1024 * 1024
FEW = 16
"""Takes of which the host need not be told at once."""
_make_taken = partial(tuple.__new__, Taken)
"""In one step of C."""


@dataclass(slots=True)
class Receiver:
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
    _buffer: deque[Loan] = field(default_factory=deque)
    _last: int = 0
    _tidings: Tidings = field(default_factory=Tidings)
    told_taken: int = 0
    _told_window: int = 0
    _pace: Pace = field(default_factory=Pace)

    @property
    def next_position(self) -> int:
        """That of the next item to come."""
        return self._last + 1

    # -- from the host ---------------------------------------------------------------------------

    def lend(self, position: int, count: int, attempt: int, body: bytes) -> None:
        """A batch came."""
        self._buffer.append(Loan(position, count, attempt, body, weight=len(body)))
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

    def take(self, thread: int, now: float) -> Taken | None:
        """The next item; None when the buffer is empty.

        Raises what reading the item raises, once: it becomes a dead letter.
        """
        self.collect()
        if not self._buffer:
            return None
        loan = self._buffer[0]
        if loan.items is None:
            loan.read(trusted=self.trusted)
        position = loan.position
        item = loan.items[loan.at]  # type: ignore[index]
        self._step(1)
        self._pace.time(now)
        if isinstance(item, Unreadable):
            extend(self._tidings.unreadable, position)
            unpickling = isinstance(item.error, ItemError) and item.error.__cause__
            raise unpickling or item.error
        self.hands[position] = thread
        return Taken(position, item, loan.attempt, self.session)

    def hand_out(self, holder: int, thread: int, most: int, *, settles: bool, whole: bool) -> None:
        """Let `thread` take up to `most` of the next items by itself, for `holder`.

        With `settles`, each item is done when the thread takes its next, also the one that it has in hand
        now. With `whole` it takes each as a `Taken`.
        """
        self.collect()
        items: list[Any] = []
        for loan in self._buffer:
            if loan.items is None:
                loan.read(trusted=self.trusted)
            if not loan.plain or loan.items is None or len(items) >= most:
                break
            some = loan.items[loan.at : loan.at + min(most - len(items), loan.count)]
            if whole:
                each = zip(count(loan.position), some, repeat(loan.attempt), repeat(self.session))
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
                extend(self._tidings.done, first, last - 1)
            self.hands[last] = chunk.holder
            chunk.holding = last
        self._step(last - first + 1)

    def take_run(self, most: int, thread: int, now: float) -> tuple[int, list[Any]]:
        """The position of the next item, and up to `most` items from it on; none where `take` is to be asked,
        or the buffer is empty."""
        self.collect()
        if not self._buffer:
            return 0, []
        loan = self._buffer[0]
        if loan.items is None:
            loan.read(trusted=self.trusted)
        if not loan.plain:
            return 0, []
        position, count = loan.position, min(most, loan.count)
        items = loan.items[loan.at : loan.at + count]  # type: ignore[index]
        self.hands.update(dict.fromkeys(range(position, position + count), thread))
        self._step(count)
        self._pace.time(now)
        return position, items

    def let_go(self, position: int) -> None:
        """The item at `position` never reached who took it: the host has it again."""
        self.count()
        if self.hands.pop(position, None) is not None:
            self._tidings.returned.append([position, position])

    def next_is_unreadable(self) -> bool:
        """True if the next `take` is going to raise."""
        self.collect()
        if not self._buffer:
            return False
        loan = self._buffer[0]
        if loan.items is None:
            loan.read(trusted=self.trusted)
        return isinstance(loan.items[loan.at], Unreadable)  # type: ignore[index]

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
            self._tidings.answers.append([position, answer])
        self.rests = not self.hands and not self.buffered

    def _done(self, position: int) -> None:
        if self.hands.pop(position, None) is not None:
            extend(self._tidings.done, position)

    def done_by(self, holder: int | None) -> None:
        """All that `holder` took is done; None: all but what holder 0 took."""
        self.collect()
        hands = self.hands
        mine = [p for p, h in hands.items() if h == holder or (holder is None and h)]
        for position in mine:
            del hands[position]
        if mine and mine[-1] - mine[0] == len(mine) - 1:
            extend(self._tidings.done, mine[0], mine[-1])
        else:
            for position in mine:
                extend(self._tidings.done, position)

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
            extend(self._tidings.failed, position)

    def give_back(self) -> None:
        """Return all that lies in the buffer."""
        self.collect()
        if self._buffer:
            self._tidings.returned.append([self._buffer[0].position, self._last])
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
        return len(self.hands) + self._tidings.ended

    def news(self) -> bool:
        """True if there is something to tell besides the window."""
        return self.taken != self.told_taken or bool(self._tidings.done) or self._tidings.pressing()

    def pressing(self, now: float) -> bool:
        """True if the host is to be told now: it might lend too little or too much, or others wait."""
        told, untold, window = self._told_window, self.taken - self.told_taken, self.window(now)
        short = told - untold < max(self.waiters, told // 2)
        wide = window * 2 < told or (window < told and now - self._pace.since >= PAUSE)
        return short or wide or self.rests or self._tidings.pressing()

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

    def report(self, now: float, ask: int = 0) -> Message | None:
        """What the host has to know; None when it knows."""
        window = self.window(now)
        if not (ask or window != self._told_window or self.news()):
            return None
        self.told_taken, self._told_window = self.taken, window
        self.heavy, self.rests = 0, False
        self.due = max(FEW, self.buffered // 2)
        return Message(Kind.REPORT, (window, WINDOW_BYTES, ask, self.taken, *self._tidings.take()))

    def _step(self, count: int) -> None:
        """The next `count` items are taken."""
        self._pace.untimed += count
        self.buffered -= count
        while count:
            loan = self._buffer[0]
            some = min(count, loan.count)
            count -= some
            self.taken = loan.position + some - 1
            loan.at += some
            loan.position += some
            loan.count -= some
            if not loan.count:
                self.heavy += loan.weight
                self._buffer.popleft()
