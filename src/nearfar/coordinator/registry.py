"""The clients and their waiting tasks: the order of clients, and the outcomes of tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from nearfar.coordinator.state import Client, Preparation, RoundRobin, TaskBatch, Worker
from nearfar.coordinator.task import Mode, Task, TaskState, TaskStatus
from nearfar.errors import InitializerFailed, WorkerLost

if TYPE_CHECKING:
    from nearfar.coordinator.statistics import TaskStatistics

POISON = 5
"""Worker processes that a task may crash, regardless of its `retries`; a lost machine does not count."""
START_FAILURES = 3
"""Consecutive workers that may die in a client's initializer."""

Answer = Sequence[Any]
"""Status, blob and buffers, encoded."""

# Module constants, since each task needs them: an attribute of an enum costs eight times a global.
_WAITING, _SETTLED, _PREPARE = TaskState.WAITING, TaskState.SETTLED, int(Mode.PREPARE)


class TaskRegistry:
    """The tasks that no worker has, and the outcomes of all tasks."""

    def __init__(self) -> None:
        self.clients: dict[str, Client] = {}
        self.outcomes: deque[tuple[Task, Answer | BaseException]] = deque()
        """Ended tasks; the driver of the machine empties it and delivers them."""
        self.cancelled: set[Task] = set()
        """Tasks to cancel that their workers were asked to return."""
        self.done = 0
        """Tasks that workers answered."""
        self.lost = 0
        """Tasks that failed with `WorkerLost` or `TaskTimeout`."""
        self.stale = 0
        """Answers to tasks that had been given up."""
        self.statistics: TaskStatistics | None = None
        """Set while a dashboard shows them."""
        self._turns = RoundRobin()
        self._only: Client | None = None
        """The only client, if there is exactly one: then it is always next."""

    def came(self, client: Client) -> None:
        self.clients[client.name] = client
        self._count()

    def gone(self, name: str) -> bool:
        """Drop a client and its waiting tasks; False if no client has that name."""
        client = self.clients.pop(name, None)
        if client is None:
            return False
        self._turns.leave(client)
        self._count()
        self.drop(client.waiting)
        client.waiting.clear()
        return True

    def _count(self) -> None:
        clients = self.clients.values()
        self._only = next(iter(clients)) if len(clients) == 1 else None
        for client in clients:
            self._enter(client)

    def _enter(self, client: Client) -> None:
        if self._only is None and client.waiting:
            self._turns.enter(client)

    def drop(self, tasks: Iterable[Task]) -> None:
        """Drop tasks without an outcome: their client has left."""
        for task in tasks:
            task.state = TaskState.SETTLED
            self.cancelled.discard(task)

    def hold(self, client: Client, back: bool) -> None:
        """`back`: assign none of its tasks; otherwise resume."""
        client.held_back = back
        if not back:
            self._enter(client)

    def submit(self, task: Task) -> None:
        client = self.clients[task.client]
        if client.error is not None:
            self.end(task, client.error)
            return
        task.state = _WAITING
        waiting = client.waiting
        waiting.append(task)
        if len(waiting) == 1 and self._only is None:  # otherwise it was entered already
            self._turns.enter(client)

    def submit_all(self, client: Client, tasks: deque[Any]) -> None:
        """As `submit`, for all tasks in the deque, of one client. Other threads may append meanwhile."""
        waiting, before = client.waiting, len(client.waiting)
        while tasks and client.error is None:
            task = tasks.popleft()
            task.state = _WAITING
            waiting.append(task)
        if not before and self._only is None:
            self._enter(client)
        while tasks:
            self.submit(tasks.popleft())

    def whose_turn(self) -> Client | None:
        """The client whose task is assigned next."""
        only = self._only
        if only is None:
            return self._turns.first()
        if not only.waiting or (only.waiting[0].state is _WAITING and not only.held_back):
            return only if only.waiting else None  # the usual case
        return only if only.next() is not None else None

    def given(self, batch: TaskBatch) -> None:
        """Count a batch that was assigned to a worker."""
        client = batch.owner = self.clients.get(batch.client)
        if client is not None:
            client.given += 1
            if self._only is None and client.waiting:
                self._turns.enter(client)

    def over(self, batch: TaskBatch) -> None:
        """Count a batch that no worker has any more."""
        client: Client | None = batch.owner
        if client is not None:
            client.given -= 1
            if self._only is None and client.waiting:
                self._turns.enter(client)

    def answered(
        self, tasks: Iterable[Task], answers: Iterable[Answer], owner: Client | None, origin: str
    ) -> None:
        """A worker of that `origin` ran the first of `tasks`, one for each answer; there may be more answers
        than tasks. `owner`: their client, if it is still there."""
        if self.cancelled:
            tasks = list(tasks)
            self.cancelled.difference_update(tasks)
        ended: list[tuple[Task, Answer]] = []
        for one in zip(tasks, answers, strict=False):
            task = one[0]
            if task.state is _SETTLED:
                self.stale += 1
            elif task.mode == _PREPARE and isinstance(task, Preparation):
                self._prepared(task, one[1])
            else:
                task.state = _SETTLED
                ended.append(one)
        self.done += len(ended)
        if owner is None or owner.collect is None:
            self.outcomes.extend(ended)
        elif ended:
            owner.collect(ended, origin)

    def requeue(self, tasks: Iterable[Task], worker: Worker) -> None:
        """`worker` has not started them: they become the next to assign, in their order."""
        for task in reversed(list(tasks)):
            if isinstance(task, Preparation):
                if task.state is TaskState.GIVEN:
                    worker.prepared.discard(task.client)
                if worker.quota is not None:
                    worker.quota -= 1
            elif task.state is TaskState.GIVEN:
                self._readmit(task)

    def _readmit(self, task: Task) -> None:
        client = self.clients[task.client]
        if task in self.cancelled:
            self.end(task, CancelledError())
        elif client.error is not None:
            self.end(task, client.error)
        elif task.hollow:
            task.state = TaskState.NEW  # to be submitted again
        else:
            task.state = TaskState.WAITING
            client.waiting.appendleft(task)
            self._enter(client)

    def blame(self, task: Task, worker: Worker, how: str, *, crashed: bool) -> None:
        """`worker` died while it ran `task`, or may have. `crashed`: only its process died, not its
        machine."""
        if task.state is TaskState.SETTLED:
            return
        error = worker.verdict or WorkerLost(worker.name, worker.host, worker.pid, how, task.describe())
        if isinstance(task, Preparation):
            if crashed:
                self._prepared(task, error)
        elif task.losses < min(task.retries, POISON - 1 if crashed else task.retries) and not worker.verdict:
            task.lose()
            self.requeue([task], worker)
        else:
            self.lost += 1
            if self.statistics is not None:
                self.statistics.failed(error)
            self.end(task, error)

    def refuse(self, task: Task, worker: Worker, error: BaseException) -> None:
        """`task` cannot be sent to `worker`."""
        if task.state is TaskState.SETTLED:
            return
        if not isinstance(task, Preparation):
            self.end(task, error)
            return
        task.state = TaskState.SETTLED
        worker.prepared.discard(task.client)
        if worker.quota is not None:
            worker.quota -= 1
        client = self.clients.get(task.client)
        if client is not None and client.error is None:
            self.break_client(client, InitializerFailed(f"the initializer cannot be sent: {error}"))

    def end(self, task: Task, error: BaseException) -> None:
        """End `task` with `error`."""
        task.state = TaskState.SETTLED
        self.cancelled.discard(task)
        self.outcomes.append((task, error))

    def _prepared(self, task: Preparation, outcome: Answer | BaseException) -> None:
        """The initializer has ended in one worker."""
        client = self.clients.get(task.client)
        task.state = TaskState.SETTLED
        if client is None or client.error is not None:
            return
        if isinstance(outcome, BaseException):
            client.failures += 1
            if client.failures >= START_FAILURES:
                reason = f"{client.failures} workers died in the initializer; the last: {outcome}"
                self.break_client(client, InitializerFailed(reason))
        elif outcome[0] == TaskStatus.VALUE:
            client.failures = 0
        elif outcome[0] == TaskStatus.TOO_LARGE:
            reason = "the initializer raised an error that has more bytes than the coordinator takes"
            self.break_client(client, InitializerFailed(reason))
        else:
            self.break_client(client, client.read_error(outcome[1]))

    def fail_client(self, client: Client, error: BaseException, given: Iterable[Task]) -> None:
        """End all its tasks with `error`, and the `given` ones: their answers are stale from then on."""
        for task in given:
            if task.state is TaskState.GIVEN and not isinstance(task, Preparation):
                self.end(task, error)
        self.break_client(client, error)

    def break_client(self, client: Client, error: BaseException) -> None:
        """No task of this client can run any more."""
        client.error = error
        if self.statistics is not None and isinstance(error, InitializerFailed):
            self.statistics.failed(error)
        waiting = list(client.waiting)
        client.waiting.clear()
        self._turns.leave(client)
        for task in waiting:
            if task.state is TaskState.WAITING:
                self.end(task, error)
