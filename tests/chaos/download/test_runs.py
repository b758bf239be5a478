"""Downloads whose every process is killed and frozen at random, against a server that misbehaves.

Each seed is a run (`plan.py` draws it). ``NEARFAR_CHAOS_SEEDS=17`` or ``1-200`` chooses; the plan and the
story of a run that fails are printed.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.chaos.download.plan import Plan
from tests.chaos.download.run import Run
from tests.chaos.download.starter import Starter
from tests.support.web import Web

FIGURES = os.environ.get("NEARFAR_CHAOS_FIGURES")
"""A file to which each run that is green adds its figures."""


def go(seed: int, starter: Starter) -> Counter[str]:
    plan = Plan.draw(seed)
    print(f"seed {seed}: {plan}")
    folder = Path(tempfile.mkdtemp(prefix="run-"))  # short, for a socket's path has little room
    with Web() as web:
        run = Run(plan, folder, web, starter)
        try:
            run.run()
        except BaseException:
            print("\n".join([*run.story, *said_in(folder)]))
            raise
        finally:
            run.open()
            try:
                starter.kill_all()
            finally:
                shutil.rmtree(folder)
    return run.figures


def said_in(folder: Path) -> list[str]:
    """The last that each command said."""
    return [f"--- {path.stem}: {path.read_text()[-500:]}" for path in sorted((folder / "said").glob("*.err"))]


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.seeds("1-8")
def test_whatever_dies_nothing_is_lost(seed: int, starter: Starter) -> None:
    began = time.monotonic()
    figures = go(seed, starter)
    if FIGURES:
        with Path(FIGURES).open("a") as file:
            print(json.dumps({"seed": seed, "seconds": time.monotonic() - began, **figures}), file=file)
