"""Maps and windows, for any order in which an engine ends its calls."""

from __future__ import annotations

import itertools
import pickle
import weakref
from collections.abc import Iterator
from math import inf
from multiprocessing import TimeoutError
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.coordinator.task import Mode, TaskStatus
from nearfar.pool import imap
from nearfar.pool.call import SMALL, Call
from nearfar.pool.imap import IMapIterator, IMapUnorderedIterator, default_window
from nearfar.pool.options import chunks, default_chunksize
from nearfar.pool.results import AsyncResult, MapResult
from tests.pool.engines import ManualEngine
from tests.pool.tasks import Trouble, fail_if_odd, square
from tests.support import injector


@pytest.fixture(scope="module", autouse=True)
def unexposed() -> Iterator[None]:
    """hypothesis traces; nevertheless its data must be drawn in its own thread, not by a deputy."""
    with pytest.MonkeyPatch.context() as patch:
        injector.hide_tracer(patch)
        yield


def random_engine(data: st.DataObject) -> ManualEngine:
    return ManualEngine(choose=lambda count: data.draw(st.integers(0, count - 1)))


def mapped(engine: ManualEngine, func: Any, items: Any, size: int, *callbacks: Any) -> MapResult:
    result = MapResult(engine, None, callbacks or None)  # type: ignore[arg-type]
    result.send(func, chunks(items, size), Mode.MAP, (None, 0))
    return result


@given(st.data(), st.lists(st.integers()), st.integers(1, 7))
def test_a_map_keeps_the_order(data: st.DataObject, items: list[int], size: int) -> None:
    seen: list[Any] = []
    result = mapped(random_engine(data), square, items, size, seen.append, None)
    assert result.get() == [item * item for item in items]
    assert seen == [result.get()]


@given(st.data(), st.lists(st.integers(), min_size=1), st.integers(1, 3))
def test_a_map_raises_the_error_that_came_first(data: st.DataObject, items: list[int], size: int) -> None:
    engine = random_engine(data)
    came: list[int] = []

    def note(x: int) -> int:
        if x % 2:
            came.append(x)
        return fail_if_odd(x)

    errors: list[Any] = []
    result = mapped(engine, note, items, size, None, errors.append)
    if any(item % 2 for item in items):
        with pytest.raises(Trouble) as caught:
            result.get()
        assert caught.value.args == (came[0],)
        assert errors == [caught.value]
    else:
        assert result.get() == items
    assert not engine.calls


@given(
    st.randoms(use_true_random=True),
    st.integers(0, 40),
    st.integers(1, 4),
    st.integers(0, 12),
    st.sampled_from([IMapIterator, IMapUnorderedIterator]),
    st.booleans(),
)
def test_a_window_is_never_exceeded(
    random: Random, length: int, size: int, more: int, kind: type[IMapIterator], fails: bool
) -> None:
    read = 0

    def source() -> Any:
        nonlocal read
        for item in range(length):
            read += 1
            yield item

    # Not drawn at each choice: how many calls there are by then is up to the thread that reads.
    engine = ManualEngine(choose=random.randrange)
    window = size + more
    func = fail_if_odd if fails else square
    iterator = kind(engine, func, source(), size, window)
    got: list[int] = []
    taken = 0
    while True:
        try:
            got.append(next(iterator))
            taken += 1
        except Trouble:
            taken += size  # a chunk fails as a whole
        except StopIteration:
            break
        assert read - taken <= window
    assert read == length
    wanted = [
        func(item)
        for piece in chunks(range(length), size)
        if not fails or all(item % 2 == 0 for item in piece)
        for item in piece
    ]
    assert (got if kind is IMapIterator else sorted(got)) == wanted


@given(st.integers(0, 1000), st.integers(1, 64))
def test_default_chunks_are_those_of_multiprocessing(length: int, workers: int) -> None:
    size, extra = divmod(length, workers * 4)
    assert default_chunksize(length, workers) == max(1, size + bool(extra))


def test_a_slice_of_a_range_is_a_range() -> None:
    assert list(chunks(range(10**12, 10**12 + 5), 2)) == [
        range(10**12, 10**12 + 2),
        range(10**12 + 2, 10**12 + 4),
        range(10**12 + 4, 10**12 + 5),
    ]
    assert list(chunks({1: 2}, 2)) == [(1,)]


def test_the_window_has_room_for_four_chunks_per_worker() -> None:
    assert default_window(2, 1) == 256
    assert default_window(10, 50) == 2000


def test_a_call_that_the_engine_refuses_has_the_error_as_outcome() -> None:
    engine = ManualEngine()
    engine.refuse = TypeError("cannot pickle")
    with pytest.raises(TypeError, match="cannot pickle"):
        mapped(engine, square, [1, 2, 3], 1).get()
    with pytest.raises(TypeError, match="cannot pickle"):
        next(IMapIterator(engine, square, [1], 1))


class Eager(ManualEngine):
    """Runs each call when it is submitted."""

    def submit(self, call: Call, *, more: bool = False) -> None:
        super().submit(call)
        self.run(call)


def test_a_sized_input_is_read_up_to_the_window_however_fast_the_results() -> None:
    engine = Eager()
    iterator = IMapIterator(engine, square, range(100), 2, 10)
    assert len(engine.limits) == 5
    assert list(iterator) == [number * number for number in range(100)]


class Gathering(Eager):
    """Runs what was submitted with `more` at `flush`, and counts those."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Call] = []
        self.flushes: list[int] = []

    def submit(self, call: Call, *, more: bool = False) -> None:
        assert more
        self.limits.append((call.timeout, call.retries))
        self.waiting.append(call)

    def flush(self) -> None:
        waiting, self.waiting = self.waiting, []
        self.flushes.append(len(waiting))
        for call in waiting:
            self.calls.append(call)
            self.run(call)


@pytest.mark.parametrize("ordered", [True, False])
def test_what_a_sized_input_has_room_for_is_sent_together(
    ordered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imap, "EACH_CHECK", inf)
    engine = Gathering()
    iterator = (IMapIterator if ordered else IMapUnorderedIterator)(engine, square, range(1000), 1, 400)
    assert sum(engine.flushes) == 400  # no more than the window
    assert sorted(iterator) == [number * number for number in range(1000)]
    assert len([size for size in engine.flushes if size]) == 7, "a quarter of the window at a time"


class Packing(ManualEngine):
    """Packs the arguments, as an engine does whose workers are other processes; answers at `flush`."""

    def __init__(self, large_result: int) -> None:
        super().__init__()
        self.large_result = large_result
        self.submitted = 0

    def submit(self, call: Call, *, more: bool = False) -> None:
        self.calls.append(call)
        self.submitted += 1
        call.function, call.blob, call.buffers = b"m:f", pickle.dumps(call.blob), ()

    def flush(self) -> None:
        first = self.submitted - len(self.calls)
        for number, call in enumerate(self.calls, first):
            value = bytes(2 * SMALL) if number == self.large_result else None
            call.answered(TaskStatus.VALUE, pickle.dumps(value), ())
        self.calls.clear()


@pytest.mark.parametrize(("large_item", "large_result"), [(-1, -1), (1500, -1), (-1, 1500)])
def test_a_window_of_small_items_widens_until_one_is_large(large_item: int, large_result: int) -> None:
    engine = Packing(large_result)
    items = [bytes(2 * SMALL) if number == large_item else b"" for number in range(6000)]
    iterator = IMapUnorderedIterator(engine, square, items, 1)
    ahead = [engine.submitted - taken for taken, _ in enumerate(iterator)]
    assert len(ahead) == len(items)
    assert max(ahead[:256]) <= 257
    assert max(ahead[1000:1400]) > 512
    narrow = max(ahead[4000:5000]) <= 257
    assert narrow is (large_item > 0 or large_result > 0)


def test_an_imap_gives_up_after_its_timeout_and_goes_on() -> None:
    engine = ManualEngine()
    iterator = IMapIterator(engine, square, [3], 1)
    with pytest.raises(TimeoutError):
        iterator.next(timeout=0)
    assert iterator.next() == 9


class Thing:
    """An object that supports weak references."""


def make_thing(_: int) -> Thing:
    return Thing()


@pytest.mark.parametrize("kind", [IMapIterator, IMapUnorderedIterator])
def test_an_imap_keeps_no_result_that_was_taken(kind: type[IMapIterator]) -> None:
    iterator = kind(ManualEngine(), make_thing, itertools.count(), 1, 4)
    taken = [weakref.ref(next(iterator)) for _ in range(20)]
    assert [thing() for thing in taken] == [None] * 20


def test_a_result_keeps_its_pool_until_it_has_ended() -> None:
    engine, pool = ManualEngine(), Thing()
    result = AsyncResult(engine, pool, square, (3,))
    whole = MapResult(engine, pool)
    iterator = IMapIterator(engine, square, [1], 1, keeper=pool)
    gone = weakref.ref(pool)
    del pool
    engine.submit(result)
    assert result.get() == 9
    assert gone() is not None
    whole.send(square, [[1]], Mode.MAP, (None, 0))
    assert whole.get() == [1]
    assert gone() is not None
    assert list(iterator) == [1]
    assert gone() is None


def test_map_and_imap_pass_on_the_limits() -> None:
    engine = ManualEngine()
    MapResult(engine, None).send(square, [[1], [2]], Mode.MAP, (2.5, 3))
    IMapIterator(engine, square, [1], 1, limits=(1.5, 1))
    assert engine.limits == [(2.5, 3), (2.5, 3), (1.5, 1)]


def test_cancelling_all_of_a_map_is_true() -> None:
    engine = ManualEngine()
    assert mapped(engine, square, [1, 2, 3], 1).cancel()
    part = mapped(engine, square, [1, 2, 3], 1)
    engine.begin(engine.calls[1])
    assert not part.cancel()
    assert not part.ready()
    engine.run(engine.begun[0])
    assert part.cancelled()
