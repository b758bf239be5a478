"""An engine over a foreign executor: its window, and faults of executors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from nearfar.pool.executor_engine import ForeignEngine
from nearfar.pool.pool import Pool
from nearfar.pool.results import AsyncResult
from tests.pool import tasks
from tests.pool.pools import processes_executor, threads_executor
from tests.support.waiting import eventually

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


class Recorder(Executor):
    """Keeps what is submitted until the test ends it."""

    def __init__(self) -> None:
        self.given: list[tuple[Future[Any], Any]] = []
        self.order: list[Any] = []
        self.error: Exception | None = None
        self.shutdowns: list[Any] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.error is not None:
            raise self.error
        future: Future[Any] = Future()
        self.given.append((future, lambda: fn(*args, **kwargs)))
        self.order.append(args[1])
        return future

    def end(self, error: Exception | None = None) -> None:
        future, work = self.given.pop(0)
        if error is None:
            future.set_result(work())
        else:
            future.set_exception(error)

    def shutdown(self, *args: Any, **kwargs: Any) -> None:
        self.shutdowns.append(kwargs)


class Inline(Executor):
    """Runs at once, in the thread that submits."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def sent(engine: ForeignEngine, func: Any, *args: Any) -> AsyncResult:
    result = AsyncResult(engine, None, func, args)
    engine.submit(result)
    return result


def test_the_window_bounds_what_the_executor_has(recorder: Recorder) -> None:
    engine = ForeignEngine(recorder, workers=2)
    results = [sent(engine, tasks.square, number) for number in range(10)]
    assert len(recorder.given) == 4
    assert engine.counts() == {"workers": 2, "running": 2, "waiting": 8, "done": 0}
    while recorder.given:
        recorder.end()
        assert len(recorder.given) <= 4
    assert [result.get(0) for result in results] == [number**2 for number in range(10)]
    assert recorder.order == [(number,) for number in range(10)]
    assert engine.counts() == {"workers": 2, "running": 0, "waiting": 0, "done": 10}


def test_the_window_can_be_given_and_the_number_of_workers_is_found(recorder: Recorder) -> None:
    engine = ForeignEngine(recorder, window=3)
    for number in range(10):
        sent(engine, tasks.square, number)
    assert len(recorder.given) == 3
    assert engine.size >= 1
    with futures.ThreadPoolExecutor(7) as executor:
        assert ForeignEngine(executor).size == 7


def test_cancel_is_true_only_for_calls_not_submitted_to_the_executor(recorder: Recorder) -> None:
    engine = ForeignEngine(recorder, workers=1)
    results = [sent(engine, tasks.square, number) for number in range(4)]
    assert [result.cancel() for result in results] == [False, False, True, True]
    while recorder.given:
        recorder.end()
    assert recorder.order == [(0,), (1,)]
    engine.cancel_waiting()
    assert results[1].get(0) == 1


def test_a_timeout_is_refused(recorder: Recorder) -> None:
    with Pool(executor=recorder) as pool, pytest.raises(ValueError, match="cannot kill"):
        pool.apply(tasks.square, (1,), timeout=1.0)


def test_a_broken_executor_ends_all_calls(recorder: Recorder) -> None:
    engine = ForeignEngine(recorder, workers=1)
    results = [sent(engine, tasks.square, number) for number in range(5)]
    broken = BrokenExecutor("gone")
    recorder.end(broken)
    assert len(recorder.order) == 2  # nothing was handed on: the executor may hold its own lock
    recorder.end(broken)
    for result in results:
        with pytest.raises(BrokenExecutor, match="gone"):
            result.get(0)
    with pytest.raises(BrokenExecutor, match="gone"):
        sent(engine, tasks.square, 1)


def test_an_executor_cancelled_from_outside_cancels_all_calls(recorder: Recorder) -> None:
    engine = ForeignEngine(recorder, workers=1)
    results = [sent(engine, tasks.square, number) for number in range(5)]
    for future, _ in recorder.given:
        future.cancel()
    assert all(result.cancelled() for result in results)
    assert len(recorder.order) == 2


def test_an_error_of_submit_is_the_calls_error_and_others_continue(recorder: Recorder) -> None:
    engine = ForeignEngine(recorder)
    recorder.error = TypeError("cannot pickle")
    refused = sent(engine, tasks.square, 1)
    with pytest.raises(TypeError, match="cannot pickle"):
        refused.get(0)
    recorder.error = None
    later = sent(engine, tasks.square, 2)
    recorder.end()
    assert later.get(0) == 4
    recorder.error = BrokenExecutor("gone")
    for _ in range(2):
        with Pool(executor=recorder) as pool, pytest.raises(BrokenExecutor, match="gone"):
            pool.apply(tasks.square, (1,))


@pytest.mark.parametrize("func", [tasks.fail_as_broken, tasks.fail_as_cancelled])
def test_a_tasks_own_error_is_not_the_executors(recorder: Recorder, func: Any) -> None:
    engine = ForeignEngine(recorder)
    failed = sent(engine, func)
    recorder.end()
    with pytest.raises((BrokenExecutor, CancelledError), match="the task's own"):
        failed.get(0)
    later = sent(engine, tasks.square, 2)
    recorder.end()
    assert later.get(0) == 4


def test_an_executor_that_runs_at_once_does_not_recurse() -> None:
    with Pool(executor=Inline()) as pool:
        assert pool.map(tasks.square, range(3000), 1) == [number**2 for number in range(3000)]
        pool.close()
        pool.join()


@pytest.mark.parametrize("method", ["close", "terminate"])
def test_only_an_owned_executor_is_shut_down(method: str) -> None:
    for owned in (False, True):
        recorder = Recorder()
        engine = ForeignEngine(recorder, owned=owned)
        getattr(engine, method)()
        assert engine.join(0)
        assert bool(recorder.shutdowns) is owned


def test_an_owned_executor_ends_after_its_last_call() -> None:
    engine = ForeignEngine(threads_executor(2), owned=True)
    results = [sent(engine, tasks.square, number) for number in range(50)]
    engine.close()
    with pytest.raises(RuntimeError, match="after shutdown"):
        sent(engine, tasks.square, 1)
    assert engine.join()
    assert [result.get(0) for result in results] == [number**2 for number in range(50)]


def test_terminate_does_not_wait_for_running_calls(recorder: Recorder) -> None:
    engine = ForeignEngine(recorder, workers=1)
    results = [sent(engine, tasks.square, number) for number in range(5)]
    recorder.given[0][0].set_running_or_notify_cancel()
    engine.terminate()
    assert all(result.cancelled() for result in results)
    assert engine.join(0)
    recorder.end()  # the answer is dropped
    assert engine.counts()["done"] == 5


def test_join_waits_for_callbacks(recorder: Recorder) -> None:
    engine = ForeignEngine(recorder, workers=1)
    joined: list[bool] = []
    result = AsyncResult(
        engine, None, tasks.square, (1,), None, (lambda _: joined.append(engine.join(0)), None)
    )
    engine.submit(result)
    engine.close()
    recorder.end()
    assert joined == [False]
    assert engine.join(0)


@pytest.fixture
def executor() -> Iterator[Executor]:
    with processes_executor(2) as made:
        yield made


def test_a_killed_worker_breaks_a_standard_executor_and_nothing_hangs(executor: Executor, gate: Path) -> None:
    pool = Pool(executor=executor)
    death = pool.apply_async(tasks.die)
    others = pool.map_async(tasks.wait_for, [str(gate)] * 100, 1)
    for result in (death, others):
        with pytest.raises(BrokenProcessPool):
            result.get(10)
    with pytest.raises(BrokenProcessPool):
        pool.apply(tasks.square, (2,))
    pool.close()
    pool.join()


def test_shutting_the_executor_down_under_the_pool_cancels(gate: Path, tmp_path: Path) -> None:
    executor = threads_executor(1)
    pool = Pool(executor=executor)
    mark = tmp_path / "mark"
    first = pool.apply_async(tasks.leave_then_wait_for, (str(mark), str(gate)))
    rest = [pool.apply_async(tasks.square, (number,)) for number in range(20)]
    assert eventually(mark.exists)
    executor.shutdown(wait=False, cancel_futures=True)
    gate.touch()
    assert first.get(10) is None
    for result in rest:
        with pytest.raises((CancelledError, RuntimeError)):
            result.get(10)
    pool.close()
    pool.join()
    executor.shutdown()


def test_many_threads_submit_and_cancel_at_once() -> None:
    with threads_executor(3) as executor, Pool(executor=executor) as pool:
        ran: list[int] = []
        outcomes: list[bool] = []

        def work() -> None:
            results = [pool.apply_async(ran.append, (number,)) for number in range(200)]
            gone = [result.cancel() for result in results]
            for result, cancelled in zip(results, gone, strict=True):
                if not cancelled:
                    result.get(10)
            outcomes.extend(gone)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(ran) == outcomes.count(False)
        assert len(outcomes) == 800
