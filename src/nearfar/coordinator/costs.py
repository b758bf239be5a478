"""What tasks cost, as measured, and how many make a batch."""

from __future__ import annotations

from nearfar.coordinator.clients import Client
from nearfar.coordinator.tasks import State, Task
from nearfar.coordinator.workers import Batch, Worker

HORIZON = 0.001
"""Seconds of work in one batch: what a worker runs while the next one is on its way."""
MOST_TASKS = 256
MOST_BYTES = 64 * 1024
"""Of the blobs in a batch of more than one task."""
MOST_KEPT = 4096
"""Functions whose cost is remembered."""

# Looked up once, for they are needed for each task: an attribute of an enum costs eight times a global.
_WAITING, _GIVEN = State.WAITING, State.GIVEN


class Costs:
    """Seconds per task of each function.

    A rise counts at once, a fall by and by: too small a batch costs less than one that keeps others waiting.
    """

    def __init__(self) -> None:
        self._seconds: dict[tuple[bytes, int], float] = {}

    def learn(self, task: Task, seconds: float) -> None:
        """A task like `task` took so long."""
        key = (task.function, task.mode)
        known = self._seconds.get(key)
        if known is None and len(self._seconds) >= MOST_KEPT:
            self._seconds.clear()
        self._seconds[key] = seconds if known is None or seconds > known else 0.8 * known + 0.2 * seconds

    def cut(self, client: Client, worker: Worker, workers: int) -> Batch:
        """Take the next batch for `worker`, one of `workers`, from `client`, who has a task waiting.

        Only tasks of one function make a batch; a task with a timeout goes alone, so that its start is known.
        """
        waiting = client.waiting
        first = waiting.popleft()
        first.state = State.GIVEN
        function, mode = first.function, first.mode
        cost = self._seconds.get((function, mode))
        tasks = [first]
        if cost is None or first.timeout is not None or not waiting:
            return Batch(client.name, tasks, cost)
        most = min(int(HORIZON / cost) if cost else MOST_TASKS, MOST_TASKS, 1 + len(waiting) // workers)
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
        return Batch(client.name, tasks, cost * len(tasks))
