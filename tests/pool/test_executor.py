"""The executor keeps the promises of `concurrent.futures`, over foreign executors and a fake engine."""

from __future__ import annotations

import gc
import itertools
import pickle
from collections.abc import Iterator
from concurrent import futures
from concurrent.futures import BrokenExecutor, CancelledError
from pathlib import Path
from unittest import mock

import pytest

from nearfar.errors import ProtocolError
from nearfar.pool import executor as module
from nearfar.pool.executor import Executor
from nearfar.pool.executor_engine import ForeignEngine
from nearfar.pool.pool import Pool
from tests.pool import tasks
from tests.pool.engines import ManualEngine
from tests.pool.pools import processes_executor, threads_executor
from tests.support.waiting import eventually

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(params=[processes_executor, threads_executor])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with request.param(2) as inner, Executor(executor=inner) as made:
        yield made


@pytest.fixture
def engine() -> ManualEngine:
    return ManualEngine()


@pytest.fixture
def manual(engine: ManualEngine, monkeypatch: pytest.MonkeyPatch) -> Executor:
    """An executor whose engine runs nothing by itself."""
    monkeypatch.setattr(module, "make_engine", mock.Mock(return_value=engine))
    return Executor(2)


def test_submit(executor: Executor) -> None:
    assert executor.submit(pow, 2, 8).result() == 256
    assert executor.submit(tasks.capture, 1, self=2, fn=3).result() == ((1,), {"self": 2, "fn": 3})
    with pytest.raises(tasks.Trouble):
        executor.submit(tasks.fail).result()
    with pytest.raises(TypeError):
        executor.submit(fn=pow)  # type: ignore[call-arg]


@pytest.mark.parametrize("chunksize", [1, 3, 100])
@pytest.mark.parametrize("buffersize", [None, 1, 7])
def test_map(executor: Executor, chunksize: int, buffersize: int | None) -> None:
    pairs = range(50), itertools.count(1)
    found = (
        executor.map(tasks.add, *pairs, chunksize=chunksize, buffersize=buffersize) if buffersize else None
    )
    assert found is None or list(found) == [2 * n + 1 for n in range(50)]
    assert list(executor.map(tasks.square, range(50), chunksize=chunksize)) == [n * n for n in range(50)]
    assert list(executor.map(tasks.square)) == []


def test_map_raises_at_its_place_and_ends_there(executor: Executor) -> None:
    iterator = executor.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
    assert next(iterator) == (0, 1)
    assert next(iterator) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        next(iterator)
    with pytest.raises(StopIteration):
        next(iterator)


@pytest.mark.parametrize("chunksize", [1, 3])
def test_a_tasks_stop_iteration_does_not_end_a_map_silently(executor: Executor, chunksize: int) -> None:
    names, at = itertools.repeat("StopIteration"), itertools.repeat(7)
    found: list[int] = []
    with pytest.raises(RuntimeError) as caught:
        found.extend(executor.map(tasks.leave_by, names, at, range(20), chunksize=chunksize))
    assert isinstance(caught.value.__cause__, StopIteration)
    assert found == list(range(7 if chunksize == 1 else 6))
    with pytest.raises(StopIteration):
        executor.submit(tasks.leave_by, "StopIteration", 7, 7).result()


@pytest.mark.parametrize("values", [[1], [1, 2, 3], (1, 2), None])
def test_a_chunk_that_gives_another_number_of_values_is_an_error(
    manual: Executor, engine: ManualEngine, values: object
) -> None:
    iterator = manual.map(tasks.square, [1, 2], chunksize=2)
    engine.calls[0].settle(values, None)
    with pytest.raises(ProtocolError, match="came back for the 2 items of a chunk"):
        list(iterator)


def test_map_gives_up_after_its_timeout(executor: Executor, gate: Path) -> None:
    iterator = executor.map(tasks.wait_for, [__file__, str(gate)], timeout=0.5)
    assert next(iterator) is None
    with pytest.raises(TimeoutError):
        next(iterator)
    gate.touch()


def test_after_shutdown_calls_are_refused(executor: Executor) -> None:
    future = executor.submit(pow, 2, 5)
    executor.shutdown()
    assert future.done()
    for submit in (executor.submit, executor.map):
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            submit(pow, 2, 5)
    executor.shutdown()


def test_shutdown_may_cancel_calls_that_have_not_begun(
    executor: Executor, gate: Path, tmp_path: Path
) -> None:
    marks = [tmp_path / str(number) for number in range(20)]
    made = [executor.submit(tasks.leave_then_wait_for, str(mark), str(gate)) for mark in marks]
    assert eventually(marks[0].exists)
    executor.shutdown(wait=False, cancel_futures=True)
    gate.touch()
    executor.shutdown()
    assert all(future.done() for future in made)
    assert [mark.exists() for mark in marks] == [not future.cancelled() for future in made]
    assert made[-1].cancelled()


def test_the_standard_librarys_functions_accept_its_futures(executor: Executor) -> None:
    made = [executor.submit(tasks.square, number) for number in range(50)]
    assert {future.result() for future in futures.as_completed(made, 10)} == {n * n for n in range(50)}
    assert futures.wait(made, 10).done == set(made)


def test_a_pool_shares_its_workers_and_leaves_them_running(executor: Executor) -> None:
    with Pool(executor=executor) as pool:
        assert pool.map(tasks.square, range(10)) == [n * n for n in range(10)]
        pool.close()
        pool.join()
    assert executor.submit(tasks.square, 3).result() == 9


def test_a_pool_keeps_the_executor_that_it_shares() -> None:
    with threads_executor(1) as inner, Pool(executor=Executor(executor=inner)) as pool:
        gc.collect()
        assert pool.apply(tasks.square, (3,)) == 9


def test_a_pool_that_shares_ends_only_its_own_calls(manual: Executor, engine: ManualEngine) -> None:
    others = manual.submit(tasks.square, 3)
    pool = Pool(executor=manual)
    results = [pool.apply_async(tasks.square, (number,)) for number in range(300)]
    assert pool.apply(tasks.square, (4,)) == 16
    late = pool.apply_async(tasks.square, (5,))
    pool.terminate()
    pool.join()
    assert late.cancelled()
    assert not engine.terminated
    assert [result.get(0) for result in results] == [n * n for n in range(300)]
    assert others.result() == 9
    with pytest.raises(ValueError, match="Pool not running"):
        pool.apply(tasks.square, (1,))
    manual.shutdown()


def test_options_make_a_view_of_the_same_executor(manual: Executor, engine: ManualEngine) -> None:
    view = manual.options(timeout=2.0)
    view.options(retries=3).submit(tasks.square, 1)
    view.submit(tasks.square, 1)
    manual.submit(tasks.square, 1)
    list(view.map(tasks.square, [1]))
    assert engine.limits == [(2.0, 3), (2.0, 0), (None, 0), (2.0, 0)]
    view.shutdown()
    with pytest.raises(RuntimeError):
        manual.submit(tasks.square, 1)


def test_a_view_keeps_the_workers(manual: Executor, engine: ManualEngine) -> None:
    view = manual.options(retries=1)
    del manual
    gc.collect()
    assert view.submit(tasks.square, 2).result() == 4
    view.shutdown()


def test_a_garbage_collected_executor_closes_its_engine() -> None:
    with threads_executor(1) as inner:
        made = Executor(executor=inner)
        future = made.submit(tasks.square, 2)
        engine = made.engine
        del made
        gc.collect()
        assert future.result(10) == 4
        with pytest.raises(RuntimeError):
            engine.submit(future)


def test_map_reads_a_buffer_ahead_at_most(manual: Executor) -> None:
    source = itertools.count()
    iterator = manual.map(tasks.square, source, chunksize=2, buffersize=6)
    assert [next(iterator) for _ in range(10)] == [n * n for n in range(10)]
    assert next(source) == 16
    iterator.close()  # type: ignore[attr-defined]
    manual.shutdown()


def test_a_map_that_is_dropped_cancels_the_rest(manual: Executor, engine: ManualEngine) -> None:
    iterator = manual.map(tasks.square, range(10))
    assert next(iterator) == 0
    assert len(engine.calls) == 9
    del iterator
    gc.collect()
    assert engine.calls == []
    manual.shutdown()


def test_pickling_errors_belong_to_the_future_and_a_broken_engine_raises_at_once(
    manual: Executor, engine: ManualEngine
) -> None:
    engine.refuse = pickle.PicklingError("no")
    assert isinstance(manual.submit(tasks.square, 1).exception(), pickle.PicklingError)
    engine.refuse = BrokenExecutor("gone")
    with pytest.raises(BrokenExecutor, match="gone"):
        manual.submit(tasks.square, 1)
    manual.shutdown()


def test_shutdown_closes_or_cancels_in_the_engine(manual: Executor, engine: ManualEngine) -> None:
    future = manual.submit(tasks.square, 1)
    assert repr(manual) == "<nearfar.Executor 2 workers, 0 running, 1 waiting>"
    manual.shutdown(wait=False)
    assert repr(manual).endswith("shut down>")
    assert engine.closed
    assert not engine.joined
    manual.shutdown(cancel_futures=True)
    assert engine.joined
    with pytest.raises(CancelledError):
        future.result()


def test_invalid_arguments_are_refused(manual: Executor) -> None:
    for number in (0, -1):
        with pytest.raises(ValueError, match="max_workers must be greater than 0"):
            Executor(number)
    with pytest.raises(ValueError, match="chunksize must be >= 1"):
        manual.map(tasks.square, [1], chunksize=0)
    with pytest.raises(ValueError, match="buffersize must be None or > 0"):
        manual.map(tasks.square, [1], buffersize=0)
    manual.shutdown()


def test_a_foreign_executor_is_wrapped() -> None:
    with threads_executor(1) as inner, Executor(executor=inner) as made:
        assert isinstance(made.engine, ForeignEngine)
