"""A client of a coordinator, as a pure machine, and its tasks in flight.

A far client's tasks: what waits here, what the coordinator has, and what they have come to. Pure.

Tasks are numbered as they are sent. No more is sent than keeps the coordinator's workers busy, so that a
million tasks do not lie there and here.

A client of a coordinator elsewhere, as a pure machine: one session after another, and what outlasts them.

::

    NEW --connect--> GREETING --WELCOME--> OPEN --leave ... BYE, PART--> CLOSED
                        ^                   |
                        +----- STRANGER ----+     silent or away for `wait` seconds: every task fails

Tasks are numbered as they are sent; the numbers outlast sessions and coordinators, so that what has no answer
is submitted *again* in the next session and runs once all the same. No more is sent than keeps the workers
busy: the rest waits here. The sessions are those of `nearfar.coordinator.client_session`.

Whoever waits drives it: `receive` and `tick` take what happened, `flush` gives what is to be done, `outcomes`
what tasks have come to. It must be driven several times a lease, or the coordinator takes it for dead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence, Set
from concurrent.futures import CancelledError
from math import inf
from typing import Any, TypeVar

from nearfar.coordinator import task as failures
from nearfar.coordinator.client_session import FAREWELL, ClientSession, Connect, SendMessage, SessionStage
from nearfar.coordinator.columns import Row, shares
from nearfar.coordinator.messages import CLIENT, FORMS, PoolFrame, PoolMessage, PoolMessageType
from nearfar.coordinator.remote_client import too_large
from nearfar.coordinator.sessions import ReliableChannel
from nearfar.coordinator.task import Task, TaskOutcome, TaskState
from nearfar.errors import (
    CoordinatorLost,
    InitializerFailed,
    NearfarError,
    NotAdmitted,
    PoolBroken,
    ProtocolError,
)
from nearfar.net.frames import shown
from nearfar.net.resources import EACH

WINDOW = 1000
WINDOW_EACH = 512
"""More tasks for each worker: two of its largest batches."""
WINDOW_BYTES = 4 << 20
FEW_EACH = 4
"""Tasks for each worker that may be under way, however large they are."""

Answer = Sequence[Any]
"""Status, blob and buffers, unread."""


class InFlightTasks:
    """`read_error` reads what an initializer raised, as a worker pickled it."""

    def __init__(self, read_error: Callable[[bytes], BaseException]) -> None:
        self.outcomes: deque[tuple[Task, Answer | BaseException]] = deque()
        """Tasks that have come to an end."""
        self.cancels: set[int] = set()
        """Of the sent, those to be cancelled: said in every session until there is an answer."""
        self.done = 0
        """Tasks that a worker answered."""
        self.stale = 0
        """Outcomes of tasks that had one."""
        self.unsent: deque[Task] = deque()
        """Cancelled ones are passed over when their turn comes."""
        self.asked_back: set[Task] = set()
        """The tasks of `cancels`."""
        self._sent: dict[int, Task] = {}
        self._serial = 0
        self._withdrawn = 0
        self._bytes = 0
        self.largest = 0
        """Bytes that one task may have; several that were sent have half as many together. 0: any number."""
        self._read_error = read_error

    def __len__(self) -> int:
        return len(self._sent) + len(self.unsent) - self._withdrawn

    def counts(self) -> tuple[int, int]:
        """How many tasks wait here, and how many the coordinator has."""
        return len(self.unsent) - self._withdrawn, len(self._sent)

    def add(self, task: Task) -> None:
        task.state = TaskState.WAITING
        self.unsent.append(task)

    def withdraw(self, task: Task) -> None:
        """It was not sent yet, and will not be."""
        task.state = TaskState.SETTLED
        self._withdrawn += 1

    def ask_back(self, tasks: Set[Task]) -> list[int]:
        """The numbers of those of `tasks`, which were sent, that are to be cancelled from now on."""
        fresh = tasks - self.asked_back
        if not fresh:
            return []
        numbers = [number for number, task in self._sent.items() if task in fresh]
        self.asked_back |= fresh
        self.cancels.update(numbers)
        return numbers

    # -- to the coordinator ------------------------------------------------------------------------

    def room(self, workers: int) -> bool:
        """True if one more may be sent to a coordinator with so many workers."""
        if self._bytes >= WINDOW_BYTES:
            return len(self._sent) < FEW_EACH * (workers + 1)
        return len(self._sent) < WINDOW + WINDOW_EACH * workers

    def send(self, workers: int) -> list[Row]:
        """Rows of SUBMIT: those that are to be sent now."""
        rows = []
        while self.unsent and self.room(workers):
            task = self.unsent[0]
            size = _size(task)
            if task.state is not TaskState.WAITING:
                self._withdrawn -= 1
            elif 0 < self.largest < size:
                self.end(task, self._too_large(size))
            elif self._sent and 0 < self.largest < 2 * (self._bytes + size + EACH * (len(self._sent) + 1)):
                break
            else:
                task.state = TaskState.GIVEN
                self._serial += 1
                self._sent[self._serial] = task
                self._bytes += size
                rows.append(_row(self._serial, task))
            self.unsent.popleft()
        return rows

    def sent(self) -> list[Row]:
        """Rows of SUBMIT: those that were sent and have no outcome, in their order."""
        if self.largest:  # another coordinator may take less
            for number, task in list(self._sent.items()):
                if (size := _size(task)) > self.largest and self._take(number) is not None:
                    self.end(task, self._too_large(size))
        return [_row(number, task) for number, task in self._sent.items()]

    def _too_large(self, size: int) -> NearfarError:
        return NearfarError(too_large("arguments", size, self.largest))

    # -- the ends of tasks -------------------------------------------------------------------------

    def settle(self, number: int, outcome: int, blob: Any, buffers: Any) -> None:
        """The coordinator told an outcome."""
        task = self._take(number)
        if task is None:
            self.stale += 1
        elif outcome != TaskOutcome.FAILED:
            task.state = TaskState.SETTLED
            self.done += 1
            self.outcomes.append((task, (outcome, blob, buffers)))
        else:
            try:
                error = failures.read(blob, self._read_error)
            except ProtocolError as unreadable:
                error = unreadable
            self.end(task, error)

    def cancelled(self, number: int, never: bool) -> None:
        """The coordinator answered: it will `never` run, or it is too late."""
        self._answered(number)
        if never and (task := self._take(number)) is not None:
            self.end(task, CancelledError())

    def end(self, task: Task, error: BaseException) -> None:
        task.state = TaskState.SETTLED
        self.outcomes.append((task, error))

    def fail(self, error: BaseException) -> None:
        """Every task comes to this end."""
        for task in [*self._sent.values(), *self.unsent]:
            if task.state is not TaskState.SETTLED:
                self.end(task, error)
        self._sent.clear()
        self.unsent.clear()
        self.cancels.clear()
        self.asked_back.clear()
        self._bytes = self._withdrawn = 0

    def _answered(self, number: int) -> None:
        """The coordinator has said what became of a wish to cancel."""
        if number in self.cancels:
            self.cancels.discard(number)
            self.asked_back.discard(self._sent[number])

    def _take(self, number: int) -> Task | None:
        self._answered(number)
        task = self._sent.pop(number, None)
        if task is not None:
            self._bytes -= _size(task)
        return task


def _size(task: Task) -> int:
    size = len(task.blob)
    return size + sum(memoryview(part).nbytes for part in task.buffers) if task.buffers else size


def _row(number: int, task: Task) -> Row:
    parts = (task.blob, list(task.buffers))
    return (number, task.mode, task.function, *parts, task.timeout, task.retries)


T = TypeVar("T", bound=Task)

GATHER = 0.001
"""Seconds that tasks wait for company while `TALKATIVE` messages are on their way."""
TALKATIVE = 8
ENOUGH = 256
"""Tasks that are company enough."""


class FarClient:
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
        self._calling = ClientSession(CLIENT, name, about, wait, stem)
        self._join = (eager, [] if initializer is None else [initializer])
        self._pending = InFlightTasks(read_error)
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
        return self._calling.session_name

    @property
    def stage(self) -> SessionStage:
        """CLOSED: nothing can be run any more."""
        return self._calling.stage

    @property
    def outcomes(self) -> deque[tuple[Task, Answer | BaseException]]:
        """Tasks that have come to an end; who runs the machine empties it, and tells them."""
        return self._pending.outcomes

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
        return [task for task in self._pending.unsent if task.state is TaskState.WAITING]

    @property
    def has_capacity(self) -> bool:
        """True if one more task would be sent at once."""
        talk = self._calling.open_talk()
        if talk is None:
            return self.stage is SessionStage.NEW
        return self._said - talk.acked < TALKATIVE and self._pending.room(self.workers)

    def counts(self) -> tuple[int, int]:
        """How many tasks wait here, and how many the coordinator has."""
        return self._pending.counts()

    def __len__(self) -> int:
        """Tasks without an outcome."""
        return len(self._pending)

    # -- from the program --------------------------------------------------------------------------

    def connect(self, now: float) -> None:
        """Begin the first session."""
        if self.stage is SessionStage.NEW:
            self._calling.begin(now)

    def submit(self, task: Task) -> None:
        """Take a task; once nothing can be run any more it comes to its end at once."""
        if self.error is not None:
            self._pending.end(task, self.error)
        else:
            self._pending.add(task)

    def cancel(self, tasks: Sequence[T]) -> list[T]:
        """Those that will never run: this answer is their only outcome.

        Of the others that have no outcome the coordinator is asked: `CancelledError` or an answer will tell.
        """
        never = [task for task in tasks if task.state is TaskState.WAITING]
        for task in never:
            self._pending.withdraw(task)
        self._cancels += self._pending.ask_back({task for task in tasks if task.state is TaskState.GIVEN})
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

    def receive(self, envelope: PoolFrame, now: float) -> None:
        """A message came."""
        kind, fields, _ = envelope.message
        match kind:
            case PoolMessageType.WELCOME:
                self._welcome(envelope.message, now)
            case PoolMessageType.REFUSED:
                self._break(PoolBroken(f"the coordinator refused: {shown(fields[0])}"))
            case PoolMessageType.STRANGER:
                if self._said_bye is not None:  # it has forgotten us, as it was asked to
                    self._calling.stage = SessionStage.CLOSED
                elif self.stage is SessionStage.OPEN:
                    self._calling.begin(now)
            case _:
                talk = self._calling.open_talk()
                for message in () if talk is None else talk.hear(envelope, now):
                    self._handle(message)

    def turned_away(self, why: str, now: float) -> None:
        """The socket of the session was not let in."""
        self._calling.turned_away(why, now)
        if self._calling.barred:
            self._break(NotAdmitted(f"cannot use the coordinator at {self._place}: {self._calling.barred}"))

    def tick(self, now: float) -> None:
        """Time passed."""
        self._calling.tick(now)
        talk = self._calling.open_talk()
        if talk is not None and now >= self._farewell():
            self._calling.stage = SessionStage.CLOSED
        elif self._calling.lost(now):
            self._break(self._lost)

    def flush(self, now: float) -> list[Connect | SendMessage]:
        """Everything that is to be done."""
        talk = self._calling.open_talk()
        if talk is not None:
            self._submit_unsent(talk, now)
            for number in self._cancels:
                self._said = talk.say(now, PoolMessageType.CANCEL, number)
            self._cancels.clear()
            if self._leaving and not self._pending and self._said_bye is None:
                self._said_bye = now
                talk.say(now, PoolMessageType.BYE)
        elif self._leaving and not self._pending:
            self._calling.stage = SessionStage.CLOSED
        return self._calling.flush(now)

    def deadline(self, now: float) -> float:
        """When `tick` and `flush` are wanted next."""
        deadline = min(self._calling.deadline(now), self._farewell())
        return deadline if self._unsent_since is None else min(deadline, self._unsent_since + GATHER)

    def away(self, now: float) -> float:
        """For how many seconds no coordinator has answered; 0 if one does."""
        return self._calling.away(now)

    def _farewell(self) -> float:
        """When it goes without an answer to its goodbye."""
        return inf if self._said_bye is None else self._calling.silent_since(self._said_bye) + FAREWELL

    def _welcome(self, message: PoolMessage, now: float) -> None:
        facts = self._calling.welcome(message, now)
        talk = self._calling.open_talk()
        if facts is None or talk is None:
            return
        self.workers = facts["workers"]
        self._pending.largest = facts.get("largest", 0)
        eager, rows = self._join
        self._said = talk.say(now, PoolMessageType.JOIN, eager, rows=rows)
        self._submit(talk, self._pending.sent(), now, again=True)
        self._cancels = sorted(self._pending.cancels)

    # -- to the coordinator ------------------------------------------------------------------------

    def _submit_unsent(self, talk: ReliableChannel, now: float) -> None:
        """At once while little is on its way; else what gathers within a moment."""
        unsent = self._pending.unsent
        if not unsent or not self._pending.room(self.workers):
            self._unsent_since = None
            return
        if self._said - talk.acked >= TALKATIVE and len(unsent) < ENOUGH:
            if self._unsent_since is None:
                self._unsent_since = now
            if now < self._unsent_since + GATHER:
                return
        self._unsent_since = None
        self._submit(talk, self._pending.send(self.workers), now, again=False)

    def _submit(self, talk: ReliableChannel, rows: list[Row], now: float, *, again: bool) -> None:
        for share in shares(rows, FORMS[PoolMessageType.SUBMIT].blob):
            self._said = talk.say(now, PoolMessageType.SUBMIT, again, rows=share)

    # -- from the coordinator ----------------------------------------------------------------------

    def _handle(self, message: PoolMessage) -> None:
        match message.kind:
            case PoolMessageType.OUTCOMES:
                for number, outcome, blob, buffers in message.rows or ():
                    self._pending.settle(number, outcome, blob, buffers)
            case PoolMessageType.CANCELLED:
                self._pending.cancelled(*message.fields)
            case PoolMessageType.WORKERS:
                self.workers = message.fields[0]
            case PoolMessageType.PART:
                self._calling.stage = SessionStage.CLOSED
            case _:
                pass  # a word for agents

    def _break(self, error: BaseException) -> None:
        self.error = error
        self._calling.stage = SessionStage.CLOSED
        self._pending.fail(error)
