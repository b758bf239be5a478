"""What must be true of a coordinator after every event."""

from __future__ import annotations

from collections import Counter

from nearfar.coordinator.accounts import weight
from nearfar.coordinator.clients import Client
from nearfar.coordinator.machine import Coordinator
from nearfar.coordinator.peers import Peers
from nearfar.coordinator.roster import Roster
from nearfar.coordinator.tasks import State, Task
from nearfar.coordinator.workers import Preparation, Recall, Stage, Worker

MOST_BATCHES = 2


def check(machine: Coordinator, *, resumed: bool = False, liars: bool = False) -> None:
    """Raise `AssertionError` for whatever is wrong in the books of `machine`.

    `resumed`: its workers may be older, and hold what was answered elsewhere. `liars`: what agents said of
    workers that they brought along need not be true, so there is nothing to be known of those.
    """
    book = machine.book
    waiting = Counter(t for c in book.clients.values() for t in c.waiting if t.state is not State.SETTLED)
    given = Counter(task for worker in machine.workers.values() for task in worker.unanswered())
    assert all(count == 1 for count in (waiting + given).values()), "a task in two places"
    assert all(task.state is State.WAITING for task in waiting)
    for batch in (batch for worker in machine.workers.values() for batch in worker.batches):
        for task in batch.unanswered():
            abandoned = resumed or batch.client not in book.clients
            assert task.state is State.GIVEN or abandoned, "a task that is settled is held"
    assert not [task for task, _ in book.outcomes if task in waiting or task in given], "an outcome too early"
    assert all(task.state is State.SETTLED for task, _ in book.outcomes)
    assert all(task in given for task in book.cancelled), "a cancel is kept for a task that nobody holds"
    for client in book.clients.values():
        holders = [b for w in machine.workers.values() for b in w.batches if b.client == client.name]
        assert client.given == len(holders), "given is miscounted"
        assert not (client.error and any(t.state is State.WAITING for t in client.waiting))
    for worker in machine.workers.values():
        if not liars:
            check_worker(machine, worker, resumed=resumed)
    check_roster(machine._roster)


def check_worker(machine: Coordinator, worker: Worker, *, resumed: bool) -> None:
    """One worker's batches, quota and initializers."""
    plain = [b for b in worker.batches if b is not worker.unsent and not preparation(b.tasks[0])]
    assert worker.stage is not Stage.GONE
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


def check_roster(roster: Roster) -> None:
    """Who has room is known."""
    for worker in roster.all.values():
        open_ = worker.willing() and worker.recall is not Recall.ASKED
        assert (worker.name in roster.idle) is (open_ and not worker.batches)
        assert worker.name not in roster.half or (open_ and len(worker.batches) == 1)
    for names in (roster.idle, roster.half, roster.ahead):
        assert names.keys() <= roster.all.keys(), "a worker that is gone has room"


def check_end(machine: Coordinator, tasks: list[Task], outcomes: Counter[Task]) -> None:
    """Everything was answered by workers that live: each task of a client that stayed has its one outcome."""
    for task in tasks:
        expected = 1 if task.client in machine.book.clients else 0
        assert outcomes[task] == expected or (not expected and outcomes[task] <= 1), task
    assert not any(worker.batches for worker in machine.workers.values())
    assert not machine.book.cancelled
    assert machine.deadline() is None or not machine._alarms.ring(float("inf"))


def check_bytes(peers: Peers) -> None:
    """What is kept is counted, once, and no more is kept than may be."""
    guests, accounts = peers._guests, peers._accounts
    arguments = {
        guest.name: sum(task.weight for task in {*guest.tasks.values(), *guest.held.values()})
        + initializer_weight(guest.client)
        for guest in guests.all.values()
    }
    assert accounts.arguments.held == {name: size for name, size in arguments.items() if size}
    results = {guest.name: sum(guest.weights.values()) for guest in guests.all.values()}
    assert accounts.results.held == {name: size for name, size in results.items() if size}
    for budget in (accounts.arguments, accounts.results, *accounts.keepers.values()):
        assert budget.used == sum(budget.held.values())
        assert min(budget.held.values(), default=1) > 0
    for guest in guests.all.values():
        assert all(task.blob == b"" for task in guest.tasks.values() if not task.filled), "not counted"
        there = guest.weights.keys() - {number for number, each in guest.withheld.items() if each.fetched}
        assert guest.kept.keys() | {row[0] for row in guest.outcomes} <= there
        assert not guest.withheld.keys() & there
        assert not guest.withheld or guest.name in guests.lists.held_back
        assert guest.withheld.keys() <= guest.origins.keys()
        # What no agent keeps, such as a failure that is told, has to be kept here, though there is no room.
        small = sum(size for size in guest.weights.values() if size < 1024)
        assert sum(guest.weights.values()) - small <= accounts.results.most // 2
    assert accounts.arguments.used <= accounts.arguments.most + sum(
        initializer_weight(guest.client) for guest in guests.all.values()
    )


def initializer_weight(client: Client) -> int:
    return weight(client.initializer.blob, client.initializer.buffers) if client.initializer else 0


def preparation(task: Task) -> bool:
    return isinstance(task, Preparation)
