"""CPython's own tests of its pool, as the interpreter ships them, run over nearfar's."""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import unittest
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any, ClassVar

import pytest

from nearfar.pool.pool import Pool
from tests.pool.pools import processes_executor, threads_executor

REASON = "this interpreter ships no `test` package"
theirs = pytest.importorskip("test._test_multiprocessing", reason=REASON)

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

PRIVATE = {
    "test_make_pool": "reads the private `_pool`; the errors are in test_api_life",
}
OF_EXECUTORS = PRIVATE | {
    "test_terminate": "an executor of others cannot be killed: its sleeping tasks would be waited for",
    "test_async_timeout": "an executor of others cannot be killed: its sleeping task would be waited for",
}


class OverPool:
    """Makes nearfar pools where the tests make the standard library's, and ends those left open."""

    make_executor: ClassVar[Callable[[int], futures.Executor]]
    opened: ClassVar[list[futures.Executor]]

    @classmethod
    def setUpClass(cls) -> None:
        cls.opened = []
        super().setUpClass()  # type: ignore[misc]

    @classmethod
    def tearDownClass(cls) -> None:
        super().tearDownClass()  # type: ignore[misc]
        cls.shut_down()

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]
        self.before = len(self.opened)

    def tearDown(self) -> None:
        super().tearDown()  # type: ignore[misc]
        self.shut_down(self.before)

    @classmethod
    def shut_down(cls, first: int = 0) -> None:
        while len(cls.opened) > first:
            cls.opened.pop().shutdown()

    @classmethod
    def Pool(cls, processes: int) -> Pool:  # noqa: N802 - the name that the tests ask for
        executor = cls.make_executor(processes)
        cls.opened.append(executor)
        pool = Pool(executor=executor)
        pool.map(abs, range(8 * processes), 1)  # whatever starts late has started
        return pool


def _case(name: str, mixin: type, make: Any, skipped: Mapping[str, str]) -> type:
    case = type(
        name,
        (OverPool, theirs._TestPool, mixin, unittest.TestCase),
        {"make_executor": staticmethod(make), "Pool": OverPool.__dict__["Pool"], "__module__": __name__},
    )
    for method, reason in skipped.items():
        setattr(case, method, unittest.skip(reason)(getattr(case, method)))
    return case


TestProcesses = _case("TestProcesses", theirs.ProcessesMixin, processes_executor, OF_EXECUTORS)
TestThreads = _case("TestThreads", theirs.ThreadsMixin, threads_executor, OF_EXECUTORS)


def test_the_states_are_the_standards() -> None:
    from nearfar.pool import pool

    assert (pool.RUN, pool.CLOSE, pool.TERMINATE) == (
        multiprocessing.pool.RUN,
        multiprocessing.pool.CLOSE,
        multiprocessing.pool.TERMINATE,
    )
