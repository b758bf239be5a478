"""Start and end of a pool, over every pool."""

from __future__ import annotations

import gc
import pickle
import threading
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from nearfar.pool.pool import Pool
from tests.pool import tasks
from tests.pool.pools import threads_executor
from tests.support.waiting import eventually

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def test_after_close_calls_are_refused_and_join_waits_for_the_others(new_pool: Any) -> None:
    with new_pool(2) as pool:
        results = [pool.apply_async(tasks.square, (number,)) for number in range(50)]
        pool.close()
        for submit in (pool.apply, pool.apply_async):
            with pytest.raises(ValueError, match="Pool not running"):
                submit(tasks.square, (1,))
        for submit in (pool.map, pool.map_async, pool.starmap, pool.imap, pool.imap_unordered):
            with pytest.raises(ValueError, match="Pool not running"):
                submit(tasks.square, [1])
        pool.join()
        assert all(result.ready() for result in results)
        assert [result.get(0) for result in results] == [number**2 for number in range(50)]
        pool.close()
        pool.join()


def test_a_running_pool_cannot_be_joined(pool: Any) -> None:
    with pytest.raises(ValueError, match="Pool is still running"):
        pool.join()


def test_leaving_the_block_terminates(new_pool: Any, gate: Path) -> None:
    with new_pool(1) as pool:
        with pool as same:
            assert same is pool
            results = [pool.apply_async(tasks.wait_for, (str(gate),)) for _ in range(20)]
        gate.touch()
        with pytest.raises(ValueError, match="Pool not running"), pool:
            pass
        pool.join()
        assert not any(result.ready() and result.successful() for result in results[5:])


def test_terminate_kills_running_tasks(new_pool: Any, maker: Any, gate: Path, tmp_path: Path) -> None:
    if not maker.kills:
        pytest.skip("the executor of somebody else runs on")
    mark = tmp_path / "mark"
    with new_pool(1) as pool:
        pool.apply_async(tasks.say_pid_then_wait_for, (str(mark), str(gate)))
        assert eventually(mark.exists)
        pool.terminate()
        pool.join()
        assert eventually(lambda: not Path(f"/proc/{mark.read_text()}").exists())


def test_a_pool_is_not_pickled(pool: Any) -> None:
    with pytest.raises(NotImplementedError, match="cannot be passed between processes or pickled"):
        pickle.dumps(pool)


def test_results_keep_the_pool_alive(new_pool: Any, gate: Path, maker: Any) -> None:
    with new_pool(1) as pool:
        result = pool.apply_async(tasks.wait_for, (str(gate), 5))
        pool = None
        gc.collect()
        gate.touch()
        assert result.get(10) == 5


@pytest.mark.slow
@pytest.mark.usefixtures("ours")
def test_dropped_calls_raise_after_terminate(new_pool: Any, gate: Path, tmp_path: Path) -> None:
    errors: list[Any] = []
    with new_pool(1) as pool:
        marks = [tmp_path / str(number) for number in range(20)]
        results = [
            pool.apply_async(tasks.leave_then_wait_for, (str(mark), str(gate)), error_callback=errors.append)
            for mark in marks
        ]
        whole = pool.map_async(tasks.wait_for, [str(gate)] * 20, 1)
        assert eventually(marks[0].exists)
        pool.terminate()
        gate.touch()
        for result in (results[-1], whole):
            with pytest.raises(CancelledError):
                result.get(10)
        pool.join()
        assert not marks[-1].exists()
    assert errors == []


@pytest.mark.usefixtures("ours")
def test_an_imap_ends_with_its_pool(new_pool: Any) -> None:
    with new_pool(1) as pool:
        iterator = pool.imap(tasks.square, iter(int, 1))
        assert next(iterator) == 0
        pool.terminate()
        for _ in range(1000):
            try:
                next(iterator)
            except StopIteration:
                break
            except CancelledError:
                pass
        else:
            pytest.fail("it goes on")
        pool.join()


@pytest.mark.slow
@pytest.mark.usefixtures("ours")
def test_repr_counts(new_pool: Any, gate: Path, tmp_path: Path) -> None:
    with new_pool(2) as pool:
        pool.apply(abs, (1,))  # a far one knows no workers before it is used
        assert repr(pool) == "<nearfar.Pool 2 workers, 0 running, 0 waiting>"
        marks = [tmp_path / str(number) for number in range(9)]
        results = [pool.apply_async(tasks.leave_then_wait_for, (str(mark), str(gate))) for mark in marks]
        assert eventually(lambda: sum(mark.exists() for mark in marks) == 2)
        assert repr(pool) == "<nearfar.Pool 2 workers, 2 running, 7 waiting>"
        gate.touch()
        for result in results:
            result.get(10)
        pool.close()
        assert repr(pool).endswith("closed>")
        pool.terminate()
        assert repr(pool).endswith("terminated>")


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_garbage_collected_pool_warns() -> None:
    with threads_executor(1) as executor:
        pool = Pool(executor=executor)
        with pytest.warns(
            ResourceWarning, match="unclosed running multiprocessing pool <nearfar.Pool 1 work"
        ):
            del pool
            gc.collect()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"processes": 0}, ValueError, "Number of processes must be at least 1"),
        ({"processes": -1}, ValueError, "Number of processes must be at least 1"),
        ({"maxtasksperchild": 0}, ValueError, "maxtasksperchild must be a positive int or None"),
        ({"maxtasksperchild": "12"}, ValueError, "maxtasksperchild must be a positive int or None"),
        ({"initializer": 5}, TypeError, "initializer must be a callable"),
        ({"initializer": print}, ValueError, "for the executor itself"),
        ({"timeout": 1.0}, ValueError, "cannot kill"),
        ({"address": "tcp://127.0.0.1:5556"}, ValueError, "exclude each other"),
    ],
)
def test_invalid_arguments_are_refused(arguments: Any, error: Any, words: str) -> None:
    with threads_executor(1) as executor, pytest.raises(error, match=words):
        Pool(executor=executor, **arguments)


def test_threads_may_share_a_pool(pool: Any) -> None:
    found: list[Any] = []

    def ask(start: int) -> None:
        found.append(pool.map(tasks.square, range(start, start + 50), 3))

    threads = [threading.Thread(target=ask, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [[n * n for n in range(start, start + 50)] for start in range(4)]
