"""Connections that break without a word, and networks that are away for long: everybody finds back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.faults.faults import Fault
from tests.chaos.faults.figures import told
from tests.chaos.faults.hosts import Hosts, missing
from tests.chaos.faults.starter import Starter
from tests.chaos.queue.plan import Plan
from tests.chaos.queue.run import Run

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(150)]
CONTROL = 5555


@pytest.fixture
def run(tmp_path: Path, roles: Starter, hosts: Hosts | None) -> Callable[..., Run]:
    """Run one producer, one consumer and a host, each on a machine, with these faults."""
    if hosts is None:
        pytest.skip(missing())

    def play(*faults: Fault) -> Run:
        plan = Plan(0, "net", 1, 1, items=100, batch=1, maxsize=5, stay=True, faults=faults, failpoints=())
        made = Run(plan, tmp_path / "run", roles, hosts)
        with told("net", 0, made.stage):
            try:
                made.run()
            finally:
                made.close()
        return made

    return play


@pytest.mark.parametrize("target", ["consumer1", "producer1"])
def test_a_connection_that_was_forgotten_is_made_again(run: Callable[..., Run], target: str) -> None:
    """Given a firewall that forgets the connections on which items travel, and keeps the one for control,

    I expect all items to arrive, though the session goes on and nobody is silent.
    """
    run(Fault(0.5, "forget", target, 60.0, amount=CONTROL))


def test_after_a_long_partition_everybody_is_back_within_seconds(run: Callable[..., Run]) -> None:
    """Given a consumer that was cut off for nine leases, I expect it back soon: not when TCP tries again."""
    made = run(Fault(0.5, "partition", "consumer1", 9.0))
    (healed,) = made.stage.journal.notes("healed")
    last = list(made.stage.journal.notes("got"))[-1]
    assert last["at"] - healed["at"] < 5.0
