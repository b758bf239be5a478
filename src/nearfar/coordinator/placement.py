"""Which workers have room, and how many tasks make a batch, as measured."""

from __future__ import annotations

from itertools import islice

from nearfar.coordinator.state import Client, Revocation, TaskBatch, Worker, WorkerStage
from nearfar.coordinator.task import Mode, Task, TaskState

REMOTE_AHEAD = 0.002
"""Seconds: where unread tasks cannot surely be recalled, only a batch this short gets another one queued."""

# Module constants, since each batch needs them: an attribute of an enum costs eight times a global.
_READY, _ASKED, _UNASKED, _PREPARE = (
    WorkerStage.READY,
    Revocation.ASKED,
    Revocation.UNASKED,
    int(Mode.PREPARE),
)


class Placement:
    """The workers by name, and which of them can take a batch.

    Dictionaries keep the order: the worker that has waited longest comes first.
    """

    def __init__(self) -> None:
        self.all: dict[str, Worker] = {}
        self.idle: dict[str, Worker] = {}
        """Workers without a batch."""
        self.half: dict[str, Worker] = {}
        """Workers that may get a second batch, queued behind the one that they run."""
        self.ahead: dict[str, Worker] = {}
        """Workers that have a second batch, which may be recalled."""
        self.held_back: dict[str, Worker] = {}
        """Workers whose second batch waits for the initializer that they run."""
        self._homes: dict[str, dict[str, Worker]] = {}
        """Which of these four contains each worker, if one does."""

    def place(self, worker: Worker) -> None:
        """Record what `worker` can take now.

        Nothing while a recall is pending: it would also return batches that were sent after it.
        """
        name = worker.name
        batches = len(worker.batches)
        home: dict[str, Worker] | None = None
        if batches > 1:
            if batches == 2 and worker.unsent is not None:
                home = self.held_back
            elif worker.stage is _READY and worker.recall is _UNASKED:
                home = self.ahead
        elif (
            worker.stage is _READY
            and worker.recall is not _ASKED
            and (worker.quota is None or worker.willing())
        ):
            if not batches:
                home = self.idle
            else:
                head = worker.batches[0]
                first = head.tasks[0]
                # Not behind an initializer: if that fails, no task of its client may run. Not behind a task
                # with a timeout: its worker may be killed just after that task, in the next one.
                plain = first.mode != _PREPARE and first.timeout is None
                if plain and (worker.ahead or (head.cost is not None and head.cost <= REMOTE_AHEAD)):
                    home = self.half
        before = self._homes.get(name)
        if before is not home:
            if before is not None:
                del before[name]
            if home is None:
                del self._homes[name]
            else:
                home[name] = worker
                self._homes[name] = home

    def remove(self, worker: Worker) -> None:
        self.all.pop(worker.name, None)
        home = self._homes.pop(worker.name, None)
        if home is not None:
            del home[worker.name]

    def has_room(self, worker: Worker) -> bool:
        return worker.name in self.idle or worker.name in self.half

    def stocked(self) -> Worker | None:
        """A worker with an unread batch, while another is idle."""
        if self.idle:
            for worker in self.ahead.values():
                return worker
        return None

    def handover(self) -> tuple[Worker, Worker] | None:
        """A worker whose batch waits for its running initializer, and an idle worker that has run it.

        Only the worker that became idle last is checked: the others did not match before.
        """
        if self.held_back and self.idle:
            heir = self.idle[next(reversed(self.idle))]
            for worker in self.held_back.values():
                if worker.unsent is not None and worker.unsent.client in heir.prepared:
                    return worker, heir
        return None

    def holder_ahead(self, task: Task) -> Worker | None:
        """The worker that holds `task` in a batch that it may not have read."""
        for worker in self.all.values():
            if any(task in batch.tasks for batch in islice(worker.batches, 1, None)):
                return worker
        return None


HORIZON = 0.001
"""Seconds of work in one batch: what a worker runs while the next batch is being sent."""
GRAIN = 0.0005
"""Seconds of work that justify a message: a worker may have twice its share of so little work. Not more,
since the next tasks may take longer than those before."""
MOST_TASKS = 256
MOST_BYTES = 64 * 1024
"""Bytes of the blobs in a batch of more than one task."""
MOST_KEPT = 4096
"""Functions whose run time is stored."""

# Module constants, since each task needs them: an attribute of an enum costs eight times a global.
_WAITING, _GIVEN = TaskState.WAITING, TaskState.GIVEN


class BatchSizer:
    """Estimates the seconds per task of each function.

    An increase counts at once, a decrease gradually: a batch that is too small costs less than one that
    delays others.
    """

    def __init__(self) -> None:
        self._seconds: dict[tuple[bytes, int], float] = {}

    def learn(self, task: Task, seconds: float) -> None:
        """Record that a task like `task` took so many seconds."""
        key = (task.function, task.mode)
        known = self._seconds.get(key)
        if known is None and len(self._seconds) >= MOST_KEPT:
            self._seconds.clear()
        self._seconds[key] = seconds if known is None or seconds > known else 0.8 * known + 0.2 * seconds

    def cut(self, client: Client, worker: Worker, workers: int) -> TaskBatch:
        """Take the next batch for `worker`, one of `workers`, from `client`, which has a task waiting.

        Only tasks of one function make a batch; a task with a timeout goes alone, so that its start is known.
        """
        waiting = client.waiting
        first = waiting.popleft()
        first.state = TaskState.GIVEN
        function, mode = first.function, first.mode
        cost = self._seconds.get((function, mode))
        tasks = [first]
        if cost is None or first.timeout is not None or not waiting:
            return TaskBatch(client.name, tasks, cost)
        share = 1 + len(waiting) // workers
        share = max(share, min(2 * share, int(GRAIN / cost) if cost else 0))
        most = min(int(HORIZON / cost) if cost else MOST_TASKS, MOST_TASKS, share)
        if worker.quota is not None:
            most = min(most, worker.quota - worker.ran - worker.holds())
        room = MOST_BYTES - len(first.blob)
        while len(tasks) < most and waiting:
            task = waiting[0]
            if task.state is _WAITING:
                room -= len(task.blob)
                if task.function != function or task.mode != mode or task.timeout is not None or room < 0:
                    break
                task.state = _GIVEN
                tasks.append(task)
            waiting.popleft()
        return TaskBatch(client.name, tasks, cost * len(tasks))
