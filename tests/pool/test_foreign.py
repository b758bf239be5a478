"""Pools over the executors of Parsl and mpi4py: what docs/engines.md says of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LIMIT = 200.0
BOTH = {
    "map": 500500,
    "imap": [5, 4, 3, 2, 1],
    "imap_unordered": 125250,
    "starmap": [3, 7],
    "apply_async": 1024,
    "timeout=": ["ValueError", "NoneType"],
    "retries=": ["ValueError", "NoneType"],
    "initializer=": ["ValueError", "NoneType"],
}


def said(folder: Path, *command: str) -> dict[str, object]:
    """What the program has printed about each call."""
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]  # where Parsl finds its programs
    known = os.environ | {"PATH": os.pathsep.join(paths), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=known, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines())


def test_parsl(tmp_path: Path) -> None:
    pytest.importorskip("parsl")
    assert said(tmp_path, sys.executable, "-m", "tests.pool.foreign", "parsl") == BOTH | {
        "an error": ["ZeroDivisionError", "NoneType"],
        "a death": ["WorkerLost", "NoneType"],
        "the next call": 3,
    }


def test_mpi(tmp_path: Path) -> None:
    pytest.importorskip("mpi4py")
    if not (start := shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")):
        pytest.skip("there is no mpiexec on this machine")
    run = (start, "-n", "3", sys.executable, "-m", "mpi4py.futures", "-m", "tests.pool.foreign", "mpi")
    assert said(tmp_path, *run) == BOTH | {"an error": ["ZeroDivisionError", "RemoteTraceback"]}
