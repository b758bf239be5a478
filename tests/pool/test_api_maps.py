"""`map`, `starmap` and their asynchronous forms, over every pool."""

from __future__ import annotations

import builtins
import threading
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from nearfar.errors import RemoteError
from tests.pool import tasks
from tests.support.waiting import eventually

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

SQUARES = [number * number for number in range(100)]


class Sized:
    """An input with a length, but no indexing."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Any:
        return iter(self.items)


@pytest.mark.parametrize("kind", [range, list, tuple, iter, Sized])
def test_map_keeps_the_order(pool: Any, kind: Any) -> None:
    for chunksize in (None, 7, 1000) if kind in (tuple, Sized) else (None, 1, 7, 100, 1000):
        numbers = range(100) if kind is range else kind(list(range(100)))
        assert pool.map(tasks.square, numbers, chunksize) == SQUARES, chunksize


def test_starmap_unpacks(pool: Any) -> None:
    pairs = [(number, 2 * number) for number in range(50)]
    assert pool.starmap(tasks.add, pairs) == [3 * number for number in range(50)]
    assert pool.starmap(tasks.add, iter(pairs), chunksize=3) == [3 * number for number in range(50)]
    assert pool.starmap_async(tasks.add, pairs).get() == [3 * number for number in range(50)]


def test_mapping_an_empty_input_gives_an_empty_list(pool: Any) -> None:
    assert pool.map(tasks.square, []) == []
    assert pool.map_async(tasks.square, iter(()), chunksize=1).get(10) == []
    assert pool.starmap(tasks.add, ()) == []


def test_map_raises_the_tasks_error_after_all_have_ended(pool: Any, trouble: type[Exception]) -> None:
    result = pool.map_async(tasks.fail_if_odd, range(20), chunksize=1)
    with pytest.raises(trouble):
        result.get()
    assert result.ready()
    assert not result.successful()


def test_map_async_runs_its_callback_once_with_everything(pool: Any, trouble: type[Exception]) -> None:
    values: list[Any] = []
    errors: list[Any] = []
    assert pool.map_async(tasks.square, range(100), 3, values.append, errors.append).get() == SQUARES
    assert values == [SQUARES]
    failing = pool.map_async(tasks.fail_if_odd, range(20), 1, values.append, errors.append)
    with pytest.raises(trouble):
        failing.get()
    assert len(values) == len(errors) == 1


def test_an_error_of_the_input_is_the_maps_error(pool: Any) -> None:
    with pytest.raises(tasks.Trouble, match="input"):
        pool.map(tasks.square, tasks.numbers_then_trouble(5), 1)


@pytest.mark.usefixtures("ours")  # the standard waits for ever for chunks that were not sent
def test_an_input_that_fails_before_its_length_does_not_hang(pool: Any) -> None:
    class Lies(Sized):
        def __iter__(self) -> Any:
            return tasks.numbers_then_trouble(3)

    with pytest.raises(tasks.Trouble, match="input"):
        pool.map(tasks.square, Lies(range(10)), 1)


def test_a_pickling_error_is_the_maps_error(pool: Any, maker: Any) -> None:
    if maker.name in ("threads", "shared"):
        pytest.skip("threads pickle nothing")
    with pytest.raises(Exception, match=r"pickle|lock"):
        pool.map(tasks.kind, [threading.Lock()] * 10)
    assert pool.map(tasks.square, range(3)) == [0, 1, 4]


def test_a_map_reports_its_state(pool: Any, gate: Path) -> None:
    result = pool.map_async(tasks.wait_for, [str(gate)] * 3, 1)
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    gate.touch()
    assert result.get(10) == [None] * 3
    assert result.successful()


@pytest.mark.usefixtures("ours")
def test_chunks_of_no_items_are_refused(pool: Any) -> None:
    for size in (0, -1):
        with pytest.raises(ValueError, match="Chunksize"):
            pool.map(tasks.square, range(3), size)


@pytest.mark.usefixtures("ours")
def test_a_maps_callback_gets_even_an_empty_list(pool: Any) -> None:
    seen: list[Any] = []
    assert pool.map_async(tasks.square, [], callback=seen.append).get() == []
    assert seen == [[]]


@pytest.mark.usefixtures("ours")
def test_cancelling_a_map_drops_tasks_that_have_not_begun(pool: Any, gate: Path) -> None:
    mark = gate.with_name("mark")
    result = pool.starmap_async(tasks.leave_then_wait_for, [(str(mark), str(gate))] * 50, 1)
    assert eventually(mark.exists)
    assert not result.cancel()  # the first ones had begun
    gate.touch()
    with pytest.raises(CancelledError):
        result.get(10)
    assert result.cancelled()
    assert not result.cancel()


@pytest.mark.usefixtures("ours")
def test_progress_counts_up_to_the_total(pool: Any) -> None:
    seen: list[tuple[int, int | None]] = []
    pool.map(tasks.square, range(100), 9, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (100, 100)
    with pytest.raises(tasks.Trouble):
        pool.starmap(tasks.add, tasks.numbers_then_trouble(0), progress=lambda *_: None)


@pytest.mark.usefixtures("ours")
def test_progress_that_raises_is_logged(pool: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert pool.map(tasks.square, range(4), 2, progress=lambda *_: 1 / 0) == [0, 1, 4, 9]
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.usefixtures("ours")  # the standard's pool gives a shorter list for StopIteration
@pytest.mark.parametrize("name", ["StopIteration", "StopAsyncIteration", "GeneratorExit", "SystemExit"])
def test_a_tasks_stop_iteration_makes_no_map_shorter(pool: Any, trouble: type[Exception], name: str) -> None:
    expected = RemoteError if trouble is RemoteError else getattr(builtins, name)
    items = [(name, 7, number) for number in range(20)]
    for chunksize in (1, 3, 20):
        with pytest.raises(expected):
            pool.starmap(tasks.leave_by, items, chunksize)
        with pytest.raises(expected):
            pool.starmap_async(tasks.leave_by, items, chunksize).get()
    with pytest.raises(expected):
        pool.apply(tasks.leave_by, items[7])
