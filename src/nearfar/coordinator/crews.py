"""The worker processes of the coordinator's own process: between its crew and its machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from nearfar.coordinator.machine import Coordinator
from nearfar.coordinator.workers import Batch, Worker

Answer = tuple[int, Any, Sequence[Any]]
"""Status, blob, buffers."""
Row = tuple[bytes, int, Any, Sequence[Any]]
"""Function, mode, blob, buffers."""


class Listener(Protocol):
    """Who is told what becomes of a crew's workers."""

    def came(self, name: str, pid: int) -> None:
        """Its process is ready."""

    def answered(self, name: str, answers: list[Answer], spent: float) -> None:
        """Its next tasks ran, and took `spent` seconds together."""

    def died(self, name: str, how: str, unread: int) -> None:
        """It ended; all its answers were told. `unread`: how many of its last batches it had not read."""

    def hopeless(self, reason: str) -> None:
        """Processes die at their start again and again: no more are started."""


class Crew(Protocol):
    """Worker processes of this process, as `nearfar.worker.crew.Crew` has them."""

    def start(self) -> None: ...
    def fileno(self) -> int: ...
    def turn(self) -> None: ...
    def deadline(self) -> float | None: ...
    def tick(self, now: float) -> None: ...
    def give(self, name: str, client: str, rows: list[Row]) -> None: ...
    def recall(self, name: str) -> int: ...
    def kill(self, name: str) -> None: ...
    def retire(self, name: str) -> None: ...
    def close(self) -> None: ...


Hire = Callable[[Listener], Crew]
"""Makes a crew that tells `Listener`."""


class LocalWorkers:
    """A crew's `Listener`, and the `Link` of its workers."""

    def __init__(self, coordinator: Coordinator, hire: Hire, host: str) -> None:
        self.hopeless_because = ""
        self.crew = hire(self)
        self._coordinator = coordinator
        self._host = host
        self._workers: dict[str, Worker] = {}
        self._draining = False

    def drain(self) -> None:
        """Finish what runs, and nothing else."""
        self._draining = True
        for worker in list(self._workers.values()):
            self._coordinator.drain(worker)

    def busy(self) -> bool:
        """True if any worker has something that it has not answered."""
        return any(worker.batches for worker in self._workers.values())

    # -- from the crew -----------------------------------------------------------------------------

    def came(self, name: str, pid: int) -> None:
        if self._draining:
            return
        worker = self._workers[name] = Worker(name, self, host=self._host, pid=pid)
        self._coordinator.worker_came(worker, time.monotonic())

    def answered(self, name: str, answers: list[Answer], spent: float) -> None:
        self._coordinator.answered(self._workers[name], answers, spent, time.monotonic())

    def died(self, name: str, how: str, unread: int) -> None:
        worker = self._workers.pop(name, None)
        if worker is not None:
            self._coordinator.died(worker, how, unread)

    def hopeless(self, reason: str) -> None:
        self.hopeless_because = reason

    # -- from the machine --------------------------------------------------------------------------

    def give(self, worker: Worker, batch: Batch) -> None:
        rows: list[Row] = [(task.function, task.mode, task.blob, task.buffers) for task in batch.tasks]
        self.crew.give(worker.name, batch.client, rows)

    def recall(self, worker: Worker) -> None:
        self._coordinator.returned(worker, self.crew.recall(worker.name))

    def kill(self, worker: Worker) -> None:
        self.crew.kill(worker.name)

    def retire(self, worker: Worker) -> None:
        self.crew.retire(worker.name)
