"""A client of a coordinator elsewhere, as a pure machine: one session after another, and what outlasts them.

::

    NEW --connect--> GREETING --WELCOME--> OPEN --leave ... BYE, PART--> CLOSED
                        ^                   |
                        +----- STRANGER ----+     silent or away for `wait` seconds: every task fails

Tasks are numbered as they are sent; the numbers outlast sessions and coordinators, so that what has no answer
is submitted *again* in the next session and runs once all the same. No more is sent than keeps the workers
busy: the rest waits here. The sessions are those of `nearfar.coordinator.calling`.

Whoever waits drives it: `receive` and `tick` take what happened, `flush` gives what is to be done, `outcomes`
what tasks have come to. It must be driven several times a lease, or the coordinator takes it for dead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence, Set
from concurrent.futures import CancelledError
from math import inf
from typing import Any, TypeVar

from nearfar.coordinator.calling import FAREWELL, Calling, Connect, Send, Stage
from nearfar.coordinator.parts import Row, shares
from nearfar.coordinator.talk import Talk
from nearfar.coordinator.tasks import State, Task
from nearfar.coordinator.wire import CLIENT, FORMS, Envelope, Kind, Message
from nearfar.errors import CoordinatorLost, InitializerFailed, NotAdmitted, PoolBroken
from nearfar.net.complaints import shown
from nearfar.pool.pending import Pending

T = TypeVar("T", bound=Task)

GATHER = 0.001
"""Seconds that tasks wait for company while `TALKATIVE` messages are under way, or there is plenty to do."""
TALKATIVE = 8
ENOUGH = 256
"""Tasks that are company enough."""

_WAITING = State.WAITING
_LOOSE = frozenset((Kind.WELCOME, Kind.REFUSED, Kind.STRANGER))


class ClientMachine:
    """`name` is new for every client; `about` is what HELLO tells of its process."""

    def __init__(
        self,
        name: str,
        about: dict[str, Any],
        *,
        initializer: Row | None = None,
        eager: bool = False,
        read_error: Callable[[bytes], BaseException] = InitializerFailed,
        wait: float = 60.0,
        place: str = "its address",
        stem: str = "",
    ) -> None:
        """`initializer`: function, blob and buffers; `read_error` reads what that raised, as pickled there.

        `wait`: seconds without a coordinator after which everything fails with `CoordinatorLost`, which
        says that it was looked for at `place`.
        """
        self.error: BaseException | None = None
        """Why nothing can be run any more."""
        self.workers = 0
        """How many the coordinator has."""
        self.calling = Calling(CLIENT, name, about, wait, stem)
        """The session with the coordinator: its `stage` is this machine's."""
        self._join = (eager, [] if initializer is None else [initializer])
        self._pending = Pending(read_error)
        self.outcomes = self._pending.outcomes
        """Tasks that have come to an end; who runs the machine empties it, and tells them."""
        self._cancels: list[int] = []
        """What is to be cancelled and has not been said in this session."""
        self._said = 0
        self._unsent_since: float | None = None
        self._place = place
        self._lost = CoordinatorLost(f"no coordinator has answered at {place} for {wait:g} s")
        self._leaving = False
        self._said_bye: float | None = None
        """When it said goodbye, which it does once every task has its outcome."""

    @property
    def session_name(self) -> str:
        """That of the session's socket."""
        return self.calling.session_name

    @property
    def stage(self) -> Stage:
        """CLOSED: nothing can be run any more."""
        return self.calling.stage

    @property
    def done(self) -> int:
        """Tasks that a worker answered."""
        return self._pending.done

    @property
    def stale(self) -> int:
        """Outcomes that came of tasks that had one."""
        return self._pending.stale

    @property
    def unsent(self) -> list[Task]:
        """The tasks that wait here."""
        return [task for task in self._pending.unsent if task.state is State.WAITING]

    @property
    def hungry(self) -> bool:
        """True if one more task would be sent at once."""
        talk = self.calling.open_talk()
        if talk is None:
            return self.stage is Stage.NEW
        return not self._gathers(talk) and self._pending.room(self.workers)

    def counts(self) -> tuple[int, int]:
        """How many tasks wait here, and how many the coordinator has."""
        return self._pending.counts()

    def __len__(self) -> int:
        """Tasks without an outcome."""
        return len(self._pending)

    # -- from the program --------------------------------------------------------------------------

    def connect(self, now: float) -> None:
        """Begin the first session."""
        if self.stage is Stage.NEW:
            self.calling.begin(now)

    def submit(self, task: Task) -> None:
        """Take a task; once nothing can be run any more it comes to its end at once."""
        self.submit_all(deque((task,)))

    def submit_all(self, tasks: deque[Any]) -> None:
        """The same of all that are there. Other threads may add to them meanwhile."""
        unsent = self._pending.unsent
        while tasks:
            task = tasks.popleft()
            if self.error is not None:
                self._pending.end(task, self.error)
            else:
                task.state = _WAITING
                unsent.append(task)

    def cancel(self, tasks: Sequence[T]) -> list[T]:
        """Those that will never run: this answer is their only outcome.

        Of the others that have no outcome the coordinator is asked: `CancelledError` or an answer will tell.
        """
        never = [task for task in tasks if task.state is State.WAITING]
        for task in never:
            self._pending.withdraw(task)
        self._cancels += self._pending.ask_back({task for task in tasks if task.state is State.GIVEN})
        return never

    @property
    def cancelling(self) -> Set[Task]:
        """The tasks that the coordinator was asked to cancel, and has not answered for."""
        return self._pending.asked_back

    def fail(self, error: BaseException) -> None:
        """Every task comes to this end; what runs of them goes on unheard."""
        self._pending.fail(error)

    def leave(self) -> None:
        """Say goodbye once every task has its outcome; submit no more."""
        self._leaving = True

    def terminate(self) -> None:
        """Every task ends with `CancelledError`, and what runs of them is killed; then say goodbye."""
        self._pending.fail(CancelledError())
        self._leaving = True

    # -- what happens ------------------------------------------------------------------------------

    def receive(self, envelope: Envelope, now: float) -> None:
        """A message came."""
        kind = envelope.message.kind
        if kind in _LOOSE:
            self._receive_loose(envelope.message, now)
        elif (talk := self.calling.open_talk()) is not None:
            for message in talk.hear(envelope, now):
                self._handle(message)

    def _receive_loose(self, message: Message, now: float) -> None:
        """A message that opens or ends a session."""
        match message.kind:
            case Kind.WELCOME:
                self._welcome(message, now)
            case Kind.REFUSED:
                self._break(PoolBroken(f"the coordinator refused: {shown(message.fields[0])}"))
            case _ if self._said_bye is not None:  # it has forgotten us, as it was asked to
                self.calling.stage = Stage.CLOSED
            case _ if self.stage is Stage.OPEN:
                self.calling.begin(now)

    def turned_away(self, why: str, now: float) -> None:
        """The socket of the session was not let in."""
        self.calling.turned_away(why, now)
        if self.calling.barred:
            self._break(NotAdmitted(f"cannot use the coordinator at {self._place}: {self.calling.barred}"))

    def tick(self, now: float) -> None:
        """Time passed."""
        self.calling.tick(now)
        talk = self.calling.open_talk()
        if talk is not None and now >= self._farewell():
            self.calling.stage = Stage.CLOSED
        elif self.calling.lost(now):
            self._break(self._lost)

    def flush(self, now: float) -> list[Connect | Send]:
        """Everything that is to be done."""
        talk = self.calling.open_talk()
        if talk is not None:
            if self._pending.unsent:
                self._submit_unsent(talk, now)
            else:
                self._unsent_since = None
            if self._cancels:
                for number in self._cancels:
                    self._said = talk.say(now, Kind.CANCEL, number)
                self._cancels.clear()
            if self._leaving and not self._pending and self._said_bye is None:
                self._said_bye = now
                talk.say(now, Kind.BYE)
        elif self._leaving and not self._pending:
            self.calling.stage = Stage.CLOSED
        return self.calling.flush(now)

    def deadline(self, now: float) -> float:
        """When `tick` and `flush` are wanted next."""
        deadline = self.calling.deadline(now)
        if self._said_bye is not None:
            deadline = min(deadline, self._farewell())
        return deadline if self._unsent_since is None else min(deadline, self._unsent_since + GATHER)

    def away(self, now: float) -> float:
        """For how many seconds no coordinator has answered; 0 if one does."""
        return self.calling.away(now)

    def _farewell(self) -> float:
        """When it goes without an answer to its goodbye."""
        return inf if self._said_bye is None else self.calling.silent_since(self._said_bye) + FAREWELL

    def _welcome(self, message: Message, now: float) -> None:
        facts = self.calling.welcome(message, now)
        talk = self.calling.open_talk()
        if facts is None or talk is None:
            return
        self.workers = facts["workers"]
        self._pending.largest = facts.get("largest", 0)
        eager, rows = self._join
        self._said = talk.say(now, Kind.JOIN, eager, rows=rows)
        self._submit(talk, self._pending.sent(), now, again=True)
        self._cancels = sorted(self._pending.cancels)

    # -- to the coordinator ------------------------------------------------------------------------

    def _submit_unsent(self, talk: Talk, now: float) -> None:
        """At once while little is on its way; else what gathers within a moment."""
        if not self._pending.room(self.workers):
            self._unsent_since = None
            return
        if len(self._pending.unsent) < ENOUGH and self._gathers(talk):
            if self._unsent_since is None:
                self._unsent_since = now
            if now < self._unsent_since + GATHER:
                return
        self._unsent_since = None
        self._submit(talk, self._pending.send(self.workers), now, again=False)

    def _gathers(self, talk: Talk) -> bool:
        """Whether what is to be submitted waits for company."""
        return self._said - talk.out.received >= TALKATIVE or self._pending.plenty(self.workers)

    def _submit(self, talk: Talk, rows: list[Row], now: float, *, again: bool) -> None:
        for share in shares(rows, FORMS[Kind.SUBMIT].blob):
            self._said = talk.say(now, Kind.SUBMIT, again, rows=share)

    # -- from the coordinator ----------------------------------------------------------------------

    def _handle(self, message: Message) -> None:
        match message.kind:
            case Kind.OUTCOMES:
                self._pending.settle(message.rows or ())
            case Kind.CANCELLED:
                self._pending.cancelled(*message.fields)
            case Kind.WORKERS:
                self.workers = message.fields[0]
            case Kind.PART:
                self.calling.stage = Stage.CLOSED
            case _:
                pass  # a word for agents

    def _break(self, error: BaseException) -> None:
        self.error = error
        self.calling.stage = Stage.CLOSED
        self._pending.fail(error)
