"""How a coordinator stands: questions that change nothing."""

from __future__ import annotations

from nearfar.coordinator.machine import Coordinator
from nearfar.coordinator.parts import Row
from nearfar.coordinator.tasks import State
from nearfar.coordinator.workers import Worker


def idle(coordinator: Coordinator) -> bool:
    """True if no task waits and none is with a worker."""
    if any(worker.batches for worker in coordinator.workers.values()):
        return False
    return all(client.next() is None for client in coordinator.book.clients.values())


def counts(coordinator: Coordinator) -> dict[str, int]:
    """Numbers: of workers and clients, of running workers, and of tasks, by what has become of them."""
    book, workers = coordinator.book, coordinator.workers.values()
    waiting = sum(
        1 for client in book.clients.values() for task in client.waiting if task.state is State.WAITING
    )
    return {
        "workers": len(workers),
        "clients": len(book.clients),
        "running": sum(1 for worker in workers if worker.batches),
        "given": sum(worker.holds() for worker in workers),
        "waiting": waiting,
        "done": book.done,
        "lost": book.lost,
        "stale": book.stale,
    }


def status_row(worker: Worker, now: float) -> Row:
    """A row of STATUS: name, host, pid, tasks answered, what it runs (or ""), seconds so far."""
    if not worker.batches:
        return (worker.name, worker.host, worker.pid, worker.ran, "", 0.0)
    batch = worker.batches[0]
    running = batch.tasks[min(batch.answered, len(batch.tasks) - 1)].describe()
    return (worker.name, worker.host, worker.pid, worker.ran, running, max(0.0, now - batch.since))
