"""Connections that break silently, and long partitions: all peers reconnect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.faults.faults import LEASE, Fault
from tests.chaos.faults.figures import play
from tests.chaos.faults.hosts import Hosts
from tests.chaos.faults.journal import Journal
from tests.chaos.faults.starter import Starter
from tests.chaos.queue.plan import Plan
from tests.chaos.queue.run import Run

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]
CONTROL = 5555


@pytest.fixture
def run(tmp_path: Path, roles: Starter, hosts: Hosts | None) -> Callable[..., Journal]:
    """Run one producer, one consumer and a host, each on a machine, with a fault; returns their journal."""

    def go(fault: Fault, lease: float) -> Journal:
        plan = Plan(0, "net", 1, 1, items=100, batch=1, maxsize=5, stay=True, faults=(fault,), failpoints=())
        runs: list[Run] = []

        def make() -> Run:
            runs.append(Run(plan, tmp_path / "run", roles, hosts, lease))
            return runs[0]

        play("net", plan, make)
        return runs[0].stage.journal

    return go


def test_a_dropped_connection_is_replaced_and_its_session_continues(
    run: Callable[..., Journal],
) -> None:
    """Given a firewall that forgets the connections on which items travel, and keeps the one for control,

    I expect the kernels to detect it, and all items to arrive, though the lease is long and no peer is
    silent.
    """
    journal = run(Fault(0.5, "forget", "consumer1", 40.0, amount=CONTROL), 60.0)
    assert all(note["cleanly"] for note in journal.notes("death"))


@pytest.mark.parametrize("target", ["consumer1", "producer1"])
def test_with_a_short_lease_the_channel_detects_it_before_the_kernels(
    run: Callable[..., Journal], target: str
) -> None:
    journal = run(Fault(0.5, "forget", target, 8.0, amount=CONTROL), LEASE)
    assert not all(note["cleanly"] for note in journal.notes("death"))


def test_after_a_long_partition_all_peers_reconnect_within_seconds(run: Callable[..., Journal]) -> None:
    """Given a consumer that was disconnected for nine leases, I expect it to reconnect soon, before TCP's
    next retry."""
    journal = run(Fault(0.5, "partition", "consumer1", 9.0), LEASE)
    (healed,) = journal.notes("healed")
    last = list(journal.notes("got"))[-1]
    assert last["at"] - healed["at"] < 5.0
