"""Dask's own tests of its bags, run by its scheduler for processes over a nearfar executor."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REASON = "Dask's bags and their tests are not installed: tox -e dask, or pip install 'dask[bag]'"
ELSEWHERE = "test_to_delayed_optimize_graph"
"""Counts calls in a global of the test's own process, so it needs a pool of threads."""
pytest.importorskip("dask.bag", reason=REASON)
tests = pytest.importorskip("dask.bag.tests", reason=REASON)

PLUGIN = """
import multiprocessing
import dask, pytest
from nearfar import Executor

@pytest.fixture(autouse=True, scope="session")
def over_nearfar():
    context = multiprocessing.get_context("forkserver")
    with Executor(4, mp_context=context) as executor, dask.config.set(pool=executor, scheduler="processes"):
        yield
        assert executor.engine.counts()["done"] > 100, "Dask ran its tasks somewhere else"
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_dask_s_bags_over_our_executor(tmp_path: Path) -> None:
    (tmp_path / "over_nearfar.py").write_text(PLUGIN, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    file = Path(tests.__file__).with_name("test_bag.py")
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "over_nearfar", "-c", "pytest.ini"),
            *("--rootdir", ".", "-k", f"not {ELSEWHERE}", str(file)),
        ],
        capture_output=True,
        text=True,
        timeout=580,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": "", "HOME": str(tmp_path)},
    )
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-2000:]
