"""A client of a remote coordinator, as a pure state machine: its sessions, and its tasks in flight.

::

    NEW --connect--> GREETING --WELCOME--> OPEN --leave ... BYE, PART--> CLOSED
                        ^                   |
                        +----- STRANGER ----+     silent or away for `wait` seconds: every task fails

`InFlightTasks` numbers tasks as they are sent. The numbers outlast sessions and coordinators: a task without
an answer is submitted *again* in the next session, and still runs only once. The client sends no more than
keeps the coordinator's workers busy; the other tasks wait here, so that a million tasks are not stored twice.
`FarClient` holds the sessions (`nearfar.net.session`).

The thread that waits drives it: `receive` and `tick` take events, `flush` returns the actions, `outcomes`
holds the ended tasks. It must be driven several times a lease, or the coordinator counts the client as dead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence, Set
from concurrent.futures import CancelledError
from math import inf
from typing import Any, TypeVar

from nearfar.coordinator import task as failures
from nearfar.coordinator.large_parts import CLIENT, Row, shares
from nearfar.coordinator.messages import (
    FAREWELL,
    FORMS,
    LOOSE,
    PoolChannel,
    PoolFrame,
    PoolMessage,
    PoolMessageType,
)
from nearfar.coordinator.remote_client import too_large
from nearfar.coordinator.sessions import client_session
from nearfar.coordinator.task import Task, TaskOutcome, TaskState
from nearfar.errors import (
    CoordinatorLost,
    InitializerFailed,
    NearfarError,
    NotAdmitted,
    PoolBroken,
    ProtocolError,
)
from nearfar.net.resources import EACH
from nearfar.net.session import Connect, SendMessage, SessionStage
from nearfar.net.validation import shown
from nearfar.serialization.pickles.calls import dump_bare

WINDOW = 1000
WINDOW_EACH = 512
"""More tasks for each worker: two of its largest batches."""
PLENTY_EACH = 64
"""Tasks for each worker that keep it busy for longer than further tasks are delayed to form a batch."""
WINDOW_BYTES = 4 << 20
FEW_EACH = 4
"""Tasks for each worker that may be under way, however large they are."""

Answer = Sequence[Any]
"""Status, blob and buffers, unread."""

_OPEN, _OUTCOMES = SessionStage.OPEN, PoolMessageType.OUTCOMES
# Looked up once, for each task needs them: an attribute of an enum costs eight times a global.
_WAITING, _GIVEN, _SETTLED, _FAILED = (
    TaskState.WAITING,
    TaskState.GIVEN,
    TaskState.SETTLED,
    int(TaskOutcome.FAILED),
)


class InFlightTasks:
    """The tasks without an outcome. `read_error` reads an initializer's error, as a worker pickled it."""

    def __init__(self, read_error: Callable[[bytes], BaseException]) -> None:
        self.outcomes: deque[tuple[Task, Answer | BaseException]] = deque()
        """Ended tasks, each with its answer or error."""
        self.cancels: set[int] = set()
        """Numbers of sent tasks to cancel: repeated in every session until the coordinator answers."""
        self.done = 0
        """Tasks that a worker answered."""
        self.stale = 0
        """Outcomes of tasks that had one."""
        self.unsent: deque[Task] = deque()
        """Cancelled tasks stay until they come first, and are skipped then."""
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

    def withdraw(self, task: Task) -> None:
        """Drop a task that was not sent."""
        task.state = TaskState.SETTLED
        self._withdrawn += 1

    def ask_back(self, tasks: Set[Task]) -> list[int]:
        """Mark sent `tasks` for cancelling; returns the numbers of those not marked before."""
        fresh = tasks - self.asked_back
        if not fresh:
            return []
        numbers = [number for number, task in self._sent.items() if task in fresh]
        self.asked_back |= fresh
        self.cancels.update(numbers)
        return numbers

    # -- to the coordinator ------------------------------------------------------------------------

    def plenty(self, workers: int) -> bool:
        """True if the sent tasks keep the workers busy for a while: further tasks may wait for a batch."""
        return len(self._sent) >= PLENTY_EACH * (workers + 1)

    def room(self, workers: int) -> bool:
        """True if one more may be sent to a coordinator with so many workers."""
        if self._bytes >= WINDOW_BYTES:
            return len(self._sent) < FEW_EACH * (workers + 1)
        return len(self._sent) < WINDOW + WINDOW_EACH * workers

    def send(self, workers: int) -> list[Row]:
        """Rows of SUBMIT: the tasks to send now."""
        rows: list[Row] = []
        unsent, sent, largest = self.unsent, self._sent, self.largest
        most = WINDOW + WINDOW_EACH * workers
        while unsent and len(sent) < most and (self._bytes < WINDOW_BYTES or self.room(workers)):
            task = unsent[0]
            if type(task.blob) is tuple:
                task.blob = dump_bare(task.blob)
            size = _size(task) if task.buffers else len(task.blob)
            if task.state is not _WAITING:
                self._withdrawn -= 1
            elif 0 < largest < size:
                self.end(task, self._too_large(size))
            elif sent and 0 < largest < 2 * (self._bytes + size + EACH * (len(sent) + 1)):
                break
            else:
                task.state = _GIVEN
                self._serial += 1
                sent[self._serial] = task
                self._bytes += size
                rows.append(
                    (
                        self._serial,
                        task.mode,
                        task.function,
                        task.blob,
                        task.buffers,
                        task.timeout,
                        task.retries,
                    )
                )
            unsent.popleft()
        return rows

    def sent(self) -> list[Row]:
        """Rows of SUBMIT: the sent tasks without an outcome, in order."""
        if self.largest:  # a new coordinator may accept less
            for number, task in list(self._sent.items()):
                if (size := _size(task)) > self.largest and self._take(number) is not None:
                    self.end(task, self._too_large(size))
        return [
            (number, task.mode, task.function, task.blob, task.buffers, task.timeout, task.retries)
            for number, task in self._sent.items()
        ]

    def _too_large(self, size: int) -> NearfarError:
        return NearfarError(too_large("arguments", size, self.largest))

    # -- the ends of tasks -------------------------------------------------------------------------

    def settle(self, rows: Iterable[Row]) -> None:
        """Store outcomes from the coordinator: rows of OUTCOMES."""
        sent, cancels = self._sent, self.cancels
        for number, outcome, blob, buffers in rows:
            if cancels:
                self._answered(number)
            task = sent.pop(number, None)
            if task is None:
                self.stale += 1
                continue
            self._bytes -= _size(task) if task.buffers else len(task.blob)
            if outcome != _FAILED:
                task.state = _SETTLED
                self.done += 1
                self.outcomes.append((task, (outcome, blob, buffers)))
            else:
                try:
                    error = failures.read(blob, self._read_error)
                except ProtocolError as unreadable:
                    error = unreadable
                self.end(task, error)

    def cancelled(self, number: int, never: bool) -> None:
        """The coordinator answered CANCEL: the task will `never` run, or it was too late."""
        self._answered(number)
        if never and (task := self._take(number)) is not None:
            self.end(task, CancelledError())

    def end(self, task: Task, error: BaseException) -> None:
        task.state = TaskState.SETTLED
        self.outcomes.append((task, error))

    def fail(self, error: BaseException) -> None:
        """End every task with `error`."""
        for task in [*self._sent.values(), *self.unsent]:
            if task.state is not TaskState.SETTLED:
                self.end(task, error)
        self._sent.clear()
        self.unsent.clear()
        self.cancels.clear()
        self.asked_back.clear()
        self._bytes = self._withdrawn = 0

    def _answered(self, number: int) -> None:
        """The coordinator has answered for this task: it need not be asked to cancel it."""
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


T = TypeVar("T", bound=Task)

GATHER = 0.001
"""Seconds that tasks wait to form a batch while `TALKATIVE` messages are unacked, or the workers are busy."""
TALKATIVE = 8
ENOUGH = 256
"""Tasks that make a batch large enough to send at once."""


class FarClient:
    """See the module. `name` is new for every client; `about` describes its process in HELLO."""

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
        """`initializer`: function, blob and buffers; `read_error` reads its error, as a worker pickled it.

        `wait`: seconds without a coordinator after which every task fails with `CoordinatorLost`, whose
        message names `place`.
        """
        self.error: BaseException | None = None
        """Why no task can run any more."""
        self.workers = 0
        """Workers of the coordinator."""
        self.calling = client_session(CLIENT, name, about, wait, stem)
        """The session with the coordinator; its `stage` is also this client's."""
        self._join = (eager, [] if initializer is None else [initializer])
        self._pending = InFlightTasks(read_error)
        self.outcomes = self._pending.outcomes
        """Ended tasks; the driver of this machine empties it and delivers them."""
        self._cancels: list[int] = []
        """Numbers of tasks to cancel for which no CANCEL was sent in this session."""
        self._said = 0
        self._unsent_since: float | None = None
        self._place = place
        self._lost = CoordinatorLost(f"no coordinator has answered at {place} for {wait:g} s")
        self._leaving = False
        self._said_bye: float | None = None
        """When BYE was sent, which happens once every task has its outcome."""

    @property
    def session_name(self) -> str:
        """The name of the session's socket."""
        return self.calling.session_name

    @property
    def stage(self) -> SessionStage:
        """CLOSED: no task can run any more."""
        return self.calling.stage

    @property
    def done(self) -> int:
        """Tasks that a worker answered."""
        return self._pending.done

    @property
    def stale(self) -> int:
        """Outcomes received for tasks that had one."""
        return self._pending.stale

    @property
    def unsent(self) -> list[Task]:
        """The tasks that wait here."""
        return [task for task in self._pending.unsent if task.state is TaskState.WAITING]

    @property
    def has_capacity(self) -> bool:
        """True if one more task would be sent at once."""
        calling, pending, workers = self.calling, self._pending, self.workers
        talk = calling.talk
        if calling.stage is not _OPEN or talk is None:
            return calling.stage is SessionStage.NEW
        return (
            self._said - talk.out.received < TALKATIVE
            and not pending.plenty(workers)
            and pending.room(workers)
        )

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
            self.calling.begin(now)

    def submit(self, task: Task) -> None:
        """Take a task; after `error` is set, it ends at once with that error."""
        self.submit_all(deque((task,)))

    def submit_all(self, tasks: deque[Any]) -> None:
        """Take all of `tasks`; other threads may append to them meanwhile."""
        unsent = self._pending.unsent
        while tasks:
            task = tasks.popleft()
            if self.error is not None:
                self._pending.end(task, self.error)
            else:
                task.state = _WAITING
                unsent.append(task)

    def cancel(self, tasks: Sequence[T]) -> list[T]:
        """Returns the tasks that will never run: they get no other outcome.

        The coordinator is asked to cancel the others without an outcome: each ends with `CancelledError` or
        its answer.
        """
        never = [task for task in tasks if task.state is TaskState.WAITING]
        for task in never:
            self._pending.withdraw(task)
        self._cancels += self._pending.ask_back({task for task in tasks if task.state is TaskState.GIVEN})
        return never

    @property
    def cancelling(self) -> Set[Task]:
        """The tasks that the coordinator was asked to cancel and has not answered."""
        return self._pending.asked_back

    def fail(self, error: BaseException) -> None:
        """End every task with `error`; running ones go on, and their outcomes are dropped."""
        self._pending.fail(error)

    def leave(self) -> None:
        """Send BYE once every task has its outcome; submit no more."""
        self._leaving = True

    def terminate(self) -> None:
        """End every task with `CancelledError` and send BYE; the coordinator kills the running ones."""
        self._pending.fail(CancelledError())
        self._leaving = True

    # -- events ------------------------------------------------------------------------------------

    def receive(self, envelope: PoolFrame, now: float) -> None:
        """Process a message."""
        kind = envelope.message.kind
        if kind in LOOSE:
            self._receive_loose(envelope.message, now)
        elif (talk := self.calling.open_talk()) is not None:
            for message in talk.hear(envelope, now):
                if message.kind is _OUTCOMES:
                    self._pending.settle(message.rows or ())
                else:
                    self._handle(message)

    def _receive_loose(self, message: PoolMessage, now: float) -> None:
        """A message that opens or ends a session."""
        match message.kind:
            case PoolMessageType.WELCOME:
                self._welcome(message, now)
            case PoolMessageType.REFUSED:
                self._break(PoolBroken(f"the coordinator refused: {shown(message.fields[0])}"))
            case _ if self._said_bye is not None:  # the coordinator dropped this client after its BYE
                self.calling.stage = SessionStage.CLOSED
            case _ if self.stage is SessionStage.OPEN:
                self.calling.begin(now)

    def turned_away(self, why: str, now: float) -> None:
        """The session's socket was not admitted."""
        self.calling.turned_away(why, now)
        if self.calling.barred:
            self._break(NotAdmitted(f"cannot use the coordinator at {self._place}: {self.calling.barred}"))

    def tick(self, now: float) -> None:
        """Process the time."""
        self.calling.tick(now)
        talk = self.calling.open_talk()
        if talk is not None and now >= self._farewell():
            self.calling.stage = SessionStage.CLOSED
        elif self.calling.lost(now):
            self._break(self._lost)

    def flush(self, now: float) -> list[Connect | SendMessage]:
        """The actions to perform now."""
        calling = self.calling
        talk = calling.talk
        if calling.stage is _OPEN and talk is not None:
            if self._pending.unsent:
                self._submit_unsent(talk, now)
            else:
                self._unsent_since = None
            if self._cancels:
                for number in self._cancels:
                    self._said = talk.send(PoolMessage(PoolMessageType.CANCEL, (number,)), now)
                self._cancels.clear()
            if self._leaving and not self._pending and self._said_bye is None:
                self._said_bye = now
                talk.send(PoolMessage(PoolMessageType.BYE), now)
        elif self._leaving and not self._pending:
            calling.stage = SessionStage.CLOSED
        return calling.flush(now)

    def deadline(self, now: float) -> float:
        """When `tick` and `flush` must be called next."""
        deadline = self.calling.deadline(now)
        if self._said_bye is not None:
            deadline = min(deadline, self._farewell())
        return deadline if self._unsent_since is None else min(deadline, self._unsent_since + GATHER)

    def away(self, now: float) -> float:
        """Seconds since a coordinator last answered; 0 if one answers."""
        return self.calling.away(now)

    def _farewell(self) -> float:
        """When it closes without an answer to BYE."""
        return inf if self._said_bye is None else self.calling.silent_since(self._said_bye) + FAREWELL

    def _welcome(self, message: PoolMessage, now: float) -> None:
        name, facts = message.fields
        if not self.calling.welcome(name, facts["lease"], now) or (talk := self.calling.open_talk()) is None:
            return
        self.workers = facts["workers"]
        self._pending.largest = facts.get("largest", 0)
        eager, rows = self._join
        self._said = talk.send(PoolMessage(PoolMessageType.JOIN, (eager,), rows), now)
        self._submit(talk, self._pending.sent(), now, again=True)
        self._cancels = sorted(self._pending.cancels)

    # -- to the coordinator ------------------------------------------------------------------------

    def _submit_unsent(self, talk: PoolChannel, now: float) -> None:
        """Submit at once while few messages are unacked; else after `GATHER` seconds, as a batch."""
        pending, workers = self._pending, self.workers
        if not pending.room(workers):
            self._unsent_since = None
            return
        gathers = self._said - talk.out.received >= TALKATIVE or pending.plenty(workers)
        if gathers and len(pending.unsent) < ENOUGH:
            if self._unsent_since is None:
                self._unsent_since = now
            if now < self._unsent_since + GATHER:
                return
        self._unsent_since = None
        self._submit(talk, self._pending.send(self.workers), now, again=False)

    def _submit(self, talk: PoolChannel, rows: list[Row], now: float, *, again: bool) -> None:
        for share in shares(rows, FORMS[PoolMessageType.SUBMIT].blob):
            self._said = talk.send(PoolMessage(PoolMessageType.SUBMIT, (again,), share), now)

    # -- from the coordinator ----------------------------------------------------------------------

    def _handle(self, message: PoolMessage) -> None:
        match message.kind:
            case PoolMessageType.CANCELLED:
                self._pending.cancelled(*message.fields)
            case PoolMessageType.WORKERS:
                self.workers = message.fields[0]
            case PoolMessageType.PART:
                self.calling.stage = SessionStage.CLOSED
            case _:
                pass  # meant for agents

    def _break(self, error: BaseException) -> None:
        self.error = error
        self.calling.stage = SessionStage.CLOSED
        self._pending.fail(error)
