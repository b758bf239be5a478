"""`imap` and `imap_unordered`, over every pool."""

from __future__ import annotations

import builtins
import itertools
import multiprocessing
import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from nearfar.errors import RemoteError
from tests.pool import tasks

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


class Counted:
    """An endless input that counts the items read."""

    read = 0

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        self.read += 1
        return self.read


SQUARES = [number * number for number in range(200)]


@pytest.mark.parametrize("kind", [range, iter])
def test_results_come_one_by_one_in_order(pool: Any, kind: Any) -> None:
    for chunksize in (1, 7, 500):
        numbers = range(200) if kind is range else iter(range(200))
        iterator = pool.imap(tasks.square, numbers, chunksize)
        assert iter(iterator) is iterator
        assert next(iterator) == 0
        assert list(iterator) == SQUARES[1:]
        with pytest.raises(StopIteration):
            next(iterator)


def test_unordered_gives_each_once(pool: Any) -> None:
    for chunksize in (1, 7, 500):
        assert sorted(pool.imap_unordered(tasks.square, iter(range(200)), chunksize)) == SQUARES


def test_an_empty_input_gives_no_results(pool: Any) -> None:
    assert list(pool.imap(tasks.square, [])) == []
    assert list(pool.imap_unordered(tasks.square, iter(()), 3)) == []


def test_unordered_does_not_wait_for_slow_tasks(pool: Any, gate: Path) -> None:
    iterator = pool.imap_unordered(tasks.wait_for, [str(gate), __file__])
    assert next(iterator) is None
    gate.touch()
    assert list(iterator) == [None]


def test_a_failed_task_raises_at_its_place_and_iteration_goes_on(pool: Any, trouble: type[Exception]) -> None:
    iterator = pool.imap(tasks.fail_if_odd, range(6))
    for number in range(6):
        if number % 2:
            with pytest.raises(trouble):
                next(iterator)
        else:
            assert next(iterator) == number
    with pytest.raises(StopIteration):
        next(iterator)


def test_the_inputs_error_comes_after_earlier_results(pool: Any) -> None:
    for chunksize, before in ((1, 7), (2, 6), (4, 4)):
        iterator = pool.imap(tasks.square, tasks.numbers_then_trouble(7), chunksize)
        assert list(itertools.islice(iterator, before)) == SQUARES[:before]
        with pytest.raises(tasks.Trouble, match="input"):
            next(iterator)
        with pytest.raises(StopIteration):
            next(iterator)


def test_next_gives_up_after_its_timeout(pool: Any, gate: Path) -> None:
    iterator = pool.imap(tasks.wait_for, [str(gate)])
    for _ in range(2):
        with pytest.raises(multiprocessing.TimeoutError):
            iterator.next(timeout=0.01)
    gate.touch()
    assert iterator.next(timeout=10) is None


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_an_input_may_wait_for_the_results_of_earlier_items(pool: Any, method: str) -> None:
    todo: queue.Queue[int | None] = queue.Queue()
    todo.put(0)
    found = []
    for result in getattr(pool, method)(tasks.add_one, iter(todo.get, None)):
        found.append(result)
        todo.put(result if result < 5 else None)
    assert found == [1, 2, 3, 4, 5]


def test_next_keeps_its_timeout_while_the_input_blocks(pool: Any) -> None:
    release = threading.Event()

    def slow() -> Iterator[int]:
        yield 1
        assert release.wait(20)
        yield 2

    iterator = pool.imap(tasks.square, slow())
    assert iterator.next(timeout=10) == 1
    before = time.monotonic()
    with pytest.raises(multiprocessing.TimeoutError):
        iterator.next(timeout=0.01)
    assert time.monotonic() - before < 5
    release.set()
    assert iterator.next(timeout=10) == 4
    with pytest.raises(StopIteration):
        iterator.next(timeout=10)


@pytest.mark.usefixtures("ours")
def test_a_blocking_input_delays_neither_close_nor_the_pools_end(new_pool: Any) -> None:
    release = threading.Event()

    def blocked() -> Iterator[int]:
        yield 1
        assert release.wait(20)
        yield 2

    with new_pool(1) as pool:
        closed, left = pool.imap(tasks.square, blocked()), pool.imap(tasks.square, blocked())
        assert next(closed) == next(left) == 1
        closed.close()
        with pytest.raises(StopIteration):
            closed.next(timeout=10)
        pool.terminate()
        pool.join()
        release.set()


@pytest.mark.usefixtures("ours")
def test_an_input_may_raise_any_exception(pool: Any) -> None:
    for error in (SystemExit, KeyboardInterrupt, GeneratorExit):

        def leaves(error: type[BaseException] = error) -> Iterator[int]:
            yield 3
            raise error("the input's own")

        iterator = pool.imap(tasks.square, leaves())
        assert iterator.next(timeout=10) == 9
        with pytest.raises(error, match="the input's own"):
            iterator.next(timeout=10)


def test_chunks_of_no_items_are_refused(pool: Any) -> None:
    for method in (pool.imap, pool.imap_unordered):
        with pytest.raises(ValueError, match="Chunksize"):
            method(tasks.square, range(3), 0)


def test_an_input_may_be_read_after_close_and_join(new_pool: Any) -> None:
    with new_pool(2) as pool:
        ordered = pool.imap(tasks.square, iter(range(200)))
        unordered = pool.imap_unordered(tasks.square, iter(range(200)), 3)
        pool.close()
        pool.join()
        assert list(ordered) == SQUARES
        assert sorted(unordered) == SQUARES


@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
@pytest.mark.parametrize("chunksize", [1, 3])
def test_an_endless_input_is_read_a_window_ahead_at_most(pool: Any, method: str, chunksize: int) -> None:
    source = Counted()
    iterator = getattr(pool, method)(tasks.square, source, chunksize, window=12)
    for taken in range(100):
        next(iterator)
        assert source.read - taken <= 12
    iterator.close()
    read = source.read
    rest = 0
    while True:
        try:
            iterator.next(timeout=10)
        except CancelledError:
            rest += chunksize
        except StopIteration:
            break
        else:
            rest += 1
    assert source.read == read == 100 + rest


@pytest.mark.usefixtures("ours")
def test_a_dropped_iterator_reads_no_more(pool: Any) -> None:
    source = itertools.count()
    iterator = pool.imap(tasks.square, source, window=4)
    next(iterator)
    del iterator
    assert next(source) <= 5


@pytest.mark.usefixtures("ours")
def test_a_sized_input_begins_before_the_first_result_is_asked_for(pool: Any, tmp_path: Path) -> None:
    marks = [str(tmp_path / str(number)) for number in range(3)]
    iterator = pool.imap(tasks.leave, marks)
    assert tasks.wait_for(marks[2]) is None
    assert list(iterator) == [None] * 3


@pytest.mark.usefixtures("ours")
def test_a_chunk_must_fit_into_the_window(pool: Any) -> None:
    with pytest.raises(ValueError, match="window"):
        pool.imap(tasks.square, range(10), 5, window=4)


@pytest.mark.usefixtures("ours")
def test_progress_has_no_total_for_an_iterator(pool: Any) -> None:
    seen: list[tuple[int, int | None]] = []

    def note(done: int, total: int | None) -> None:
        seen.append((done, total))

    list(pool.imap(tasks.square, iter(range(10)), 4, progress=note))
    assert [done for done, _ in seen] in ([4, 8, 10], [4, 6, 10], [2, 6, 10])
    assert {total for _, total in seen} == {None}
    list(pool.imap_unordered(tasks.square, range(10), progress=note))
    assert seen[-1] == (10, 10)


@pytest.mark.usefixtures("ours")  # the standard's iterator ends there for StopIteration
@pytest.mark.parametrize("name", ["StopIteration", "StopAsyncIteration", "GeneratorExit", "SystemExit"])
def test_a_tasks_stop_iteration_does_not_end_an_iterator(
    pool: Any, trouble: type[Exception], name: str
) -> None:
    for way, chunksize in itertools.product(("imap", "imap_unordered"), (1, 4)):
        outlasts(pool, trouble, way, name, chunksize)


def outlasts(pool: Any, trouble: type[Exception], way: str, name: str, chunksize: int) -> None:
    """Iterate over the results of tasks of which one raises the builtin exception of that name."""
    expected: Any = RuntimeError if name == "StopIteration" else getattr(builtins, name)
    if trouble is RemoteError:
        expected = RemoteError
    found = []
    iterator = getattr(pool, way)(
        tasks.leave_by_named, [f"{name} {number}" for number in range(20)], chunksize
    )
    for _ in range(20 if chunksize == 1 else 17):
        try:
            found.append(next(iterator))
        except expected as error:
            found.append(-1)
            if expected is RuntimeError:
                assert isinstance(error.__cause__, StopIteration)
    with pytest.raises(StopIteration):
        next(iterator)
    lost = {7} if chunksize == 1 else {4, 5, 6, 7}
    wanted = [number for number in range(20) if number not in lost]
    assert sorted(found) == [-1, *wanted]
    if way == "imap":
        assert found == [*range(min(lost)), -1, *range(max(lost) + 1, 20)]
