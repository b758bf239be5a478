"""The coordinator's state of each worker and each client, and the timeouts of running tasks."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from nearfar.coordinator.task import Mode, Task, TaskState
from nearfar.errors import InitializerFailed

NOBODY = ""
"""Replaces the name of a client that is gone in its batches: a new client may have the same name."""


class TaskBatch:
    """Tasks of one client that travel in one message. A worker that reads it runs them in order."""

    __slots__ = ("answered", "client", "cost", "owner", "since", "tasks")

    def __init__(self, client: str, tasks: list[Task], cost: float | None) -> None:
        self.client = client
        self.tasks = tasks
        self.answered = 0
        """How many tasks, from the first on, have been answered."""
        self.cost = cost
        """Estimated seconds; None if its function was not measured yet."""
        self.owner: Any = None
        """The `Client` that counts it as given; a later client may have the same name."""
        self.since = 0.0
        """When it became the first of its worker."""

    def unanswered(self) -> list[Task]:
        return self.tasks[self.answered :]


class Link(Protocol):
    """Sends orders to a worker. No method blocks; results come as events."""

    def give(self, worker: Worker, batch: TaskBatch) -> None:
        """Send it a batch."""

    def recall(self, worker: Worker) -> None:
        """Recall the batches that it has not read: answered by `Scheduler.returned`."""

    def kill(self, worker: Worker) -> None:
        """End its process at once: answered by `Scheduler.died`."""

    def retire(self, worker: Worker) -> None:
        """End an idle worker; from this call on the scheduler does not count it."""


class WorkerStage(IntEnum):
    """The states of a worker at the coordinator."""

    READY = 0
    DRAINING = 1
    """It finishes its tasks, and gets no more."""
    DOOMED = 2
    """It is being killed, and its end has not been reported yet."""
    GONE = 3


class Revocation(IntEnum):
    """Whether a worker was asked to return the batches that it has not read."""

    UNASKED = 0
    ASKED = 1
    IN_VAIN = 2
    """It had read them all: asking again is useless before it begins its next batch."""


class Worker:
    """One process that runs tasks. Its name is new at each start."""

    __slots__ = (
        "ahead",
        "batches",
        "host",
        "link",
        "memory",
        "name",
        "origin",
        "pid",
        "prepared",
        "quota",
        "ran",
        "recall",
        "stage",
        "unsent",
        "verdict",
    )

    def __init__(
        self,
        name: str,
        link: Link,
        *,
        host: str,
        pid: int,
        quota: int | None = None,
        ahead: bool = True,
        origin: str = "",
    ) -> None:
        """`quota`: tasks after which it is replaced. `ahead`: unread batches can surely be recalled, so one
        may be sent ahead even during a long task. `origin`: the session of the agent that keeps its answers
        until their release, if there is one."""
        self.name = name
        self.link = link
        self.host = host
        self.pid = pid
        self.quota = quota
        self.ahead = ahead
        self.origin = origin
        self.stage = WorkerStage.READY
        self.batches: deque[TaskBatch] = deque()
        self.unsent: TaskBatch | None = None
        """The last batch, if it is held back until the initializer before it has run."""
        self.prepared: set[str] = set()
        """The clients whose initializer it has run."""
        self.recall = Revocation.UNASKED
        self.verdict: BaseException | None = None
        """The error of its running task once it is dead, if not `WorkerLost`."""
        self.memory: int | None = None
        """Resident bytes of its process, as far as they are known."""
        self.ran = 0
        """Tasks that it answered, including initializers, which raise its quota."""

    def willing(self) -> bool:
        """True if its stage and its quota allow more tasks."""
        return self.stage is WorkerStage.READY and (
            self.quota is None or self.ran + self.holds() < self.quota
        )

    def retirable(self) -> bool:
        """True if it has no task and will get none."""
        return not self.batches and self.stage < WorkerStage.DOOMED and not self.willing()

    def __repr__(self) -> str:
        return f"<Worker {self.name} {self.stage.name} {sum(1 for _ in self.unanswered())} tasks>"

    def unanswered(self) -> Iterator[Task]:
        """Its tasks without an answer, in order."""
        for batch in self.batches:
            yield from batch.unanswered()

    def holds(self) -> int:
        """The number of tasks that it has not answered."""
        held = 0
        for batch in self.batches:
            held += len(batch.tasks) - batch.answered
        return held

    def asked(self) -> int:
        """The number of tasks that were sent to it and not answered."""
        sent = 0
        for batch in self.batches:
            if batch is not self.unsent:
                sent += len(batch.tasks) - batch.answered
        return sent


@dataclass(frozen=True, slots=True)
class Initializer:
    """A call that every worker runs once before a client's first task."""

    function: bytes
    blob: Any
    buffers: Sequence[Any] = ()


class Preparation(Task):
    """A client's initializer on its way to one worker."""

    __slots__ = ("worker",)

    def __init__(self, client: str, worker: Worker, initializer: Initializer) -> None:
        self.client = client
        self.worker = worker
        self.mode = Mode.PREPARE
        self.function = initializer.function
        self.blob = initializer.blob
        self.buffers = initializer.buffers
        self.state = TaskState.GIVEN


FEW = 64
"""Stale entries that a heap may always have."""


class Client:
    """A client, which owns tasks."""

    __slots__ = (
        "collect",
        "eager",
        "error",
        "failures",
        "given",
        "held_back",
        "initializer",
        "name",
        "read_error",
        "waiting",
    )

    def __init__(
        self,
        name: str,
        initializer: Initializer | None = None,
        read_error: Callable[[Any], BaseException] = InitializerFailed,
        *,
        eager: bool = False,
    ) -> None:
        """`read_error` unpickles the error that its initializer raised.

        `eager`: the initializer runs at once in every worker that can take it; else only in workers that get
        tasks of this client, before the first.
        """
        self.name = name
        self.initializer = initializer
        self.read_error = read_error
        self.eager = eager and initializer is not None
        self.waiting: deque[Task] = deque()
        """Waiting tasks; cancelled ones are skipped when they would be assigned."""
        self.given = 0
        """Batches that workers hold."""
        self.failures = 0
        """Consecutive workers that died in its initializer."""
        self.error: BaseException | None = None
        """Why its tasks cannot run, if they cannot."""
        self.held_back = False
        """Its tasks are not assigned to workers, because it does not take their results."""
        self.collect: Callable[[list[tuple[Any, Sequence[Any]]], str], object] | None = None
        """Called with the tasks that a worker has answered, each with its answer, and the worker's `origin`.
        None: they become outcomes of the scheduler."""

    def next(self) -> Task | None:
        """The next task, not removed; None if none waits, or the client is held back."""
        if self.held_back:
            return None
        waiting = self.waiting
        while waiting:
            if waiting[0].state is TaskState.WAITING:
                return waiting[0]
            waiting.popleft()
        return None


class RoundRobin:
    """Chooses the next client: of those with waiting tasks, the one with the fewest batches at workers.

    So one client's long tasks never keep another from its share of the workers. Among equals, the one that
    has waited longest. A heap with stale entries: the cost grows with the logarithm of the clients.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Client]] = []
        self._entered: dict[str, tuple[int, int, Client]] = {}
        self._serial = 0

    def enter(self, client: Client) -> None:
        """`client` has tasks waiting, or its count of given batches changed."""
        entry = self._entered.get(client.name)
        if entry is not None and entry[0] == client.given:
            return
        self._serial += 1
        entry = (client.given, self._serial, client)
        self._entered[client.name] = entry
        if len(self._heap) > 2 * len(self._entered) + FEW:
            self._heap = list(self._entered.values())
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, entry)

    def first(self) -> Client | None:
        """The next client; None if no client has a task waiting."""
        while self._heap:
            entry = self._heap[0]
            client = entry[2]
            if self._entered.get(client.name) is entry:
                if client.next() is not None:
                    return client
                del self._entered[client.name]
            heapq.heappop(self._heap)
        return None

    def leave(self, client: Client) -> None:
        self._entered.pop(client.name, None)


"""Stale entries that the heap may always have."""


class TaskTimeouts:
    """At most one timeout for each worker: of its first batch. A heap, whose stale entries are removed."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Worker, TaskBatch]] = []
        self._serial = 0
        self._most = FEW
        self.due: float | None = None
        """When to call `ring` next; None: no timeout is set."""

    def set(self, when: float, worker: Worker) -> None:
        """Set the timeout of the batch that `worker` runs now."""
        self._serial += 1
        heapq.heappush(self._heap, (when, self._serial, worker, worker.batches[0]))
        if len(self._heap) > self._most:
            self._heap = [entry for entry in self._heap if _runs(entry)]
            heapq.heapify(self._heap)
            self._most = 2 * len(self._heap) + FEW
        self.due = self._heap[0][0]

    def ring(self, now: float) -> list[Worker]:
        """The workers whose task exceeded its timeout."""
        rung = []
        while self._heap and self._heap[0][0] <= now:
            entry = heapq.heappop(self._heap)
            if _runs(entry):
                rung.append(entry[2])
        self.due = self._heap[0][0] if self._heap else None
        return rung


def _runs(entry: tuple[float, int, Worker, TaskBatch]) -> bool:
    batches = entry[2].batches
    return bool(batches) and batches[0] is entry[3]
