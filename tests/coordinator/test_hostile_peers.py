"""For any messages of agents and clients, the coordinator's state stays valid, and honest peers are
served."""

from __future__ import annotations

import os
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.coordinator import agents, messages, remote_client, remote_clients
from nearfar.coordinator.large_parts import AGENT, CLIENT
from nearfar.coordinator.messages import VERSION, PoolFrame, PoolMessage, PoolMessageType
from nearfar.errors import WorkerLost
from nearfar.net.frames import WrongHello
from tests.coordinator.check import check
from tests.coordinator.hostile import Hostile
from tests.coordinator.world import LEASE, World, through

pytestmark = pytest.mark.pure


def attack(world: World, hostile: Hostile, words: int) -> None:
    """The attackers send messages, and the coordinator acts; all its messages can be sent and read."""
    for _ in range(words):
        world.to_coordinator.append(hostile.word())
        if hostile.random.random() < 0.5:
            world.turn()
            check(world.coordinator, resumed=True, liars=True)
        if hostile.random.random() < 0.05:
            world.pass_time(hostile.random.choice([0.3, 2.0, LEASE]))
    world.settle()
    check(world.coordinator, resumed=True, liars=True)
    world.peers.table.take_complaints()


def run_hostile(random: Random, words: int) -> None:
    world = World()
    attack(world, Hostile(random, ("client", "agent"), works=True), words)
    for name, envelope in world.peers.flush(world.now):
        assert name and through(envelope)
    for row in world.peers.status(world.now):
        assert row[4].isprintable()
    world.pass_time(3 * LEASE)
    assert not world.peers.sessions and not world.coordinator.workers
    assert not world.peers._remote_clients.all and not world.coordinator.book.clients


@settings(max_examples=20)
@given(st.randoms(use_true_random=False))
def test_any_messages_in_any_order(random: Random) -> None:
    run_hostile(random, 80)


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_very_many_messages() -> None:
    seed = int(os.environ.get("NEARFAR_SEED", "0")) or Random().randrange(1 << 32)
    print(f"NEARFAR_SEED={seed}")
    random = Random(seed)
    for _ in range(200):
        run_hostile(random, 600)


@pytest.mark.parametrize("seed", range(6))
def test_honest_peers_are_served_beside_hostile_ones(seed: int) -> None:
    """Given peers that say anything but that they have workers, I expect each task of an honest client to be
    run once by an honest agent, and its value told."""
    world = World()
    agent, client = world.agent(workers=2), world.client()
    hostile = Hostile(Random(seed), ("client", "agent"), works=False)
    told: list[int] = []
    for turn in range(30):
        told += client.submit(b"%d" % turn, b"again %d" % turn)
        for _ in range(10):
            world.to_coordinator.append(hostile.word())
        world.turn()
        world.run_all()
        check(world.coordinator, resumed=True)
    for number in told:
        turn, again = divmod(number - 1, 2)
        assert client.value(number)[::-1] == (b"again %d" if again else b"%d") % turn
    honest = [blob for blob in agent.ran if blob.isalnum() or blob.startswith(b"again")]
    assert len(set(honest) & {b"%d" % turn for turn in range(30)}) == 30


# -- each attack by itself -----------------------------------------------------------------------------


def hello(
    world: World, session: str, role: str, uid: str, version: int = VERSION, **about: object
) -> PoolMessage:
    world.peers.receive(
        session, PoolFrame(0, 0, PoolMessage(PoolMessageType.HELLO, (version, role, uid, about))), world.now
    )
    envelope = next(said for name, said in world.peers.flush(world.now) if name == session)
    return envelope.message


def test_no_peer_can_take_over_another_ones_name() -> None:
    """Given the name of an agent, which the status shows to all clients, I expect its tasks not to be
    lost."""
    world = World()
    world.agent()
    client = world.client()
    (number,) = client.submit(b"abc")
    world.settle()
    refused = hello(world, "thief.secret.1", AGENT, "agent")
    assert refused.kind is PoolMessageType.REFUSED and "another peer has this name" in refused.fields[0]
    assert hello(world, "thief.secret.2", CLIENT, "client").kind is PoolMessageType.REFUSED
    world.run_all()
    assert client.value(number) == b"cba"


def test_the_number_of_peers_is_limited() -> None:
    world = World()
    world.peers.table.most = 2
    world.agent()
    world.client()
    refused = hello(world, "more.secret.1", CLIENT, "more")
    assert refused.kind is PoolMessageType.REFUSED and "as many as there may be" in refused.fields[0]
    assert world.peers.counts()["refused"] == 1


def test_another_version_is_refused_whatever_its_hello_looks_like() -> None:
    world = World()
    refused = hello(world, "new.secret.1", AGENT, "new", version=VERSION + 1)
    why = f"the coordinator speaks version {VERSION} of the protocol, this peer version {VERSION + 1}"
    assert refused == PoolMessage(PoolMessageType.REFUSED, (why,))
    with pytest.raises(WrongHello) as error:
        messages.unpack(
            messages.pack(0, 0, PoolMessage(PoolMessageType.HELLO, (VERSION + 1, ["all", "new"])))
        )
    assert error.value.why == why
    with pytest.raises(WrongHello) as error:
        messages.unpack(messages.pack(0, 0, PoolMessage(PoolMessageType.HELLO, (VERSION, "end", {}))))
    assert "this is a pool's coordinator" in error.value.why


def test_an_agents_text_about_a_death_is_escaped() -> None:
    world = World()
    agent, client = world.agent(), world.client()
    (number,) = client.submit(b"1")
    world.settle()
    agent.read("0.1")
    agent.end("0.1", "was \x1b[2Jkilled\n2026 ERROR all is lost" + "!" * 100_000)
    world.settle()
    error = client.error(number)
    assert isinstance(error, WorkerLost)
    assert str(error).isprintable() and "\\x1b[2Jkilled\\n" in str(error) and len(str(error)) < 1000


def test_the_workers_of_an_agent_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "MOST_WORKERS", 3)
    world = World()
    assert hello(world, "evil.secret.1", AGENT, "evil").kind is PoolMessageType.WELCOME
    for n in range(1, 5):
        came = PoolMessage(PoolMessageType.CAME, (f"evil/0.{n}", 1, 0, [], []))
        world.peers.receive("evil.secret.1", PoolFrame(n, 0, came), world.now)
    assert not world.peers.sessions and not world.coordinator.workers
    assert "more than 3 workers" in world.peers.table.take_complaints()[0]


def test_the_tasks_of_a_client_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_client, "MOST_TASKS", 5)
    world = World()
    client = world.client()
    client.submit(*[b"x"] * 5)
    world.settle()
    assert not world.peers.table.take_complaints()
    assert hello(world, "evil.secret.1", CLIENT, "evil").kind is PoolMessageType.WELCOME
    rows = [(n, 0, b"m:f", b"", [], None, 0) for n in range(1, 7)]
    world.peers.receive(
        "evil.secret.1", PoolFrame(1, 0, PoolMessage(PoolMessageType.SUBMIT, (False,), rows)), world.now
    )
    assert "has 5 tasks already" in world.peers.table.take_complaints()[0]
    assert list(world.peers.sessions) == [client.socket]


def test_clients_that_agents_invent_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_clients, "MOST_GUESTS", 5)
    world = World()
    hello(world, "evil.secret.1", AGENT, "evil")
    rows = [(f"ghost-{n}", 1, 0, b"", []) for n in range(9)]
    world.peers.receive(
        "evil.secret.1", PoolFrame(1, 0, PoolMessage(PoolMessageType.KEPT, (), rows)), world.now
    )
    assert len(world.peers._remote_clients.all) == 5 and world.peers.table.take_complaints()


def test_status_answers_are_rate_limited() -> None:
    world = World()
    for _ in range(1000):
        world.peers.receive("who.1", PoolFrame(0, 0, PoolMessage(PoolMessageType.QUERY)), world.now)
    assert len(world.peers.flush(world.now)) == 100


def test_a_task_that_is_claimed_while_it_waits_runs_once() -> None:
    """Given an agent that comes late from an earlier coordinator with a task that waits here by now, and then
    loses its worker before that has read it, I expect the task to be run once."""
    world = World()
    client = world.client()
    (number,) = client.submit(b"abc")
    world.settle()
    assert hello(world, "late.secret.1", AGENT, "late").kind is PoolMessageType.WELCOME
    came = PoolMessage(PoolMessageType.CAME, ("late/0.1", 1, 0, [], [["client", [number]]]))
    world.peers.receive("late.secret.1", PoolFrame(1, 0, came), world.now)
    check(world.coordinator)
    died = PoolMessage(PoolMessageType.DIED, ("late/0.1", "was killed", 1, 1))
    world.peers.receive("late.secret.1", PoolFrame(2, 0, died), world.now)
    check(world.coordinator)
    world.pass_time(2 * LEASE)
    agent = world.agent()
    world.run_all()
    assert client.value(number) == b"cba" and agent.ran == [b"abc"]
