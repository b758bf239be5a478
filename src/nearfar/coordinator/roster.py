"""Which workers have room: who is idle, who may have a batch ahead of the one it runs."""

from __future__ import annotations

from itertools import islice

from nearfar.coordinator.tasks import Mode, Task
from nearfar.coordinator.workers import Recall, Stage, Worker

REMOTE_AHEAD = 0.002
"""Seconds: where unread work can't be had back for certain, only so short a batch gets another behind it."""

# Looked up once, for they are needed at each batch: an attribute of an enum costs eight times a global.
_READY, _ASKED, _UNASKED, _PREPARE = Stage.READY, Recall.ASKED, Recall.UNASKED, Mode.PREPARE


class Roster:
    """The workers by name, and those among them that may be given something.

    Dictionaries, for their order: who has waited longest comes first.
    """

    def __init__(self) -> None:
        self.all: dict[str, Worker] = {}
        self._idle: dict[str, Worker] = {}
        self._half: dict[str, Worker] = {}
        self._stocked: dict[str, Worker] = {}
        self._unsent: dict[str, Worker] = {}
        self._homes: dict[str, dict[str, Worker]] = {}
        """In which of these four each worker is, if in any."""

    def place(self, worker: Worker) -> None:
        """Note what room `worker` has now.

        None while it is asked for what it has: it would give back what it was given after that.
        """
        name, home = worker.name, self._home(worker)
        before = self._homes.get(name)
        if before is not home:
            if before is not None:
                del before[name]
            if home is None:
                del self._homes[name]
            else:
                home[name] = worker
                self._homes[name] = home

    def _home(self, worker: Worker) -> dict[str, Worker] | None:
        batches = len(worker.batches)
        if batches > 1:
            if batches == 2 and worker.unsent is not None:
                return self._unsent
            unasked = worker.stage is _READY and worker.recall is _UNASKED
            return self._stocked if unasked else None
        if not worker.willing() or worker.recall is _ASKED:
            return None
        if not batches:
            return self._idle
        return self._half if _may_stock(worker) else None

    def remove(self, worker: Worker) -> None:
        self.all.pop(worker.name, None)
        home = self._homes.pop(worker.name, None)
        if home is not None:
            del home[worker.name]

    def has_room(self, worker: Worker) -> bool:
        return worker.name in self._idle or worker.name in self._half

    def roomy(self) -> Worker | None:
        """Who is to be given the next batch: an idle one if there is one."""
        for names in (self._idle, self._half):
            for worker in names.values():
                return worker
        return None

    def stocked(self) -> Worker | None:
        """Somebody with a batch unread, while another has nothing at all to do."""
        if self._idle:
            for worker in self._stocked.values():
                return worker
        return None

    def handover(self) -> tuple[Worker, Worker] | None:
        """Somebody whose batch waits for the initializer that it runs, and somebody idle who has run that.

        Only whoever fell idle last is looked at: the others were found unfit before.
        """
        if self._unsent and self._idle:
            heir = self._idle[next(reversed(self._idle))]
            for worker in self._unsent.values():
                if worker.unsent is not None and worker.unsent.client in heir.prepared:
                    return worker, heir
        return None

    def holder_ahead(self, task: Task) -> Worker | None:
        """Whoever holds `task` in a batch that it may not have read."""
        for worker in self.all.values():
            if any(task in batch.tasks for batch in islice(worker.batches, 1, None)):
                return worker
        return None


def _may_stock(worker: Worker) -> bool:
    head = worker.batches[0]
    if head.tasks[0].mode == _PREPARE:
        return False  # if that fails, nothing of its client may run
    if head.tasks[0].timeout is not None:
        return False  # it may be killed just when that task has ended and the next has begun
    if worker.ahead:
        return True
    cost = head.cost
    return cost is not None and cost <= REMOTE_AHEAD
