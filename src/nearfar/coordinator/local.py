"""The worker processes of the coordinator's own process: between its crew and its machine."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from time import monotonic

from nearfar.coordinator.machine import Coordinator
from nearfar.coordinator.workers import Batch, Worker
from nearfar.errors import ProtocolError
from nearfar.worker.crew import Crew, Listener
from nearfar.worker.member import Answer

log = logging.getLogger(__name__)

Hire = Callable[[Listener], Crew]
"""Makes a crew that tells `Listener`."""


class LocalWorkers:
    """A crew's `Listener`, and the `Link` of its workers."""

    def __init__(self, coordinator: Coordinator, hire: Hire, on_hopeless: Callable[[str], object]) -> None:
        """`on_hopeless` is told why no worker can be started any more."""
        self.crew = hire(self)
        self._coordinator = coordinator
        self._workers = coordinator.workers
        self._on_hopeless = on_hopeless
        self._host = socket.gethostname()
        self._draining = False
        self._ended: set[Worker] = set()

    def drain(self) -> None:
        """Finish what runs, and nothing else: then the processes end."""
        if not self._draining:
            self._draining = True
            self.crew.resize(0)
        for worker in self._own():
            self._coordinator.drain(worker)

    def end(self, signum: int) -> None:
        """Send `signum` to each process, once, and have no other follow it.

        Workers of other machines that run something are killed there.
        """
        self.crew.resize(0)
        self.crew.signal(signum)
        for worker in self._coordinator.workers.values():
            if worker.link is not self and worker.batches and worker not in self._ended:
                self._ended.add(worker)
                worker.link.kill(worker)

    def busy(self) -> bool:
        """True if any worker has something that it has not answered."""
        return any(worker.batches for worker in self._own())

    def _own(self) -> list[Worker]:
        return [worker for worker in self._coordinator.workers.values() if worker.link is self]

    # -- what the machine wants --------------------------------------------------------------------

    def give(self, worker: Worker, batch: Batch) -> None:
        """As `Link.give`."""
        first = batch.tasks[0]
        try:
            self.crew.give_tasks(worker.name, batch.client, first.function, first.mode, batch.tasks)
        except (OSError, MemoryError) as error:
            self._coordinator.refused(worker, error)

    def recall(self, worker: Worker) -> None:
        """As `Link.recall`."""
        self.crew.recall(worker.name)

    def kill(self, worker: Worker) -> None:
        """As `Link.kill`."""
        self.crew.kill(worker.name)

    def retire(self, worker: Worker) -> None:
        """As `Link.retire`."""
        self.crew.retire(worker.name)

    # -- what the crew tells -----------------------------------------------------------------------

    def came(self, name: str, pid: int) -> None:
        """As `Listener.came`."""
        worker = Worker(name, self, host=self._host, pid=pid, quota=self.crew.quota)
        self._coordinator.worker_came(worker, monotonic())
        if self._draining:
            self._coordinator.drain(worker)

    def answered(self, name: str, answers: Sequence[Answer], spent: float) -> None:
        """As `Listener.answered`."""
        worker = self._workers.get(name)
        if worker is None:
            return
        try:
            self._coordinator.answered(worker, answers, spent, monotonic())
        except ProtocolError as error:
            log.warning("worker %s is killed: %s", name, error)
            self.crew.kill(name)

    def returned(self, name: str, batches: int) -> None:
        """As `Listener.returned`."""
        worker = self._coordinator.workers.get(name)
        if worker is not None:
            self._coordinator.returned(worker, batches)

    def died(self, name: str, how: str, unread: int) -> None:
        """As `Listener.died`."""
        worker = self._coordinator.workers.get(name)
        if worker is not None:
            self._coordinator.died(worker, how, unread)

    def left(self, name: str) -> None:
        """As `Listener.left`; it was given up when it was retired."""

    def hopeless(self, reason: str) -> None:
        """As `Listener.hopeless`."""
        self._on_hopeless(reason)
