"""Seeded simulations: invariants under faults of the network, the processes and the coordinator."""

from __future__ import annotations

from concurrent.futures import CancelledError

import pytest

from nearfar.errors import CoordinatorLost, InitializerFailed, TaskTimeout
from nearfar.net.session import SessionStage
from tests.chaos.faults.faults import chosen_seeds
from tests.coordinator.simulation import LEASE, SimAgent, SimClient, World

pytestmark = pytest.mark.pure

DAILY = range(1)
MANY = [pytest.param(seed, marks=pytest.mark.chaos) for seed in chosen_seeds("1-17") if seed not in DAILY]
SEEDS = pytest.mark.parametrize("seed", [*DAILY, *MANY])


def agents(world: World, count: int, **options: int) -> list[SimAgent]:
    first = len(world.agents)
    return [SimAgent(world, f"agent{first + n}", **options) for n in range(count)]


def clients(world: World, *counts: int, **options: object) -> list[SimClient]:
    first = len(world.clients)
    return [SimClient(world, f"client{first + n}", count, **options) for n, count in enumerate(counts)]


def finish(world: World) -> None:
    """Every task of a live client has exactly one outcome, and then no peer has anything left to do."""
    world.run(most=30)
    world.run(until=lambda: all(client.done or not client.alive for client in world.clients), most=1200)
    living = [client for client in world.clients if client.alive]
    for client in living:
        missing = [name for name in client.jobs if name not in client.told]
        assert not missing, f"no outcome: {missing[:5]} of {len(missing)}"
    world.run(most=5 * LEASE)
    assert all(client.machine.stage is SessionStage.CLOSED for client in living)
    assert world.host is not None
    machine, peers = world.host.machine, world.host.peers
    assert not machine.book.clients and not peers._remote_clients.all
    assert not any(worker.batches for worker in machine.workers.values())
    assert len(peers.sessions) == sum(agent.alive for agent in world.agents)
    assert peers.table.malformed == 0
    for agent in world.agents:
        if agent.alive:
            assert not agent.machine.kept, "answers that nobody releases"
            assert not any(w.unread or w.reading for w in agent.supervisor.values()), "work for nobody"
            agent.machine.leave()
    world.run(most=3 * LEASE)
    assert all(agent.machine.stage is SessionStage.CLOSED for agent in world.agents if agent.alive)
    assert not peers.sessions and not machine.workers


def once(world: World) -> None:
    """No task without retries ran twice."""
    for client in world.clients:
        for name, job in client.jobs.items():
            assert world.runs[name] <= 1 + job.retries, f"{name!r} ran {world.runs[name]} times"


@SEEDS
def test_over_a_bad_network_every_task_runs_once_and_is_answered(seed: int) -> None:
    world = World(seed, loss=0.05, slowest=0.2)
    agents(world, 3)
    made = clients(world, 60, 60, 60)
    finish(world)
    once(world)
    assert all(client.values() == 60 for client in made)


@SEEDS
def test_crashing_workers_lose_only_their_running_task(seed: int) -> None:
    world = World(seed, loss=0.02, crash=0.05)
    agents(world, 2)
    agents(world, 1, quota=5)
    clients(world, 150, 150, retries=(0, 0, 3))
    world.kill_workers(30, within=6.0)
    finish(world)
    once(world)
    for client in world.clients:
        assert all(world.runs[name] == 1 + client.jobs[name].retries for name in client.lost())
        assert client.values() + len(client.lost()) == 150


@SEEDS
@pytest.mark.parametrize("seen", [True, False])
def test_agents_that_die_lose_only_their_own_tasks(seed: int, seen: bool) -> None:
    world = World(seed, loss=0.02)
    made = agents(world, 4)
    clients(world, 100, 100)
    for agent in made[:3]:
        world.later(world.random.uniform(0.2, 5.0), lambda agent=agent: agent.kill(seen=seen))
    finish(world)
    once(world)
    for client in world.clients:
        assert client.values() + len(client.lost()) == 100
    assert sum(len(client.lost()) for client in world.clients) <= 3 * 2 * 2 * 256


@SEEDS
def test_a_coordinator_restarted_empty_loses_nothing(seed: int) -> None:
    world = World(seed, loss=0.02)
    agents(world, 3)
    made = clients(world, 100, 100)
    for when in (world.random.uniform(0.1, 3.0), world.random.uniform(5.0, 30.0)):
        world.later(when, world.restart_coordinator)
    finish(world)
    once(world)
    assert all(client.values() == 100 for client in made)


@SEEDS
@pytest.mark.parametrize("cut", [3.0, 30.0], ids=["shorter", "longer"])
def test_a_partition_shorter_or_longer_than_the_lease(seed: int, cut: float) -> None:
    world = World(seed, loss=0.01)
    made = agents(world, 3)
    clients(world, 100, 100)
    victims = [made[0].name, world.clients[0].name]
    world.later(0.4, lambda: world.cut(victims, cut))
    finish(world)
    once(world)
    for client in world.clients:
        assert client.values() + len(client.lost()) == 100
        assert cut > LEASE or not client.lost()


@SEEDS
@pytest.mark.parametrize("seen", [True, False])
def test_clients_that_die_leave_the_others_unharmed(seed: int, seen: bool) -> None:
    world = World(seed, loss=0.02)
    agents(world, 2)
    made = clients(world, 150, 150, 60)
    for client in made[:2]:
        world.later(world.random.uniform(0.1, 5.0), lambda client=client: client.kill(seen=seen))
    finish(world)
    once(world)
    assert made[2].values() == 60


@SEEDS
def test_a_cancelled_task_never_runs(seed: int) -> None:
    world = World(seed, loss=0.02, crash=0.01)
    agents(world, 1)
    clients(world, 100, 100, cancels=0.4)
    finish(world)
    once(world)


@SEEDS
def test_tasks_that_exceed_their_timeout_are_killed_and_no_others(seed: int) -> None:
    world = World(seed, loss=0.01)
    agents(world, 3)
    (quick,) = clients(world, 60)
    (slow,) = clients(world, 60, timeout=0.3)
    finish(world)
    once(world)
    assert quick.values() == 60
    assert slow.values() + len(slow.errors(TaskTimeout)) == 60


@SEEDS
def test_initializers_run_once_in_each_worker(seed: int) -> None:
    world = World(seed, loss=0.02, crash=0.01)
    agents(world, 2, quota=20)
    clients(world, 60, initializer=b"lazy")
    clients(world, 60, initializer=b"eager", eager=True)
    (bad,) = clients(world, 60, initializer=b"bad", eager=world.random.random() < 0.5)
    clients(world, 60)
    finish(world)
    once(world)
    assert set(world.prepared.values()) == {1}
    assert len(bad.errors(InitializerFailed)) == 60
    assert not any(world.runs[name] for name in bad.jobs)
    for client in world.clients:
        assert client is bad or client.values() + len(client.lost()) == 60


@SEEDS
def test_everything_at_once(seed: int) -> None:
    world = World(seed, loss=0.03, crash=0.02)
    chance = world.random
    made = agents(world, 2) + agents(world, 2, quota=10)
    clients(world, 100, 100, cancels=0.1, retries=(0, 0, 2))
    clients(world, 60, timeout=0.5, initializer=b"lazy")
    (victim,) = clients(world, 100)
    world.later(chance.uniform(0.5, 5.0), lambda: victim.kill(seen=chance.random() < 0.5))
    world.later(chance.uniform(0.5, 20.0), lambda: made[0].kill(seen=chance.random() < 0.5))
    world.later(chance.uniform(0.5, 10.0), world.restart_coordinator)
    names = [made[1].name, world.clients[0].name]
    world.later(chance.uniform(0.5, 10.0), lambda: world.cut(names, chance.choice([2.0, 25.0])))
    world.later(chance.uniform(1.0, 10.0), lambda: agents(world, 1))
    world.kill_workers(5, within=10.0)
    finish(world)
    for client in world.clients:
        for name, job in client.jobs.items():
            assert world.runs[name] <= world.lives * (1 + job.retries)


@SEEDS
def test_a_cancel_is_reliable_even_if_the_coordinator_is_restarted_empty(seed: int) -> None:
    world = World(seed, loss=0.02)
    agents(world, 2)
    made = clients(world, 100, 100, cancels=0.4)
    for when in (world.random.uniform(0.1, 3.0), world.random.uniform(5.0, 30.0)):
        world.later(when, world.restart_coordinator)
    finish(world)
    once(world)
    for client in made:
        assert not any(world.runs[name] for name in client.errors(CancelledError))


@SEEDS
def test_a_coordinator_that_is_away_for_longer_than_the_lease(seed: int) -> None:
    world = World(seed, loss=0.02)
    agents(world, 3)
    made = clients(world, 100, 100)
    world.later(world.random.uniform(0.1, 3.0), lambda: world.restart_coordinator(after=30.0))
    finish(world)
    once(world)
    assert all(client.values() == 100 for client in made)


@SEEDS
def test_without_a_coordinator_everything_ends_after_the_wait(seed: int) -> None:
    world = World(seed, loss=0.02)
    agents(world, 1)
    (client,) = clients(world, 300, wait=15.0)
    world.run(most=1.0)
    world.stop_coordinator()
    stopped = world.now
    world.run(until=lambda: client.machine.stage is SessionStage.CLOSED)
    assert stopped + 14.0 <= world.now <= stopped + 18.0
    world.run(most=60.0)
    assert client.done and client.errors(CoordinatorLost)
