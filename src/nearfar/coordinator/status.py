"""How a coordinator stands: questions that change nothing."""

from __future__ import annotations

from nearfar.coordinator.machine import Coordinator
from nearfar.coordinator.tasks import State


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
