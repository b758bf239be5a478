"""A signal handler in the middle of a near queue's put and get: it may put, and it may raise."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from nearfar.errors import Empty
from nearfar.queues.near import NearQueue
from tests.support import injector

pytestmark = pytest.mark.timeout(method="thread")  # SIGALRM, the other method, is for the tests


@pytest.fixture
def queue() -> Iterator[NearQueue]:
    with NearQueue(ctx=multiprocessing.get_context("fork")) as made:
        yield made


def in_handler(do: Callable[[], object]) -> Callable[[], object]:
    """The interruption: a signal, whose handler calls `do`."""

    def ring() -> None:
        before = signal.signal(signal.SIGALRM, lambda *_: do() and None)
        try:
            signal.raise_signal(signal.SIGALRM)
        finally:
            signal.signal(signal.SIGALRM, before)

    return ring


@pytest.mark.parametrize("size", [0, 3])
def test_a_handler_may_put_at_any_bytecode_of_a_put(size: int) -> None:
    numbers = itertools.count()
    with NearQueue(size, ctx=multiprocessing.get_context("fork")) as queue:

        def put() -> None:
            queue.put(next(numbers), timeout=10)

        found: set[int] = set()
        for count, (_, where) in enumerate(injector.every(1, in_handler(put), put), 1):
            found |= {queue.get(timeout=10), queue.get(timeout=10)}
            assert found == set(range(2 * count)), where
        queue.get(timeout=10)


@pytest.mark.parametrize("how", ["bytecode", "signal"])
def test_an_exception_at_any_bytecode_of_a_put_leaves_it_usable(
    queue: NearQueue, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The item of an interrupted put may be in the queue or not; later items are."""
    numbers = itertools.count()
    act = injector.strike
    if how == "signal":
        injector.hide_tracer(monkeypatch)
        act = in_handler(injector.strike)
    for _, where in injector.every(1, act, lambda: queue.put(next(numbers))):
        threads = [threading.Thread(target=queue.put, args=(-1,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive(), where
        assert len([1 for _ in iter(lambda: queue.get(timeout=10), -1)]) <= 1, where
        while queue.get(timeout=10) != -1:
            pass
    assert queue.get(timeout=10) >= 0


def test_an_exception_at_any_bytecode_of_a_get_leaves_the_reader_lock_free(queue: NearQueue) -> None:
    """The part of a message read by then is lost, as in the standard library: so each time a new item is
    put."""
    held: list[bool] = []

    def look() -> None:
        held.append(not queue._rlock.acquire(True, 5))
        if not held[-1]:
            queue._rlock.release()

    def get() -> None:
        with suppress(Empty):
            queue.get(block=False)

    for _, where in injector.every(1, injector.strike, get):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert held == [False], where
        held.clear()
    queue.put("last")  # the thread that sends it closes the pipe


def test_a_nested_get_raises(queue: NearQueue) -> None:
    errors: list[RuntimeError] = []

    def handle(*_: object) -> None:
        try:
            queue.get(timeout=10)
        except RuntimeError as error:
            errors.append(error)
        queue.put("from the handler")

    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        assert queue.get(timeout=10) == "from the handler"
    finally:
        signal.signal(signal.SIGALRM, before)
    assert "in the middle of a get" in str(errors[0])
