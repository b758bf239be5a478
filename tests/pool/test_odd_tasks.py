"""Tasks that do unusual things: each ends with a value or an error, and the pool continues."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.pool import MaybeEncodingError
from pathlib import Path
from typing import Any, NoReturn

import pytest

from nearfar import Pool, WorkerLost
from tests.pool import tasks
from tests.support.waiting import eventually


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool(2, context=multiprocessing.get_context("fork")) as pool:
        yield pool
        assert pool.map_async(tasks.square, range(9), 1).get(20) == [number**2 for number in range(9)]
        pool.close()
        pool.join()


class Unpicklable(Exception):
    def __reduce__(self) -> NoReturn:
        raise TypeError("this stays here")


def stay() -> NoReturn:
    raise Unpicklable("said")


def interrupt() -> NoReturn:
    raise KeyboardInterrupt


def recurse(depth: int = 0) -> int:
    return recurse(depth + 1)


def stop() -> NoReturn:
    raise StopIteration(5)


@pytest.mark.parametrize(
    ("func", "error"),
    [
        (sys.exit, SystemExit),
        (interrupt, KeyboardInterrupt),
        (stay, Unpicklable),
        (recurse, RecursionError),
        (stop, StopIteration),
        (threading.Lock, MaybeEncodingError),
        (lambda: (each for each in ()), MaybeEncodingError),
    ],
)
def test_it_raises(pool: Pool, func: Callable[[], Any], error: type[BaseException]) -> None:
    with pytest.raises(error):
        pool.apply_async(func).get(20)


def test_it_may_exit(pool: Pool) -> None:
    with pytest.raises(WorkerLost, match="exited with code 3 while it ran"):
        pool.apply_async(os._exit, (3,)).get(20)


def test_it_may_return_a_function(pool: Pool) -> None:
    assert pool.apply(lambda: lambda number: number + 1)(4) == 5


def fork_and_return() -> str:
    """Both processes come back from this."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    return "parent" if child else "child"


def test_a_child_that_a_task_forks_sends_no_answer(pool: Pool) -> None:
    assert [pool.apply(fork_and_return) for _ in range(5)] == 5 * ["parent"]


def fork_and_exit(code: int) -> int:
    child = os.fork()
    if not child:
        sys.exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_child_that_a_task_forks_exits_with_its_code(pool: Pool) -> None:
    assert pool.apply(fork_and_exit, (5,)) == 5


def test_a_pool_in_a_worker_is_refused_as_in_multiprocessing(pool: Pool) -> None:
    with pytest.raises(AssertionError, match="daemonic processes are not allowed to have children"):
        pool.apply(lambda: Pool(1))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGCONT], ids=lambda how: how.name)
def test_signals_of_the_terminal_do_not_interrupt_it(pool: Pool, how: signal.Signals) -> None:
    assert pool.apply(lambda: os.kill(os.getpid(), how)) is None


def test_it_may_close_foreign_descriptors(pool: Pool) -> None:
    result = pool.apply_async(os.closerange, (3, 1000))
    with pytest.raises(WorkerLost):
        result.get(20)


def test_a_callback_that_exits_stops_nothing(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    came = threading.Event()
    pool.apply_async(tasks.square, (1,), callback=sys.exit)
    for _ in range(2):  # no caller waits in the pool: the background thread delivers
        came.clear()
        pool.apply_async(tasks.square, (2,), callback=lambda _: came.set())
        assert came.wait(10)


def test_a_start_without_resources_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Pool(2, context=multiprocessing.get_context("fork")) as pool:
        assert pool.apply(abs, (-1,)) == 1
        most = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (most // 2, hard))
        try:
            with pytest.raises(WorkerLost):
                pool.apply_async(os._exit, (3,)).get(20)
            assert pool.apply_async(abs, (-2,)).get(20) == 2
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert pool.map_async(abs, range(-9, 0), 1).get(20) == list(range(9, 0, -1))


def test_a_forked_child_that_exits_leaves_the_parents_workers_alone(tmp_path: Path) -> None:
    program = """
import multiprocessing, os, sys
from nearfar import Pool
with Pool(2, context=multiprocessing.get_context("fork")) as pool:
    before = pool.apply(os.getpid)
    if not (child := os.fork()):
        sys.exit()
    os.waitpid(child, 0)
    workers = {pool.apply(os.getpid) for _ in range(20)}
    assert before in workers, workers
    print("ok")
"""
    path = tmp_path / "program.py"
    path.write_text(program)
    quiet = [sys.executable, "-W", "ignore::DeprecationWarning", path]  # it forks, and has threads
    ended = subprocess.run(quiet, capture_output=True, text=True, timeout=90, check=False)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("ok\n", "", 0)


UNGUARDED = """
import multiprocessing
from nearfar import Pool
multiprocessing.set_start_method("{method}", force=True)
print(Pool(2).map(abs, [-1]))
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_program_without_a_main_guard_ends_with_the_reason(method: str, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(UNGUARDED.format(method=method))
    ended = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=90, check=False)
    assert ended.returncode == 1
    assert "forgotten to use the proper idiom" in ended.stderr
    # From 3.14 on, the fork server itself runs the program, and ends.
    said = ended.stderr.splitlines()[-1]
    assert (
        "PoolBroken: 6 workers in a row ended at their start" in said
        or "OSError: the fork server ends" in said
    )


INTERRUPTED = """
import itertools, sys, time
from nearfar import Pool

def slow(number):
    time.sleep(0.02)
    return number

if __name__ == "__main__":
    with Pool(2) as pool:
        pool.map(abs, range(4))
        print("ready", flush=True)
        {then}
"""


@pytest.mark.parametrize(
    "then",
    [
        "pool.map(slow, range(5000))",
        "pool.apply_async(time.sleep, (60,)).get()",
        "list(pool.imap(slow, itertools.count()))",
        "time.sleep(60)",
        "pool.map_async(slow, range(5000)); pool.close(); pool.join()",
    ],
    ids=["map", "get", "imap", "idle", "join"],
)
def test_ctrl_c_ends_it_with_one_traceback(then: str, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(INTERRUPTED.format(then=then))
    program = subprocess.Popen(
        [sys.executable, path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with program:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        os.killpg(program.pid, signal.SIGINT)
        _, said = program.communicate(timeout=90)
    assert program.returncode == -signal.SIGINT
    assert said.count("Traceback") == 1
    assert said.endswith("KeyboardInterrupt\n")
    assert eventually(lambda: not is_group(program.pid))


def is_group(number: int) -> bool:
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True
