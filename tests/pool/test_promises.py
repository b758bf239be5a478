"""What pools promise, as documented in docs/engines.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nearfar import Executor, Pool, PoolPromises
from tests.pool.pools import threads_executor
from tests.support.ports import free_address

PAGE = Path(__file__).parents[2] / "docs" / "engines.md"
ROW = re.compile(r"\| `(\w+)` \| [^|]+ \| (yes|no) \| (yes|no) \| (yes|no) \| (yes|no) \| (yes|no) \|")
COLUMNS = ("near", "tcp", "dask", "ray", "executor")


def documented(engine: str) -> PoolPromises:
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    at = 1 + COLUMNS.index(engine)
    assert {row[0] for row in rows} == {*PoolPromises.__slots__} - {"engine"}
    return PoolPromises(engine, **{row[0]: row[at] == "yes" for row in rows})


def test_a_near_pool() -> None:
    with Pool(1) as pool:
        assert pool.promises() == documented("near")
    pool.join()


def test_a_pool_of_a_coordinator() -> None:
    with Pool.connect(free_address(), insecure=True) as pool:  # nothing is sent
        assert pool.promises() == documented("tcp")
    pool.join()


def test_a_hosted_pool_ends_with_its_program() -> None:
    with Pool(0, address="tcp://127.0.0.1:*") as pool:
        promises = pool.promises()
        assert (promises.engine, promises.crosses_machines) == ("tcp", True)
        assert not promises.survives_killed_coordinator
    pool.join()


def test_an_executor_and_one_that_is_shared() -> None:
    with threads_executor(1) as inner, Executor(executor=inner) as executor:
        assert executor.promises() == documented("executor")
    with Executor(1) as executor, Pool(executor=executor) as pool:
        promises = pool.promises()
        assert (promises.retries, promises.timeouts, promises.ends_running) == (True, True, False)


def test_dask() -> None:
    pytest.importorskip("distributed")
    from nearfar.pool.dask_executor import DaskExecutor

    assert DaskExecutor.promises == documented("dask")


def test_ray() -> None:
    pytest.importorskip("grpc")
    pytest.importorskip("ray")
    from nearfar.pool.ray_executor import RayExecutor

    assert RayExecutor.promises == documented("ray")
