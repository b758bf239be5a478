"""A pool over a real Ray cluster, whose processes are killed."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nearfar import CoordinatorLost, InitializerFailed, Pool, WorkerLost
from tests.pool import tasks
from tests.pool.places import traces
from tests.pool.test_dask_kills import begin, end_late_calls, note, once, outcome, refuse, whoami
from tests.support import ray_cluster
from tests.support.ports import free_address
from tests.support.shell import alive
from tests.support.waiting import eventually

pytestmark = [ray_cluster.needed, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[ray_cluster.Cluster]:
    import ray  # noqa: F401, makes files and threads once in a process

    with ray_cluster.running() as cluster:
        yield cluster


@pytest.fixture
def pool(cluster: ray_cluster.Cluster) -> Iterator[Pool]:
    with Pool.connect(cluster.address) as pool:
        yield pool
    pool.join()


def test_calls_maps_and_errors(pool: Pool) -> None:
    assert repr(pool) == "<nearfar.Pool 2 workers, 0 running, 0 waiting>"
    assert pool.map(tasks.square, range(100)) == [n * n for n in range(100)]
    assert list(pool.imap(lambda n: n + 1, range(20))) == list(range(1, 21))
    with pytest.raises(tasks.Trouble) as caught:
        pool.apply(tasks.fail, (8,))
    assert "In worker " in str(caught.value.__cause__)
    assert "raise Trouble(x)" in str(caught.value.__cause__)
    here = pool.apply(whoami)
    assert here is not None
    assert (here.slot, alive(here.pid)) == (-1, True)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_a_death_loses_the_call_that_ran_and_no_other(pool: Pool, tmp_path: Path, how: int) -> None:
    path = tmp_path / "trace"
    results = [pool.apply_async(note, (str(path), number, how if number == 5 else 0)) for number in range(20)]
    outcomes = [outcome(result) for result in results]
    lost = outcomes.pop(5)
    assert outcomes == [number for number in range(20) if number != 5]
    assert isinstance(lost, WorkerLost)
    assert str(lost).startswith("worker of ray://127.0.0.1:")
    assert str(lost).endswith(" while it ran tests.pool.test_dask_kills:note")
    assert Counter(traces(path)) == Counter(map(str, range(20)))


def test_a_timeout_ends_the_call_and_harms_no_other(pool: Pool, tmp_path: Path) -> None:
    end_late_calls(pool, tmp_path)
    here = pool.apply(whoami, timeout=60)
    assert here is not None
    assert here.slot == -1
    with pytest.raises(WorkerLost, match="exited with code 3 while it ran tests"):
        pool.apply(tasks.die, timeout=60)


def test_retries_run_it_again_and_are_counted(pool: Pool, tmp_path: Path) -> None:
    again, for_ever = tmp_path / "again", tmp_path / "ever"
    assert pool.apply(once, (str(again), 1), retries=1) == "ran again"
    assert traces(again) == ["1", "1"]
    with pytest.raises(WorkerLost):
        pool.apply(note, (str(for_ever), 1, signal.SIGKILL), retries=1)
    assert traces(for_ever) == ["1", "1"]


def test_an_initializer_runs_once_in_each_process(cluster: ray_cluster.Cluster, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    with Pool.connect(cluster.address, initializer=begin, initargs=(str(path), 3)) as pool:
        seen = {result.get(60) for result in [pool.apply_async(os.getpid) for _ in range(40)]}
        limited = [pool.apply_async(os.getpid, timeout=60) for _ in range(10)]
        seen |= {result.get(60) for result in limited}
    pool.join()
    assert traces(path) == ["3"] * len(seen)
    with Pool.connect(cluster.address, initializer=refuse, initargs=("no license",)) as pool:
        for _ in range(2):
            with pytest.raises(InitializerFailed, match="the initializer raised LookupError: no license"):
                pool.apply(whoami)
    pool.join()


def test_terminate_ends_what_runs(cluster: ray_cluster.Cluster, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with Pool.connect(cluster.address) as pool:
        pool.apply_async(tasks.say_pid_then_wait_for, (str(mark), str(tmp_path / "never")))
        assert eventually(mark.exists, 60)
        pid = int(mark.read_text())
    pool.join()
    assert eventually(lambda: not alive(pid), 60)


def test_what_ray_cannot_keep_is_refused_at_once(cluster: ray_cluster.Cluster) -> None:
    options: dict[str, Any]
    for options, words in (({"keys": "folder"}, "keys= is for"), ({"plain": True}, "plain= is for")):
        with pytest.raises(ValueError, match=words):
            Pool.connect(cluster.address, **options)


def test_nobody_answers() -> None:
    with pytest.raises(
        CoordinatorLost, match=r"no Ray Client server answers at ray://127\.0\.0\.1:\d+ after 0\.2 s"
    ):
        Pool.connect(free_address().replace("tcp", "ray"), wait=0.2)
