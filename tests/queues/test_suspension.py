"""A broker or client that was suspended: the silence meanwhile does not count as death."""

from __future__ import annotations

import pytest

from nearfar.net.session import Connect, SessionStage
from nearfar.net.timers import SuspendDetector
from nearfar.queues.broker.ledger import Ledger
from nearfar.queues.broker.protocol import BrokerProtocol
from nearfar.queues.client.protocol import ClientProtocol
from nearfar.queues.messages import VERSION, QueueFrame, QueueMessage, QueueMessageType, open_channel

pytestmark = pytest.mark.pure

LEASE = 10.0
ABOUT = {
    "epoch": "e",
    "inbox": 1,
    "lease": LEASE,
    "maxbytes": 0,
    "maxsize": 0,
    "shut": False,
    "stored": 0,
    "ticket": "t",
    "trusted": True,
}


def host_with(*ends: str) -> BrokerProtocol:
    """A broker to which these clients connected at second 0, and that ticks every second."""
    machine = BrokerProtocol(Ledger(), ABOUT, lease=LEASE)
    for name in ends:
        machine.receive(
            f"{name}.1", QueueFrame(0, 0, QueueMessage(QueueMessageType.HELLO, (VERSION, name, {}))), 0.0
        )
    machine.tick(0.0)
    return machine


def beat(machine: BrokerProtocol, name: str, now: float) -> None:
    machine.receive(f"{name}.1", QueueFrame(0, 0, QueueMessage(QueueMessageType.HEARTBEAT)), now)


def test_a_suspended_host_counts_no_client_as_dead() -> None:
    """Given two clients, one silent since second 0, and a broker that is suspended from second 4 to 30,

    I expect the silent one to have the rest of its lease, and the other a whole one.
    """
    machine = host_with("silent", "lively")
    for second in range(1, 5):
        beat(machine, "lively", float(second))
        machine.tick(float(second))
    machine.tick(30.0)
    assert set(machine.peers) == {"silent.1", "lively.1"}
    for second in (31, 32, 33, 34, 35):
        beat(machine, "lively", float(second))
        machine.tick(float(second))
    assert set(machine.peers) == {"silent.1", "lively.1"}
    machine.tick(36.5)
    assert set(machine.peers) == {"lively.1"}


def test_a_suspended_host_waits_for_clients_that_could_not_answer() -> None:
    """Given a client that asks for the size, and another, I expect no answer without the other's report."""
    machine = host_with("asker", "other")
    for name in ("asker", "other"):
        join = QueueMessage(QueueMessageType.JOIN, (True, False, [], False))
        machine.receive(f"{name}.1", QueueFrame(1, 0, join), 0.0)
    machine.flush(0.0)
    machine.receive("asker.1", QueueFrame(2, 0, QueueMessage(QueueMessageType.ASK, (1, "size", None))), 0.5)
    machine.tick(0.6)
    machine.tick(30.0)
    told = [action.envelope.message.kind for action in machine.flush(30.0) if action[0] == "asker.1"]
    assert QueueMessageType.ANSWER not in told
    machine.tick(31.0)
    told = [action.envelope.message.kind for action in machine.flush(31.0) if action[0] == "asker.1"]
    assert QueueMessageType.ANSWER in told


def test_a_suspended_client_does_not_count_its_host_as_dead() -> None:
    """Given an open session and a suspension of three leases, I expect it to go on; a silence ends it."""
    machine = ClientProtocol("end", {})
    machine.connect(0.0)
    machine.receive(QueueFrame(0, 0, QueueMessage(QueueMessageType.WELCOME, ("end.1", ABOUT))), 0.0)
    for second in (0, 1, 2, 32, 33, 34):
        machine.tick(float(second))
        assert machine.calling.stage is SessionStage.OPEN
    for second in range(35, 41):
        machine.tick(float(second))
    assert (machine.calling.stage, machine.session_name) == (SessionStage.GREETING, "end.2")


def test_a_suspended_client_does_not_count_its_host_as_absent() -> None:
    """Given a client without a WELCOME that is suspended from second 1 to 31, I expect the time not to count
    for how long the host is away."""
    machine = ClientProtocol("end", {})
    machine.connect(0.0)
    for now in (0.0, 0.25, 0.5, 0.75, 1.0, 31.0):
        machine.tick(now)
    assert machine.calling.away(31.0) == pytest.approx(1.0)


def test_a_client_that_acks_nothing_is_disconnected_after_three_leases() -> None:
    """Given a client that sends heartbeats and acks nothing, I expect its session to end; the broker's
    suspension is not counted."""
    machine = host_with("deaf")
    machine.receive("deaf.1", QueueFrame(1, 0, QueueMessage(QueueMessageType.ASK, (1, "counts", None))), 0.5)
    machine.flush(0.5)
    for second in [*range(1, 30), *range(130, 131)]:
        beat(machine, "deaf", float(second))
        machine.tick(float(second))
        assert machine.peers
    beat(machine, "deaf", 132.0)
    machine.tick(132.0)
    assert not machine.peers


def test_a_client_without_a_welcome_tries_another_connection() -> None:
    """Given HELLO without an answer, I expect one connection every five seconds, under one name."""
    machine = ClientProtocol("end", {})
    machine.connect(0.0)
    dialed = []
    for quarter in range(0, 48):
        now = quarter / 4
        machine.tick(now)
        dialed += [(now, each) for each in machine.flush(now) if isinstance(each, Connect)]
    assert dialed == [
        (0.0, Connect("end.1")),
        (5.0, Connect("end.1")),
        (10.0, Connect("end.1")),
    ]


@pytest.mark.parametrize(("size", "at"), [(0, 30.0), (2_000_000, 130.0)])
def test_large_messages_may_take_longer(size: int, at: float) -> None:
    channel = open_channel(LEASE, 0.0)
    channel.send(QueueMessage(QueueMessageType.LEND, (1, 1, 1), bytes(size)), 0.0)
    for now, found in ((at - 0.1, ""), (at, "sending, but acking nothing")):
        channel.hear(QueueFrame(0, 0, QueueMessage(QueueMessageType.HEARTBEAT)), now)
        assert channel.fault(now) == found


@pytest.mark.parametrize(("gap", "found"), [(4.9, 0.0), (5.1, 5.1), (600.0, 600.0)])
def test_less_than_half_a_lease_is_not_a_suspension(gap: float, found: float) -> None:
    clock = SuspendDetector(100.0)
    assert clock.seconds(100.0 + gap, LEASE) == pytest.approx(found)
    assert clock.seconds(101.0 + gap, LEASE) == 0.0
