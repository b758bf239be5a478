"""Which workers have room: who is idle, who may have a batch ahead of the one it runs."""

from __future__ import annotations

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

    def place(self, worker: Worker) -> None:
        """Note what room `worker` has now."""
        name, batches = worker.name, len(worker.batches)
        willing = worker.willing() and worker.recall is not Recall.ASKED
        _keep(self._idle, worker, name, willing and batches == 0)
        _keep(self._half, worker, name, willing and batches == 1 and _may_stock(worker))
        _keep(self._stocked, worker, name, batches > 1 and worker.stage is Stage.READY)

    def remove(self, worker: Worker) -> None:
        for names in (self.all, self._idle, self._half, self._stocked):
            names.pop(worker.name, None)

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
                if worker.recall is Recall.UNASKED:
                    return worker
        return None


def _may_stock(worker: Worker) -> bool:
    if worker.ahead:
        return True
    cost = worker.batches[0].cost
    return cost is not None and cost <= REMOTE_AHEAD


def _keep(names: dict[str, Worker], worker: Worker, name: str, belongs: bool) -> None:
    if belongs:
        names.setdefault(name, worker)
    else:
        names.pop(name, None)
