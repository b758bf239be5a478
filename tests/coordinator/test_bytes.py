"""A coordinator's memory is bounded: a client that takes no results, or sends too much, waits; others are
served, and no task is lost or run twice."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.coordinator.messages import PoolMessageType
from nearfar.coordinator.sessions import WINDOW
from nearfar.coordinator.task import Mode
from nearfar.errors import InitializerFailed, WorkerLost
from nearfar.net.resources import EACH, Budget
from tests.coordinator.world import LEASE, FakeAgent, FakeClient, World

UNIT = 1 << 16
"""Bytes: large, as parts of messages go, and quick to copy."""


@pytest.fixture
def world() -> World:
    """Half of its bytes are for results: a client alone may have 8 units of those."""
    return World(32 * UNIT)


def results(agent: FakeAgent, size: int) -> None:
    """Have `agent` return results of so many bytes, which begin with the task's name."""
    agent.value = lambda blob: bytes(blob).ljust(size, b".")


def told(client: FakeClient) -> list[bytes]:
    """The tasks of which it had a value, once each."""
    assert all(len(outcomes) == 1 for outcomes in client.outcomes.values())
    return [client.value(number).rstrip(b".") for number in client.outcomes]


def names(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


# -- budgets -------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(-50, 60)), max_size=60))
def test_a_holder_at_its_share_leaves_the_same_amount_free(changes: list[tuple[str, int]]) -> None:
    """Given holders that take what fits, and return some,

    I expect the sum never to exceed the bound, and, until a client returns some, as much free for a new
    client as any other has.
    """
    budget = Budget(200)
    largest = 0
    for name, size in changes:
        held = budget.held.get(name, 0)
        if size < 0:
            budget.add(name, -min(held, -size))
        elif budget.fits(name, size):
            budget.add(name, size)
            assert budget.held.get(name, 0) <= budget.most - budget.used
        assert budget.used == sum(budget.held.values()) <= budget.most
        largest = max(budget.held.values(), default=0)
    assert largest <= budget.largest
    for name in "abcde":
        budget.forget(name)
    assert (budget.used, budget.held) == (0, {})


# -- results -------------------------------------------------------------------------------------------


def test_a_client_that_takes_no_results_gets_no_more_workers_and_others_are_served(world: World) -> None:
    """Given a client that is silent, with 100 tasks that come to a unit each,

    If the workers run what they are given,
    I expect them to stop at a share of the bound, while another client's tasks are run and told; and the rest
    to be run and told, once each, as soon as the first takes what there is.
    """
    agent = world.agent(workers=2)
    results(agent, UNIT)
    client, other = world.client("silent"), world.client("other")
    client.submit(*names(100))
    world.settle()
    client.cut = True
    world.run_all()
    assert len(agent.ran) < 12
    assert world.peers.bytes < 12 * UNIT
    assert world.peers.counts()["held back"] == 1
    assert agent.machine.kept_bytes < 12 * UNIT
    other.submit(*[b"o%d" % number for number in range(30)])
    for _ in range(25):
        world.pass_time(0.2)  # in all less than a lease: the silent one is still there
        world.run_all()
    assert "client" not in world.peers._remote_clients.all and "silent" in world.peers._remote_clients.all
    assert told(other) == [b"o%d" % number for number in range(30)]
    client.cut = False
    for _ in range(60):
        world.pass_time(1)
        world.run_all()
    assert sorted(told(client)) == sorted(names(100))
    assert sorted(agent.ran) == sorted([*names(100), *(b"o%d" % number for number in range(30))])
    assert (world.peers.bytes, agent.machine.kept_bytes, world.peers.counts()["held back"]) == (0, 0, 0)


def test_results_of_begun_tasks_stay_with_their_agent_until_there_is_room(world: World) -> None:
    """Given twenty workers that all run tasks of a client that is silent, and come to a unit each,

    I expect the coordinator to keep what there is room for, and the agent the rest; and, when the client goes
    on, each value to be told once, and nothing to have run twice.
    """
    agent = world.agent(workers=20)
    results(agent, UNIT)
    client = world.client()
    client.submit(*names(40))
    world.settle()
    client.cut = True
    world.run_all()
    remote_client = world.peers._remote_clients.all["client"]
    assert len(agent.ran) >= 20
    assert len(remote_client.withheld) == len(agent.ran) - len(remote_client.weights) > 8
    assert world.peers.bytes <= 8 * UNIT + 40 * (EACH + 2)
    client.cut = False
    for _ in range(60):
        world.pass_time(1)
        world.run_all()
    assert sorted(told(client)) == sorted(names(40)) == sorted(agent.ran)
    assert (world.peers.bytes, agent.machine.kept_bytes, remote_client.withheld) == (0, 0, {})


def crowded(world: World) -> tuple[FakeAgent, FakeClient]:
    """An agent with answers for which the coordinator has no room, and their client, which is silent."""
    agent = world.agent(workers=20)
    results(agent, UNIT)
    client = world.client()
    client.submit(*names(20))
    world.settle()
    client.cut = True
    world.run_all()
    assert len(agent.ran) == 20
    assert world.peers._remote_clients.all["client"].withheld
    return agent, client


def finish(world: World) -> None:
    """Run all tasks, and deliver all messages."""
    world.run_all()
    world.pass_time(2)


def go_on(world: World, client: FakeClient) -> None:
    client.cut = False
    for _ in range(25):
        world.pass_time(1)
        world.run_all()


def test_an_answer_that_is_lost_with_its_agent_is_reported_as_lost(world: World) -> None:
    agent, client = crowded(world)
    kept = set(world.peers._remote_clients.all["client"].withheld)
    world.agents.remove(agent)
    world.peers.table.dead(agent.socket, "was lost with its agent", world.now)
    go_on(world, client)
    assert len(client.outcomes) == 20
    for number in client.outcomes:
        if number in kept:
            error = client.error(number)
            assert isinstance(error, WorkerLost)
            assert "with an answer for which its client had made no room" in str(error)
        else:
            client.value(number)
    assert world.peers.bytes == 0


def test_a_client_in_a_new_session_gets_the_answers_that_agents_keep(world: World) -> None:
    agent, client = crowded(world)
    client.greet()
    go_on(world, client)
    assert sorted(told(client)) == sorted(names(20)) == sorted(agent.ran)
    assert (world.peers.bytes, agent.machine.kept) == (0, {})


def test_answers_that_agents_keep_arrive_through_another_coordinator(world: World) -> None:
    """Given answers for which there was no room, and a coordinator that is killed and started again,

    I expect each to be told once, and nothing to be run again.
    """
    agent, client = crowded(world)
    world.restart()
    world.settle()
    go_on(world, client)
    assert sorted(told(client)) == sorted(names(20)) == sorted(agent.ran)
    assert (world.peers.bytes, agent.machine.kept) == (0, {})


def test_answers_for_a_client_that_never_returns_are_dropped(world: World) -> None:
    agent, client = crowded(world)
    world.clients.remove(client)
    world.pass_time(3 * LEASE)
    assert not world.peers._remote_clients.all
    assert (world.peers.bytes, agent.machine.kept, agent.machine.kept_bytes) == (0, {}, 0)


def test_a_client_is_held_back_at_its_share_of_an_agents_memory(world: World) -> None:
    """Given an agent with little memory, I expect a client's tasks to be held back when it has a share of
    that, though the coordinator has more."""
    agent = world.agent(keeps=6 * UNIT)
    results(agent, UNIT)
    client = world.client()
    client.submit(*names(50))
    world.settle()
    client.cut = True
    world.run_all()
    assert 2 * UNIT <= agent.machine.kept_bytes <= 4 * UNIT
    go_on(world, client)
    assert len(told(client)) == 50


def test_bytes_in_flight_to_a_peer_are_bounded_and_sent_again(world: World) -> None:
    world = World(128 << 20)
    agent = world.agent()
    results(agent, 1 << 20)
    client = world.client()
    client.submit(*names(30))
    world.settle()
    client.cut = True
    world.run_all()
    (session,) = [each for each in world.peers.sessions.values() if each.uid == "client"]
    assert WINDOW <= session.flying_bytes <= WINDOW + (1 << 20) + EACH
    assert len(session.words) > 1
    assert session.channel.out.sent - session.channel.out.received < 12
    go_on(world, client)
    assert len(told(client)) == 30
    assert session.flying_bytes == 0


# -- arguments -----------------------------------------------------------------------------------------


def large(count: int) -> list[bytes]:
    """Arguments of a unit."""
    return [b"%d" % number + bytes(UNIT) for number in range(count)]


def test_a_client_that_sends_too_much_must_send_it_again(world: World) -> None:
    """Given a client that submits 60 tasks of a unit at once, and no worker,

    I expect the coordinator to take in no more than a share, and to serve another client; and each task to
    be run once in the end.
    """
    client, other = world.client("greedy"), world.client("other")
    blobs = large(60)
    for blob in blobs:
        client.submit(blob)
    world.settle()
    assert world.peers.bytes <= 8 * UNIT + 9 * EACH
    assert world.peers.counts()["put off"] > 0
    agent = world.agent(workers=2)
    results(agent, 1)
    agent.value = lambda blob: bytes(blob[:2])
    (number,) = other.submit(b"x" * 1000)
    world.run_all()
    assert other.value(number) == b"xx"
    for _ in range(200):
        world.pass_time(1)
        world.run_all()
    assert sorted(agent.ran) == sorted([*blobs, b"x" * 1000])
    assert world.peers.bytes == 0


def test_known_tasks_are_attached_though_there_is_no_room_for_more(world: World) -> None:
    """Given a client whose tasks take all that it may have, and whose session breaks,

    If it submits them again, with one more that does not fit, in one message,
    I expect their values to be told: only that makes room for the other.
    """
    client = world.client()
    client.submit(*large(7))
    world.settle()
    client.number += 1
    client.pending[client.number] = (client.number, Mode.CALL, b"m:f", bytes(3 * UNIT), [], None, 0)
    client.greet()
    world.settle()
    assert world.peers.counts()["put off"] == 1
    agent = world.agent()
    agent.value = lambda blob: bytes(blob[:1])
    world.run_all()
    assert len(client.outcomes) == 7
    for _ in range(20):
        world.pass_time(1)
        world.run_all()
    assert len(agent.ran) == len(client.outcomes) == 8
    assert all(len(outcomes) == 1 for outcomes in client.outcomes.values())


@pytest.mark.parametrize("before", [True, False])
def test_too_large_arguments_fail_their_task_and_no_other(world: World, before: bool) -> None:
    agent = world.agent()
    agent.value = lambda blob: bytes(blob[:2])
    client = world.client()
    blobs = [b"small", bytes(8 * UNIT)]
    numbers = client.submit(*(blobs if before else blobs[::-1]))
    finish(world)
    small, big = numbers if before else numbers[::-1]
    assert client.value(small) == b"sm"
    said = (
        f"the arguments of {8 * UNIT + EACH} bytes cannot be sent: the coordinator takes at most {8 * UNIT}"
    )
    assert said in str(client.error(big))
    assert (agent.ran, world.peers.bytes) == ([b"small"], 0)


def test_a_too_large_result_fails_its_task_and_no_other(world: World) -> None:
    agent = world.agent()
    agent.value = lambda blob: bytes(9 * UNIT) if blob == b"big" else b"!"
    client = world.client()
    small, big = client.submit(b"small", b"big")
    finish(world)
    assert client.value(small) == b"!"
    assert f"the result of {9 * UNIT} bytes cannot be sent" in str(client.error(big))
    assert agent.machine.kept == {}


def test_a_too_large_initializer_breaks_its_client(world: World) -> None:
    world.agent()
    client = world.client(initializer=(b"m:prepare", bytes(9 * UNIT), []))
    (number,) = client.submit(b"1")
    world.run_all()
    error = client.error(number)
    assert isinstance(error, InitializerFailed)
    assert f"the initializer of {9 * UNIT + EACH} bytes cannot be sent" in str(error)


def test_cancelled_and_abandoned_tasks_are_not_counted(world: World) -> None:
    client = world.client()
    first, *_ = client.submit(*large(5))
    world.settle()
    assert world.peers.bytes > 5 * UNIT
    client.say(PoolMessageType.CANCEL, first)
    world.settle()
    assert client.cancelled == {first: True}
    assert 4 * UNIT < world.peers.bytes < 5 * UNIT
    client.say(PoolMessageType.BYE)
    world.settle()
    assert world.peers.bytes == 0
