"""Which workers have room: who is idle, who may have a batch ahead of the one it runs."""

from __future__ import annotations

from itertools import islice

from nearfar.coordinator.tasks import Mode, Task
from nearfar.coordinator.workers import Recall, Stage, Worker

REMOTE_AHEAD = 0.002
"""Seconds: where unread work can't be had back for certain, only so short a batch gets another behind it."""


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

    def place(self, worker: Worker) -> None:
        """Note what room `worker` has now.

        None while it is asked for what it has: it would give back what it was given after that.
        """
        name, batches = worker.name, len(worker.batches)
        willing = worker.willing() and worker.recall is not Recall.ASKED
        _keep(self._idle, worker, name, willing and batches == 0)
        _keep(self._half, worker, name, willing and batches == 1 and _may_stock(worker))
        unasked = worker.stage is Stage.READY and worker.recall is Recall.UNASKED
        waits = worker.unsent is not None and batches == 2
        _keep(self._unsent, worker, name, waits)
        _keep(self._stocked, worker, name, batches > 1 and unasked and not waits)

    def remove(self, worker: Worker) -> None:
        for names in (self.all, self._idle, self._half, self._stocked, self._unsent):
            names.pop(worker.name, None)

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
    if head.tasks[0].mode == Mode.PREPARE:
        return False  # if that fails, nothing of its client may run
    if head.tasks[0].timeout is not None:
        return False  # it may be killed just when that task has ended and the next has begun
    if worker.ahead:
        return True
    cost = head.cost
    return cost is not None and cost <= REMOTE_AHEAD


def _keep(names: dict[str, Worker], worker: Worker, name: str, belongs: bool) -> None:
    if belongs:
        names.setdefault(name, worker)
    else:
        names.pop(name, None)
