"""The getting half of an end, as a pure machine: what the host lent, what the program took, what is done.

Every item has a *position* in the session (see `host.leases`). `window` is how much the host may lend ahead
of the program: what somebody waits for now, and as much more as the program lately took in a few
milliseconds, so that a quick consumer never waits and a slow one holds nothing that another could have.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from nearfar.errors import ItemError
from nearfar.queues.ends.loans import Loan, Taken, Unreadable
from nearfar.queues.ends.pace import AHEAD, PAUSE, Pace
from nearfar.queues.ends.tidings import Tidings, extend
from nearfar.queues.wire import LONGEST_ANSWER, Kind, Message

MOST_AHEAD = 2000
"""Items that may lie in the buffer."""
WINDOW_BYTES = 8 * 1024 * 1024
FEW = 16
"""Takes of which the host need not be told at once."""


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
    plain: Loan | None = None
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
        self.tell_at = (self.told_taken + 1, self.taken + self.due)

    def waited(self, since: float, now: float) -> None:
        """The program waited for an item."""
        self._pace.waited(since, now)

    # -- from the program ------------------------------------------------------------------------

    def take(self, thread: int, now: float) -> Taken | None:
        """The next item; None when the buffer is empty.

        Raises what reading the item raises, once: it becomes a dead letter.
        """
        if not self._buffer:
            return None
        loan = self._buffer[0]
        if loan.items is None:
            self._read(loan)
        position = loan.position
        item = loan.items[loan.at]  # type: ignore[index]
        self._step(loan)
        self._pace.time(now)
        if isinstance(item, Unreadable):
            extend(self._tidings.unreadable, position)
            unpickling = isinstance(item.error, ItemError) and item.error.__cause__
            raise unpickling or item.error
        self.hands[position] = thread
        if self.latest.get(thread, 0) in self.hands:
            self.latest.pop(thread)
        else:
            self.latest[thread] = position
        return Taken(position, item, loan.attempt, self.session)

    def snatch(self, thread: int, *, settle: bool) -> tuple[Any] | None:
        """The next item for a thread that has taken nothing but what `snatch` gave it; None if `take` is to
        be asked. With `settle`, what it took before is done.

        Called for each item, hence so flat. A signal's handler may raise at a call, and nowhere else: before
        the item is in hand, or where `let_go` is said for it.
        """
        loan, hands = self.plain, self.hands
        if loan is None:
            return None
        if settle:
            before = self.latest.get(thread, 0)
            if before in hands:
                done = self._tidings.done
                del hands[before]
                if done and done[-1][1] == before - 1:
                    done[-1][1] = before
                else:
                    done.append([before, before])
            elif hands and thread in hands.values():
                return None
        position = loan.position
        found = (loan.items[loan.at],)  # type: ignore[index]
        self.taken = self.latest[thread] = position
        hands[position] = thread
        self._pace.untimed += 1
        self.buffered -= 1
        loan.at += 1
        loan.position += 1
        loan.count -= 1
        if not loan.count:
            self.plain = None
            self.heavy += loan.weight
            self._buffer.popleft()
        return found

    def take_run(self, most: int, thread: int, now: float) -> tuple[int, list[Any]]:
        """The position of the next item, and up to `most` items from it on; none where `take` is to be asked,
        or the buffer is empty."""
        if not self._buffer:
            return 0, []
        loan = self._buffer[0]
        if loan.items is None:
            self._read(loan)
        if self.plain is not loan:
            return 0, []
        position, count = loan.position, min(most, loan.count)
        items = loan.items[loan.at : loan.at + count]  # type: ignore[index]
        self.hands.update(dict.fromkeys(range(position, position + count), thread))
        self.latest.pop(thread, None)
        self._step(loan, count)
        self._pace.time(now)
        return position, items

    def let_go(self, position: int) -> None:
        """The item at `position` never reached who took it: the host has it again."""
        if self.hands.pop(position, None) is not None:
            self._tidings.returned.append([position, position])

    def next_is_unreadable(self) -> bool:
        """True if the next `take` is going to raise."""
        if not self._buffer:
            return False
        loan = self._buffer[0]
        if loan.items is None:
            self._read(loan)
        return isinstance(loan.items[loan.at], Unreadable)  # type: ignore[index]

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
            extend(self._tidings.done, position)
        else:
            self._tidings.answers.append([position, answer])
        self.rests = not self.hands and not self.buffered

    def done_by(self, holder: int | None) -> None:
        """All that `holder` took is done; None: all but what holder 0 took."""
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
            extend(self._tidings.failed, position)

    def give_back(self) -> None:
        """Return all that lies in the buffer."""
        if self._buffer:
            self._tidings.returned.append([self._buffer[0].position, self._last])
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
        return len(self.hands) + self._tidings.ended

    def unreported(self) -> int:
        """How many takes the host has not been told of."""
        return self.taken - self.told_taken

    def news(self) -> bool:
        """True if there is something to tell besides the window."""
        return bool(self._tidings) or self.taken != self.told_taken

    def pressing(self, now: float) -> bool:
        """True if the host is to be told now: it might lend too little or too much, or others wait."""
        told, untold, window = self._told_window, self.unreported(), self.window(now)
        short = told - untold < max(self.waiters, told // 2)
        wide = window * 2 < told or (window < told and now - self._pace.since >= PAUSE)
        return short or wide or self.rests or self._tidings.pressing

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
        self.tell_at = (self.taken + 1, self.taken + self.due)
        return Message(Kind.REPORT, (window, WINDOW_BYTES, ask, self.taken, *self._tidings.take()))

    def _read(self, loan: Loan) -> None:
        if loan.read(trusted=self.trusted) and loan is self._buffer[0]:
            self.plain = loan

    def _step(self, loan: Loan, count: int = 1) -> None:
        """The next items of `loan`, which is the first, are taken."""
        self.taken = loan.position + count - 1
        self._pace.untimed += count
        self.buffered -= count
        loan.at += count
        loan.position += count
        loan.count -= count
        if not loan.count:
            self.plain = None
            self.heavy += loan.weight
            self._buffer.popleft()
