"""Downloads whose every process is killed and frozen at random, against a server that misbehaves.

Each seed is a run (`plan.py` draws it). ``NEARFAR_CHAOS_SEEDS=17`` or ``1-200`` chooses; the plan and the story of a run
that fails are printed.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.download.plan import Plan
from tests.chaos.download.run import Run
from tests.chaos.download.starter import Starter
from tests.support.web import Web

SEEDS = os.environ.get("NEARFAR_CHAOS_SEEDS", "1-30")
FIGURES = os.environ.get("NEARFAR_CHAOS_FIGURES")
"""A file to which each run that is green adds its figures."""


def seeds() -> range:
    first, _, last = SEEDS.partition("-")
    return range(int(first), int(last or first) + 1)


@pytest.fixture(scope="session")
def starter() -> Iterator[Starter]:
    starter = Starter()
    yield starter
    starter.close()


def go(seed: int, folder: Path, starter: Starter) -> Counter[str]:
    plan = Plan.draw(seed)
    print(f"seed {seed}: {plan}")
    folder.mkdir()
    with Web() as web:
        run = Run(plan, folder, web, starter)
        try:
            run.run()
        finally:
            print("\n".join(run.story))
            starter.kill_all()
            run.open()
    shutil.rmtree(folder)
    return run.figures


@pytest.mark.chaos
@pytest.mark.timeout(150)
@pytest.mark.parametrize("seed", seeds())
def test_whatever_dies_nothing_is_lost(seed: int, tmp_path: Path, starter: Starter) -> None:
    began = time.monotonic()
    figures = go(seed, tmp_path / "run", starter)
    if FIGURES:
        with Path(FIGURES).open("a") as file:
            print(json.dumps({"seed": seed, "seconds": time.monotonic() - began, **figures}), file=file)
