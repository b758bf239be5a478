"""The status of a coordinator: the figures, and a client that requests them."""

from __future__ import annotations

import secrets
import select
import time
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from nearfar.coordinator.connection import CoordinatorConnection
from nearfar.coordinator.large_parts import Row
from nearfar.coordinator.messages import PoolFrame, PoolMessage, PoolMessageType
from nearfar.coordinator.scheduler import Scheduler
from nearfar.coordinator.state import Worker
from nearfar.coordinator.task import TaskState
from nearfar.errors import CoordinatorLost, NotAdmitted
from nearfar.net.addresses import Address
from nearfar.net.auth import OWN, Access
from nearfar.net.handshake import HandshakeFailures
from nearfar.net.validation import shown

if TYPE_CHECKING:
    from nearfar.dashboard.model import Status

MOST_WORKERS = 200
"""Workers in a dashboard's snapshot; `counts` has their number."""


def idle(coordinator: Scheduler) -> bool:
    """True if no task waits and no worker has one."""
    if any(worker.batches for worker in coordinator.workers.values()):
        return False
    return all(client.next() is None for client in coordinator.book.clients.values())


def counts(coordinator: Scheduler) -> dict[str, int]:
    """The numbers of workers, clients, running workers, and tasks by their state."""
    book, workers = coordinator.book, coordinator.workers.values()
    waiting = sum(
        1 for client in book.clients.values() for task in client.waiting if task.state is TaskState.WAITING
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


def snapshot(coordinator: Scheduler, counts: Mapping[str, int], now: float) -> Status:
    """The status for a dashboard. `counts`: the figures of the program that has the coordinator."""
    found: Status = {"counts": dict(counts), "workers": []}
    for worker in islice(coordinator.workers.values(), MOST_WORKERS):
        name, host, pid, answered, runs, seconds = status_row(worker, now)
        found["workers"].append(
            {
                "name": name,
                "host": shown(host),
                "pid": pid,
                "tasks": answered,
                "runs": shown(runs),
                "seconds": seconds,
                "memory": worker.memory,
            }
        )
    if (statistics := coordinator.book.statistics) is not None:
        found["counts"]["raised"] = statistics.raised
        found["task_seconds"] = statistics.durations.status()
        found["failures"] = statistics.failures.status()
    return found


AGAIN = 1.0
"""Seconds after which the request is sent again."""
LOOK = 100
"""Milliseconds between two checks whether the coordinator rejected this side."""


class NoCoordinator(CoordinatorLost):
    """What answers at the address is no coordinator, but a queue."""


class WorkerStatus(NamedTuple):
    """One worker."""

    name: str
    host: str
    pid: int
    answered: int
    """Tasks."""
    runs: str
    """``module:function``, or nothing."""
    since: float
    """Seconds that it has been running this."""


class CoordinatorStatus(NamedTuple):
    """A coordinator in figures, and each of its workers."""

    counts: dict[str, int]
    workers: list[WorkerStatus]


def ask(address: Address, wait: float, access: Access = OWN) -> CoordinatorStatus:
    """The status of the coordinator at `address`.

    Raises `NotAdmitted` if it does not admit this side, `NoCoordinator` if a queue is there,
    `CoordinatorLost` if there is no answer within `wait` seconds, and `KeysError`.
    """
    caller = CoordinatorConnection(address.seen_from_here(), access)
    refusals = HandshakeFailures()
    try:
        name = f"asking-{secrets.token_hex(8)}"
        deadline = time.monotonic() + wait
        while (now := time.monotonic()) < deadline:
            descriptor = caller.open(name)
            caller.send(PoolFrame(0, 0, PoolMessage(PoolMessageType.QUERY)))
            found = _listen(caller, descriptor, min(deadline, now + AGAIN), refusals)
            if found is not None:
                return found
            if why := refusals.believed(time.monotonic()):
                raise NotAdmitted(f"cannot ask the coordinator at {address}: {why}")
    finally:
        caller.close()
    raise CoordinatorLost(f"no coordinator has answered at {address} for {wait:g} s")


def _listen(
    caller: CoordinatorConnection, descriptor: int, deadline: float, refusals: HandshakeFailures
) -> CoordinatorStatus | None:
    poll = select.poll()
    if descriptor >= 0:
        poll.register(descriptor, select.POLLIN)
    while True:
        heard, why = caller.receive()
        if why:
            refusals.failed(why, time.monotonic())
        for envelope in heard:
            if envelope.message.kind is PoolMessageType.STATUS:
                return _read(envelope.message)
            if envelope.message.kind is PoolMessageType.REFUSED:
                raise NoCoordinator(
                    f"{caller.address} gives no status of a pool: {shown(envelope.message.fields[0])}"
                )
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        if not caller.pending():
            poll.poll(min(LOOK, int(left * 1000) + 1))


def _read(message: PoolMessage) -> CoordinatorStatus:
    counts: dict[str, int] = message.fields[0]
    rows: list[Any] = list(message.rows or ())
    return CoordinatorStatus(counts, [_shown(WorkerStatus(*row)) for row in rows])


def _shown(status: WorkerStatus) -> WorkerStatus:
    return status._replace(host=shown(status.host), runs=shown(status.runs))
