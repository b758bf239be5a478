"""Invariants of a coordinator, checked after every event."""

from __future__ import annotations

from collections import Counter

from nearfar.coordinator.placement import Placement
from nearfar.coordinator.protocol import CoordinatorProtocol
from nearfar.coordinator.remote_client import weight
from nearfar.coordinator.scheduler import Scheduler
from nearfar.coordinator.state import Client, Preparation, Revocation, Worker, WorkerStage
from nearfar.coordinator.task import Task, TaskState

MOST_BATCHES = 2


def check(machine: Scheduler, *, resumed: bool = False, liars: bool = False) -> None:
    """Raise `AssertionError` if the state of `machine` is inconsistent.

    `resumed`: its workers may be older, and hold what was answered elsewhere. `liars`: what agents said of
    workers that they brought along need not be true, so there is nothing to be known of those.
    """
    book = machine.book
    waiting = Counter(t for c in book.clients.values() for t in c.waiting if t.state is not TaskState.SETTLED)
    given = Counter(task for worker in machine.workers.values() for task in worker.unanswered())
    assert all(count == 1 for count in (waiting + given).values()), "a task in two places"
    assert all(task.state is TaskState.WAITING for task in waiting)
    for batch in (batch for worker in machine.workers.values() for batch in worker.batches):
        for task in batch.unanswered():
            abandoned = resumed or batch.client not in book.clients
            assert task.state is TaskState.GIVEN or abandoned, "a task that is settled is held"
    assert not [task for task, _ in book.outcomes if task in waiting or task in given], "an outcome too early"
    assert all(task.state is TaskState.SETTLED for task, _ in book.outcomes)
    assert all(task in given for task in book.cancelled), "a cancel is kept for a task that nobody holds"
    for client in book.clients.values():
        holders = [b for w in machine.workers.values() for b in w.batches if b.client == client.name]
        assert client.given == len(holders), "given is miscounted"
        assert not (client.error and any(t.state is TaskState.WAITING for t in client.waiting))
    for worker in machine.workers.values():
        if not liars:
            check_worker(machine, worker, resumed=resumed)
    check_placement(machine._placement)


def check_worker(machine: Scheduler, worker: Worker, *, resumed: bool) -> None:
    """One worker's batches, quota and initializers."""
    plain = [b for b in worker.batches if b is not worker.unsent and not preparation(b.tasks[0])]
    assert worker.stage is not WorkerStage.GONE
    assert len(plain) <= MOST_BATCHES
    assert all(batch.unanswered() for batch in worker.batches), "an empty batch"
    assert all(batch.answered == 0 for batch in list(worker.batches)[1:])
    if worker.quota is not None:
        assert worker.ran + worker.holds() <= worker.quota, "more than its quota"
    if worker.unsent is not None:
        assert worker.batches[-1] is worker.unsent
        assert preparation(worker.batches[-2].tasks[0]), "held back for nothing"
    for batch in worker.batches:
        client = machine.book.clients.get(batch.client)
        if client is not None and client.initializer is not None:
            assert client.name in worker.prepared, "a task comes before the initializer"
        assert len({(task.function, task.mode) for task in batch.tasks}) == 1 or resumed
        assert len(batch.tasks) == 1 or not any(task.timeout for task in batch.tasks)


def check_placement(placement: Placement) -> None:
    """The placement of each worker is correct."""
    for worker in placement.all.values():
        open_ = worker.willing() and worker.recall is not Revocation.ASKED
        assert (worker.name in placement.idle) is (open_ and not worker.batches)
        assert worker.name not in placement.half or (open_ and len(worker.batches) == 1)
    for names in (placement.idle, placement.half, placement.ahead):
        assert names.keys() <= placement.all.keys(), "a worker that is gone has room"


def check_end(machine: Scheduler, tasks: list[Task], outcomes: Counter[Task]) -> None:
    """All live workers have answered: each task of a remaining client has exactly one outcome."""
    for task in tasks:
        expected = 1 if task.client in machine.book.clients else 0
        assert outcomes[task] == expected or (not expected and outcomes[task] <= 1), task
    assert not any(worker.batches for worker in machine.workers.values())
    assert not machine.book.cancelled
    assert machine.deadline() is None or not machine._alarms.ring(float("inf"))


def check_bytes(peers: CoordinatorProtocol) -> None:
    """Stored bytes are counted once, and stay within the bounds."""
    remote_clients, accounts = peers._remote_clients, peers._accounts
    arguments = {
        remote_client.name: sum(
            task.weight for task in {*remote_client.tasks.values(), *remote_client.held.values()}
        )
        + initializer_weight(remote_client.client)
        for remote_client in remote_clients.all.values()
    }
    assert accounts.arguments.held == {name: size for name, size in arguments.items() if size}
    results = {
        remote_client.name: sum(remote_client.weights.values())
        for remote_client in remote_clients.all.values()
    }
    assert accounts.results.held == {name: size for name, size in results.items() if size}
    for budget in (accounts.arguments, accounts.results, *accounts.keepers.values()):
        assert budget.used == sum(budget.held.values())
        assert min(budget.held.values(), default=1) > 0
    for remote_client in remote_clients.all.values():
        assert all(task.blob == b"" for task in remote_client.tasks.values() if not task.filled), (
            "not counted"
        )
        there = remote_client.weights.keys() - {
            number for number, each in remote_client.withheld.items() if each.fetched
        }
        assert remote_client.kept.keys() | {row[0] for row in remote_client.outcomes} <= there
        assert not remote_client.withheld.keys() & there
        assert not remote_client.withheld or remote_client.name in remote_clients.lists.held_back
        assert remote_client.withheld.keys() <= remote_client.origins.keys()
        # What no agent keeps, such as a failure that is told, has to be kept here, though there is no room.
        small = sum(size for size in remote_client.weights.values() if size < 1024)
        assert sum(remote_client.weights.values()) - small <= accounts.results.most // 2
    assert accounts.arguments.used <= accounts.arguments.most + sum(
        initializer_weight(remote_client.client) for remote_client in remote_clients.all.values()
    )


def initializer_weight(client: Client) -> int:
    return weight(client.initializer.blob, client.initializer.buffers) if client.initializer else 0


def preparation(task: Task) -> bool:
    return isinstance(task, Preparation)
