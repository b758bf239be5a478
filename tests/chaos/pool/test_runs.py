"""Pools whose processes are killed, frozen and disconnected at random: every call ends, and runs once.

Each seed is a run, which `plan` draws. The plan of a run that fails is printed, and what its roles said.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.faults.faults import telling_seeds
from tests.chaos.faults.figures import play
from tests.chaos.faults.hosts import Hosts
from tests.chaos.faults.starter import Starter
from tests.chaos.pool.plan import Plan
from tests.chaos.pool.run import Run


@pytest.mark.parametrize("seed", [1])
def test_a_first_run(seed: int, tmp_path: Path, roles: Starter, hosts: Hosts | None) -> None:
    plan = Plan.draw(seed)
    play("pool", plan, lambda: Run(plan, tmp_path / "run", roles, hosts))


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.seeds(telling_seeds(Plan.draw, 14))
def test_whatever_dies_every_call_has_its_outcome(
    seed: int, tmp_path: Path, roles: Starter, hosts: Hosts | None
) -> None:
    plan = Plan.draw(seed)
    play("pool", plan, lambda: Run(plan, tmp_path / "run", roles, hosts))
