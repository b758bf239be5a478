"""nearfar's future, used by the standard library's functions."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import weakref
from concurrent import futures
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, CancelledError
from contextlib import suppress
from typing import Any

import pytest

from nearfar.pool.executor import Future
from tests.pool.engines import ManualEngine
from tests.pool.tasks import Trouble, fail, square


@pytest.fixture
def engine() -> ManualEngine:
    return ManualEngine()


def sent(engine: ManualEngine, func: Any = square, *args: Any) -> Future:
    future = Future(engine, func, args or (3,))
    engine.submit(future)
    return future


def test_its_states_are_those_of_the_standard_library(engine: ManualEngine) -> None:
    future = sent(engine)
    assert isinstance(future, futures.Future)
    assert repr(future).endswith("state=pending>")
    assert not (future.done() or future.running() or future.cancelled())
    engine.begin(future)
    assert future.running()
    assert repr(future).endswith("state=running>")
    assert not future.cancel()
    engine.run(future)
    assert future.done()
    assert not future.running()
    assert not future.cancel()
    assert repr(future).endswith("state=finished returned int>")
    assert future.result() == future.result(timeout=0) == 9
    assert future.exception() is None


def test_a_failed_one(engine: ManualEngine) -> None:
    future = sent(engine, fail)
    engine.run(future)
    assert repr(future).endswith("state=finished raised Trouble>")
    assert isinstance(future.exception(), Trouble)
    for _ in range(2):
        with pytest.raises(Trouble):
            future.result()


def test_a_cancelled_one(engine: ManualEngine) -> None:
    future = sent(engine)
    assert future.cancel()
    assert future.cancel()
    assert future.cancelled()
    assert future.done()
    assert repr(future).endswith("state=cancelled>")
    for ask in (future.result, future.exception):
        with pytest.raises(CancelledError):
            ask()
    assert engine.calls == []


def test_a_waiting_thread_drives_the_engine(engine: ManualEngine) -> None:
    others = [sent(engine) for _ in range(3)]
    assert sent(engine, square, 4).result() == 16
    assert all(other.done() for other in others)
    failing = sent(engine, fail)
    assert isinstance(failing.exception(), Trouble)


def test_waiting_gives_up_after_its_timeout(engine: ManualEngine) -> None:
    future = sent(engine)
    for ask in (future.result, future.exception):
        with pytest.raises(TimeoutError):
            ask(timeout=0)


def test_callbacks_before_and_after(engine: ManualEngine, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Any] = []
    future = sent(engine)
    future.add_done_callback(lambda done: seen.append(("early", done.result())))
    future.add_done_callback(fail)
    future.add_done_callback(lambda done: seen.append(("second", done.result())))
    engine.run(future)
    future.add_done_callback(lambda done: seen.append(("late", done.result())))
    assert seen == [("early", 9), ("second", 9), ("late", 9)]
    assert "Trouble" in caplog.text
    cancelled = sent(engine)
    cancelled.add_done_callback(seen.append)
    cancelled.cancel()
    assert seen[-1] is cancelled


@pytest.mark.parametrize("when", [FIRST_COMPLETED, FIRST_EXCEPTION, ALL_COMPLETED])
def test_wait(engine: ManualEngine, when: str) -> None:
    first, second, third = sent(engine), sent(engine, fail), sent(engine)
    foreign: futures.Future[int] = futures.Future()
    foreign.set_result(1)
    waiting = {first, second, third, foreign}
    ended: list[Any] = []
    thread = threading.Thread(target=lambda: ended.append(futures.wait(waiting, 10, when)))
    engine.run(first)
    thread.start()
    engine.run(second)
    third.cancel()
    thread.join()
    done, rest = ended[0]
    assert first in done
    assert foreign in done
    if when == FIRST_EXCEPTION:
        assert second in done
    if when == ALL_COMPLETED:
        assert not rest
    assert futures.wait(waiting, 0).done == waiting


def test_as_completed_gives_them_as_they_end(engine: ManualEngine) -> None:
    made = [sent(engine, square, number) for number in range(4)]
    engine.run(made[2])
    iterator = futures.as_completed(made, timeout=10)
    assert next(iterator) is made[2]
    for index in (3, 0):
        engine.run(made[index])
        assert next(iterator) is made[index]
    made[1].cancel()
    assert list(iterator) == [made[1]]
    with pytest.raises(TimeoutError):
        list(futures.as_completed([sent(engine)], timeout=0))


def test_asyncio_can_wait_for_it(engine: ManualEngine) -> None:
    async def ask() -> Any:
        good, bad, late = (asyncio.wrap_future(each) for each in (done, failed, pending))
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        engine.run(done)
        engine.run(failed)
        with pytest.raises(Trouble):
            await bad
        return await good

    done, failed, pending = sent(engine), sent(engine, fail), sent(engine)
    assert asyncio.run(ask()) == 9
    assert pending.cancelled()


def test_an_executor_may_use_it_as_any_future(engine: ManualEngine) -> None:
    future, failing, cancelled = (Future(engine, square, ()) for _ in range(3))
    assert future.set_running_or_notify_cancel()
    assert future.running()
    with pytest.raises(RuntimeError, match="unexpected state"):
        future.set_running_or_notify_cancel()
    future.set_result(5)
    assert future.result() == 5
    with pytest.raises(futures.InvalidStateError):
        future.set_result(6)
    failing.set_exception(Trouble())
    with pytest.raises(futures.InvalidStateError):
        failing.set_exception(Trouble())
    assert isinstance(failing.exception(), Trouble)
    engine.submit(cancelled)
    cancelled.cancel()
    assert not cancelled.set_running_or_notify_cancel()


def test_no_wake_up_is_lost_between_threads() -> None:
    for round_ in range(200):
        engine = ManualEngine()
        made = [sent(engine, square, number) for number in range(4)]
        order = random.Random(round_).sample(made, len(made))

        def end(order: list[Future] = order, engine: ManualEngine = engine) -> None:
            for future in order:
                engine.run(future)

        thread = threading.Thread(target=end)
        thread.start()
        assert futures.wait(made, 10).not_done == set()
        thread.join()


def test_an_error_makes_no_circle(engine: ManualEngine) -> None:
    future = Future(engine, square, ())
    future.settle(None, Trouble())
    gone = weakref.ref(future)
    gc.disable()
    try:
        with suppress(Trouble):
            future.result()
        del future
        assert gone() is None
    finally:
        gc.enable()
