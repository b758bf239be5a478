"""Pools for the API suite: one shared by the tests of a module, and new ones for those that end them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pytest

from tests.pool.pools import MAKERS, Maker, coordinated
from tests.support import dask_cluster


@pytest.fixture(scope="session", autouse=True)
def trackers() -> None:
    """Start multiprocessing's tracker processes before the tests, as they live as long as the test run."""
    resource_tracker.ensure_running()
    if importlib.util.find_spec("loky"):
        from loky.backend import resource_tracker as of_loky

        of_loky.ensure_running()


@pytest.fixture(scope="module", params=MAKERS, ids=str)
def maker(request: pytest.FixtureRequest) -> Maker:
    """One kind of pool."""
    made: Maker = request.param
    if made.name == "dask":
        request.getfixturevalue("dask_workers")
    return made


@pytest.fixture(scope="session")
def dask_workers() -> Iterator[None]:
    """The cluster of all pools over Dask."""
    dask_cluster.warm_up()
    with dask_cluster.for_all_tests():
        yield


@pytest.fixture(scope="module")
def pool(maker: Maker) -> Iterator[Any]:
    """A running pool of two workers, which no test may close."""
    with maker.make(2) as made:
        assert made.map(abs, range(-40, 0), 1)  # whatever it starts late has started
        yield made


@pytest.fixture
def new_pool(maker: Maker) -> Callable[[int], AbstractContextManager[Any]]:
    """Makes pools for one test."""
    return maker.make


@pytest.fixture
def trouble(maker: Maker) -> type[Exception]:
    """The type as which a task's own `Trouble` returns."""
    return maker.trouble


@pytest.fixture
def ours(maker: Maker) -> None:
    """For tests of features that multiprocessing's pool lacks."""
    if not maker.ours:
        pytest.skip("not of the standard's pool")


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """The path at which `tasks.wait_for` waits for a file; it exists at the end of the test at the latest."""
    path = tmp_path / "gate"
    yield path
    path.touch()


@pytest.fixture(scope="module")
def plain_workers() -> Iterator[str]:
    """The address of a coordinator with one worker that reads no pickle."""
    with coordinated(1, ("tests.pool.offered",)) as address:
        yield address


@pytest.fixture(scope="module")
def usual_workers() -> Iterator[str]:
    """The address of a coordinator with one worker that reads everything."""
    with coordinated(1) as address:
        yield address
