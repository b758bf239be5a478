"""A pool over Dask's own executor, on a cluster of this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nearfar import Pool, TaskTimeout, WorkerLost
from nearfar.pool.results import AsyncResult
from tests.pool import tasks
from tests.support import dask_cluster
from tests.support.waiting import eventually

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module", autouse=True)
def once_in_a_process() -> None:
    dask_cluster.warm_up()


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    with (
        dask.config.set({"temporary-directory": str(tmp_path)}),
        distributed.Client(
            processes=True, n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as client,
        Pool(2, executor=client.get_executor(), window=4) as pool,
    ):
        yield pool


def test_a_pool_over_dask(pool: Pool, tmp_path: Path) -> None:
    assert pool.map(tasks.square, range(100)) == [n * n for n in range(100)]
    assert list(pool.imap(tasks.square, iter(range(10)))) == [n * n for n in range(10)]
    assert sorted(pool.imap_unordered(tasks.square, range(10))) == [n * n for n in range(10)]
    check_callbacks(pool)
    check_cancel(pool, tmp_path / "gate")
    assert pool.promises().runs_once
    with pytest.raises(TaskTimeout):  # in a worker of a nanny, which is daemonic
        pool.apply(tasks.wait_for, (str(tmp_path / "never"),), timeout=0.5)
    with pytest.raises(WorkerLost):
        pool.apply(tasks.die)
    assert pool.apply(tasks.square, (3,)) == 9
    pool.close()
    pool.join()


def check_callbacks(pool: Pool) -> None:
    told: list[Any] = []
    assert pool.apply_async(tasks.square, (7,), {"plus": 1}, told.append, told.append).get(30) == 50
    failed = pool.apply_async(tasks.fail, (8,), None, told.append, told.append)
    with pytest.raises(tasks.Trouble):
        failed.get(30)
    assert told[0] == 50
    assert isinstance(told[1], tasks.Trouble)


def check_cancel(pool: Pool, gate: Path) -> None:
    """`cancel` returns True only for calls that never run, although Dask itself also does so for running
    ones: here those beyond the window of 4."""
    results: list[AsyncResult] = [pool.apply_async(tasks.wait_for, (str(gate), n)) for n in range(6)]
    try:
        assert [result.cancel() for result in results] == [False] * 4 + [True] * 2
    finally:
        gate.touch()
    assert [result.get(30) for result in results[:4]] == [0, 1, 2, 3]
    assert eventually(lambda: all(result.ready() for result in results), 5)
