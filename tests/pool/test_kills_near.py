"""Workers that are killed: only the running task fails, with `WorkerLost`, and the pool goes on."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nearfar import Pool, TaskTimeout, WorkerLost
from tests.pool import tasks
from tests.pool.state import here
from tests.support.waiting import eventually

METHODS = ["fork", "forkserver", "spawn"]


@pytest.fixture(params=METHODS)
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    """Two workers."""
    with Pool(2, context=multiprocessing.get_context(request.param)) as pool:
        yield pool
    pool.join()


def seven_kills(number: int) -> int:
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def end(how: int) -> None:
    faulthandler.disable()  # its report of an intended SIGSEGV would fill the output of the tests
    os.kill(os.getpid(), how)


def outcome(result: Any) -> Any:
    try:
        return result.get(20)
    except WorkerLost as error:
        return error


def test_one_of_sixty_tasks_is_lost(pool: Pool) -> None:
    results = [pool.apply_async(seven_kills, (number,)) for number in range(60)]
    outcomes = [outcome(result) for result in results]
    lost = outcomes.pop(7)
    assert outcomes == [number for number in range(60) if number != 7]
    assert isinstance(lost, WorkerLost)
    assert "was killed by SIGKILL while it ran tests.pool.test_kills_near:seven_kills" in str(lost)
    assert lost.worker in str(lost)
    assert lost.pid != os.getpid()
    assert pool.map(seven_kills, range(7)) == list(range(7))


def test_a_map_continues_after_a_lost_chunk(pool: Pool) -> None:
    found: list[Any] = []
    iterator = pool.imap(seven_kills, range(60))
    while len(found) < 60:
        try:
            found.append(next(iterator))
        except WorkerLost as error:
            found.append(error)
    assert isinstance(found.pop(7), WorkerLost)
    assert found == [number for number in range(60) if number != 7]
    with pytest.raises(WorkerLost):
        pool.map(seven_kills, range(60), 1)


@pytest.mark.slow
def test_an_idle_worker_may_be_killed_again_and_again(pool: Pool) -> None:
    for _ in range(20):
        os.kill(pool.apply(here).pid, signal.SIGKILL)
        results = [pool.apply_async(tasks.square, (number,)) for number in range(2)]
        assert [result.get(20) for result in results] == [0, 1]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV], ids=lambda how: how.name)
def test_the_error_names_the_signal(pool: Pool, how: signal.Signals) -> None:
    with pytest.raises(WorkerLost, match=f"was killed by {how.name} while it ran"):
        pool.apply(end, (how,))
    assert pool.apply(tasks.square, (3,)) == 9


def test_a_frozen_worker_is_killed_at_its_timeout(pool: Pool) -> None:
    frozen = pool.apply_async(end, (signal.SIGSTOP,), timeout=0.3)
    others = pool.map_async(tasks.square, range(20), 1)
    with pytest.raises(TaskTimeout):
        frozen.get(20)
    assert others.get(20) == [number**2 for number in range(20)]


def test_a_task_may_run_again(pool: Pool, tmp_path: Path) -> None:
    assert pool.apply(kill_once, (str(tmp_path / "mark"),), retries=1) == "the second time"


def kill_once(mark: str) -> str:
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "the second time"


ORPHANS = """
import multiprocessing, os, re, signal, sys, time
from nearfar import Pool

def mark():
    open(os.path.join(sys.argv[2], str(os.getpid())), "w").close()

def backtrack(_):
    mark()
    re.match("(a+)+$", 60 * "a" + "b")

def freeze(_):
    mark()
    os.kill(os.getpid(), signal.SIGSTOP)

def block(_):
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    mark()
    time.sleep(60)

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    Pool(2).map(globals()[sys.argv[3]], range(2), 1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("busy", ["backtrack", "freeze", "block"])
@pytest.mark.parametrize("method", METHODS)
def test_no_worker_outlives_its_parent(method: str, busy: str, tmp_path: Path) -> None:
    program, marks = tmp_path / "program.py", tmp_path / "marks"
    program.write_text(ORPHANS)
    marks.mkdir()
    parent = subprocess.Popen([sys.executable, program, method, marks, busy], start_new_session=True)
    try:
        assert eventually(lambda: len(list(marks.iterdir())) == 2)
    finally:
        parent.kill()
        parent.wait()
    assert eventually(lambda: not any(is_running(int(mark.name)) for mark in marks.iterdir()), 10)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
