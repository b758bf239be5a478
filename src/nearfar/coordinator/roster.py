"""Which workers have room: who is idle, who may have a batch ahead of the one it runs."""

from __future__ import annotations

from itertools import islice

from nearfar.coordinator.tasks import Mode, Task
from nearfar.coordinator.workers import Recall, Stage, Worker

REMOTE_AHEAD = 0.002
"""Seconds: where unread work can't be had back for certain, only so short a batch gets another behind it."""

# Looked up once, for they are needed at each batch: an attribute of an enum costs eight times a global.
_READY, _ASKED, _UNASKED, _PREPARE = Stage.READY, Recall.ASKED, Recall.UNASKED, int(Mode.PREPARE)


class Roster:
    """The workers by name, and those among them that may be given something.

    Dictionaries, for their order: who has waited longest comes first.
    """

    def __init__(self) -> None:
        self.all: dict[str, Worker] = {}
        self.idle: dict[str, Worker] = {}
        """Those with nothing to do."""
        self.half: dict[str, Worker] = {}
        """Those that may have a batch ahead of the one they run."""
        self.ahead: dict[str, Worker] = {}
        """Those that have one, and may be asked for it."""
        self.held_back: dict[str, Worker] = {}
        """Those whose batch ahead waits for the initializer that they run."""
        self._homes: dict[str, dict[str, Worker]] = {}
        """In which of these four each worker is, if in any."""

    def place(self, worker: Worker) -> None:
        """Note what room `worker` has now.

        None while it is asked for what it has: it would give back what it was given after that.
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
                # Not behind an initializer: if that fails, nothing of its client may run. Not behind a task
                # that may be killed just when it has ended and the next has begun.
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

    def roomy(self) -> Worker:
        """Who is to be given the next batch: an idle one if there is one. Only if anybody has room."""
        return next(iter((self.idle or self.half).values()))

    def stocked(self) -> Worker | None:
        """Somebody with a batch unread, while another has nothing at all to do."""
        if self.idle:
            for worker in self.ahead.values():
                return worker
        return None

    def handover(self) -> tuple[Worker, Worker] | None:
        """Somebody whose batch waits for the initializer that it runs, and somebody idle who has run that.

        Only whoever fell idle last is looked at: the others were found unfit before.
        """
        if self.held_back and self.idle:
            heir = self.idle[next(reversed(self.idle))]
            for worker in self.held_back.values():
                if worker.unsent is not None and worker.unsent.client in heir.prepared:
                    return worker, heir
        return None

    def holder_ahead(self, task: Task) -> Worker | None:
        """Whoever holds `task` in a batch that it may not have read."""
        for worker in self.all.values():
            if any(task in batch.tasks for batch in islice(worker.batches, 1, None)):
                return worker
        return None
