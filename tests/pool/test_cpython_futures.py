"""CPython's own tests of its executors, if the interpreter ships them, over nearfar's: near, and over others.

Near, all are run but those whose subject we do not share (`OTHERWISE`), or that reach into the standard's
hooks or import it by name (`INSIDES`).
"""

from __future__ import annotations

import multiprocessing
import threading
import unittest
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from nearfar.pool.executor import Executor
from tests.pool.pools import processes_executor, threads_executor

REASON = "this interpreter ships no `test.test_concurrent_futures` package"
of_executor = pytest.importorskip("test.test_concurrent_futures.executor", reason=REASON)
of_wait = pytest.importorskip("test.test_concurrent_futures.test_wait", reason=REASON)
of_completed = pytest.importorskip("test.test_concurrent_futures.test_as_completed", reason=REASON)
of_processes = pytest.importorskip("test.test_concurrent_futures.test_process_pool", reason=REASON)
of_shutdown = pytest.importorskip("test.test_concurrent_futures.test_shutdown", reason=REASON)
of_deadlock = pytest.importorskip("test.test_concurrent_futures.test_deadlock", reason=REASON)
of_init = pytest.importorskip("test.test_concurrent_futures.test_init", reason=REASON)
util = pytest.importorskip("test.test_concurrent_futures.util", reason=REASON)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.timeout(300),
]

ALONE = "the task of a killed worker is lost alone: the executor goes on"
ONE_PICKLE = "what cannot be read fails its own future: the executor goes on"
INSIDE = "patches or asks for what is inside of the standard's executor"
BY_NAME = "imports the standard's executor by its name; the same is tried in test_exit"
AT_ONCE = "our workers start with the executor"

OTHERWISE: Mapping[str, str] = {
    "test_error_at_task_unpickle": ONE_PICKLE,
    "test_exit_at_task_unpickle": ONE_PICKLE,
    "test_error_during_result_unpickle_in_result_handler": ONE_PICKLE,
    "test_exit_during_result_unpickle_in_result_handler": ONE_PICKLE,
    "test_killed_child": ALONE,
    "test_broken_process_pool_traceback": ALONE,
    "test_traceback_when_child_process_terminates_abruptly": "WorkerLost says itself how its worker ended",
    "test_max_tasks_per_child": "max_tasks_per_child works with fork, too",
    "test_max_tasks_per_child_defaults_to_spawn_context": "max_tasks_per_child works with fork, too",
    "test_force_shutdown_workers_not_started_yet": AT_ONCE,
}
INSIDES: Mapping[str, str] = {
    "test_interpreter_shutdown": BY_NAME,
    "test_submit_after_interpreter_shutdown": BY_NAME,
    "test_hang_gh83386": BY_NAME,
    "test_python_finalization_error": INSIDE,
    "test_gh105829_should_not_deadlock_if_wakeup_pipe_full": INSIDE,
    "test_terminate_workers": INSIDE,
    "test_kill_workers": INSIDE,
    "test_force_shutdown_workers_invalid_op": INSIDE,
}
OVER_OTHERS: Mapping[str, str] = {
    "test_max_workers_negative": "makes executors of the type alone; see test_executor",
}


class OverExecutor:
    """Gives each test a nearfar executor over one of the standard library's."""

    make: Any
    worker_count = 5
    executor_type = Executor

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]
        self.inner = self.make(self.worker_count)
        self.executor = Executor(executor=self.inner)

    def create_event(self) -> Any:
        """From Python 3.15 on, the tests ask for the events that their tasks share."""
        if isinstance(self.inner, ThreadPoolExecutor):
            return threading.Event()
        manager = multiprocessing.Manager()
        self.addCleanup(manager.shutdown)  # type: ignore[attr-defined]
        return manager.Event()

    def tearDown(self) -> None:
        self.executor.shutdown()
        self.inner.shutdown()
        super().tearDown()  # type: ignore[misc]


class Near(Executor):
    """With the thread that the tests join."""

    @property
    def _executor_manager_thread(self) -> Any:
        return self.engine._driver._background  # type: ignore[attr-defined]


def case(
    mixin: Any, under: str, skipped: Mapping[str, str], *bases: type, **content: Any
) -> tuple[str, type]:
    """A case of the tests in `mixin`, with its name."""
    name = f"Test_{mixin.__name__}_{under}"
    made = type(name, (*bases, unittest.TestCase), {"__module__": __name__, **content})
    for method, reason in skipped.items():
        if hasattr(made, method):
            setattr(made, method, unittest.skip(reason)(getattr(made, method)))
    return name, made


def over_others(mixins: Iterable[Any]) -> dict[str, type]:
    return dict(
        case(mixin, make.__name__, OVER_OTHERS, OverExecutor, mixin, make=staticmethod(make))
        for make in (processes_executor, threads_executor)
        for mixin in mixins
    )


def near(starts: Any, mixins: Iterable[Any], skipped: Mapping[str, str] = OTHERWISE) -> dict[str, type]:
    under = f"near_{starts.ctx}"
    return dict(
        case(mixin, under, {**skipped, **INSIDES}, mixin, starts, executor_type=Near) for mixin in mixins
    )


OF_ALL = (of_executor.ExecutorTest, of_wait.WaitTests, of_completed.AsCompletedTests)
OF_PROCESSES = (
    of_processes.ProcessPoolExecutorTest,
    of_shutdown.ProcessPoolShutdownTest,
    of_deadlock.ExecutorDeadlockTest,
    of_init.InitializerMixin,
)
LOGGED = {
    "test_initializer": "what an initializer raises is the cause of each future's error, and not logged"
}

globals().update(over_others(OF_ALL))
globals().update(near(util.ProcessPoolForkMixin, OF_ALL + OF_PROCESSES))
globals().update(near(util.ProcessPoolForkMixin, (of_init.FailingInitializerMixin,), LOGGED))
