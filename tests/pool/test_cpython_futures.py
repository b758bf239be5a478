"""CPython's own tests of its executors, where the interpreter ships them, run over ours."""

from __future__ import annotations

import unittest
from collections.abc import Mapping
from typing import Any

import pytest

from nearfar.pool.executor import Executor
from tests.pool.pools import processes_executor, threads_executor

REASON = "this interpreter ships no `test.test_concurrent_futures` package"
of_executor = pytest.importorskip("test.test_concurrent_futures.executor", reason=REASON)
of_wait = pytest.importorskip("test.test_concurrent_futures.test_wait", reason=REASON)
of_completed = pytest.importorskip("test.test_concurrent_futures.test_as_completed", reason=REASON)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.timeout(120),
]

SKIPPED: Mapping[str, str] = {
    "test_max_workers_negative": "makes executors of the type alone; see test_executor",
}


class OverExecutor:
    """Gives each test an executor of ours over one of the standard's."""

    make: Any
    worker_count = 5
    executor_type = Executor

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]
        self.inner = self.make(self.worker_count)
        self.executor = Executor(executor=self.inner)

    def tearDown(self) -> None:
        self.executor.shutdown()
        self.inner.shutdown()
        super().tearDown()  # type: ignore[misc]


def _cases(*mixins: type) -> dict[str, type]:
    cases = {}
    for make in (processes_executor, threads_executor):
        for mixin in mixins:
            name = f"Test_{mixin.__name__}_{make.__name__}"
            content = {"make": staticmethod(make), "__module__": __name__}
            case = type(name, (OverExecutor, mixin, unittest.TestCase), content)
            for method, reason in SKIPPED.items():
                if hasattr(case, method):
                    setattr(case, method, unittest.skip(reason)(getattr(case, method)))
            cases[name] = case
    return cases


globals().update(_cases(of_executor.ExecutorTest, of_wait.WaitTests, of_completed.AsCompletedTests))
