"""Ctrl-C at any point inside a put or a get: no item is lost or doubled, the queue stays usable."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from nearfar.queues.base import Delivery
from nearfar.queues.far import FarQueue
from tests.support import injector
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(method="thread")  # SIGALRM, the other method, is for the tests
ITEMS = 3000
NESTED = 4
"""Handlers that may run inside each other: on a busy machine, signals may come faster than handlers end."""


class Handler:
    """Raises `KeyboardInterrupt`, once each time it is armed: so never where it would not be caught."""

    def __init__(self) -> None:
        self.armed = False

    def __call__(self, *_: object) -> None:
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt


def get_all(queue: FarQueue, count: int, most: int, handler: Handler) -> list[int]:
    """Get all items, repeating interrupted calls. A result is stored in the same step in which it arrives."""
    found: list[int] = []
    deadline = time.monotonic() + 30
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count}"
        try:
            handler.armed = True
            while len(found) < count:
                found[len(found) :] = queue.get_many(most) if most > 1 else (queue.get(),)
            handler.armed = False
        except KeyboardInterrupt:
            continue
    return found


@pytest.mark.parametrize("most", [1, 50])
def test_an_interrupted_get_loses_nothing(most: int) -> None:
    with FarQueue(0, "tcp://127.0.0.1:*") as queue:
        queue.put_many(range(ITEMS))
        queue.put(-1)
        handler = Handler()
        before = signal.signal(signal.SIGINT, handler)
        over = threading.Event()
        thread = threading.Thread(target=interrupt_until, args=(over,))
        thread.start()
        try:
            found = get_all(queue, ITEMS + 1, most, handler)
        finally:
            stop(over, thread, before)
        assert sorted(found) == [-1, *range(ITEMS)]


def interrupt_until(over: threading.Event) -> None:
    while not over.wait(0.002):
        os.kill(os.getpid(), signal.SIGINT)


def stop(over: threading.Event, thread: threading.Thread, before: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    over.set()
    thread.join()
    signal.signal(signal.SIGINT, before)  # type: ignore[arg-type]


# -- at any bytecode -------------------------------------------------------------------------------


@pytest.fixture(params=["bytecode", "signal"])
def act(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], object]]:
    """The interruption: an exception at any bytecode, or a signal whose handler raises."""
    yield from injector.striking(request.param, monkeypatch)


GETS = {"get": 1, "get_many": 2, "receive": 1, "batches": 2, "full batches": 2, "receive_batches": 2}
"""Ways to take, and how many items each takes here."""
LAST = ("FarQueue.get", "FarQueue.receive", "FarQueue._take_batch", "FarQueue._receive_batch")
"""At the last bytecode of these an item is on its way out, and its caller's to lose."""
BEHIND = ("BaseQueue.batches", "BaseQueue.receive_batches", "BaseQueue._until_end")
"""In these it may be so everywhere."""
STRIDES = [37, pytest.param(1, marks=[pytest.mark.exhaustive, pytest.mark.timeout(600)])]


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("size", [10, 100_000], ids=["small", "large"])
@pytest.mark.parametrize("maxsize", [0, 5])
def test_a_put_interrupted_at_any_bytecode(
    act: Callable[[], object], maxsize: int, size: int, stride: int
) -> None:
    """Items arrive once and in order; the item of an interrupted put arrives once or not at all."""
    body, numbers, struck = b"x" * size, itertools.count(), []
    with FarQueue(maxsize, "tcp://127.0.0.1:*") as queue, FarQueue.connect(queue.address) as other:
        taken: list[int] = []

        def put() -> None:
            tried.append(next(numbers))
            queue.put((tried[-1], body), timeout=20)

        tried: list[int] = []
        for came, where in injector.every(stride, act, put):
            struck += [tried[-1]] if came else []
            queue.put((next(numbers), b""), timeout=20)
            while not taken or taken[-1] != tried[-1] + 1:
                taken.append(other.get(timeout=20)[0])
            assert taken == sorted(set(taken)), where
        assert len(struck)
        assert set(range(taken[-1])) - set(taken) <= set(struck)


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("how", [*GETS, "get when there is none"])
def test_a_get_interrupted_at_any_bytecode(act: Callable[[], object], how: str, stride: int) -> None:
    """The item of an interrupted get goes to the next caller, unless it was being returned already."""
    struck, lost = 0, 0
    with FarQueue(0, "tcp://127.0.0.1:*") as queue, FarQueue.connect(queue.address) as other:
        numbers = itertools.count()
        found: list[int] = []

        def get() -> None:
            if how == "get_many":
                found[len(found) :] = other.get_many(2, timeout=20)
            elif how == "receive":
                delivery = other.receive(timeout=20)
                found[len(found) :] = (delivery.item,)
                delivery.ack()
            elif how in ("batches", "full batches"):
                # Closed here: Python drops what is raised in a generator that it closes by itself.
                with closing(other.batches(2, 2 if how == "full batches" else 1, timeout=20)) as batches:
                    found[len(found) :] = next(batches)
            elif how == "receive_batches":
                with closing(other.receive_batches(2, timeout=20)) as deliveries:
                    batch = next(deliveries)
                    found[len(found) :] = batch.item
                    batch.ack()
            else:
                found[len(found) :] = (other.get(timeout=20),)

        if how != "get when there is none":
            queue.put_many(itertools.islice(numbers, 300 if stride > 1 else 8000))
        for came, where in injector.every(stride, act, get):
            struck += came
            on_its_way = where.function.startswith(BEHIND) or (
                where.opcode.startswith("RETURN") and where.function.startswith(LAST)
            )
            lost += came and on_its_way
            if how == "get when there is none":
                timer = threading.Timer(0.002, queue.put, (next(numbers),))
                timer.start()
        last = next(numbers)
        if how == "get when there is none":
            queue.put_many(range(last, last + 10))
            last += 9
        else:
            queue.put(last)
        while len(set(found)) <= last - 2 * lost:
            found.append(other.get(timeout=20))
        assert len(found) == len(set(found))
    assert struck


@pytest.mark.parametrize("stride", STRIDES)
def test_a_flush_interrupted_at_any_bytecode(act: Callable[[], object], stride: int) -> None:
    """Items put before it arrive once, and the next flush works."""
    numbers, struck = itertools.count(), 0
    with FarQueue(0, "tcp://127.0.0.1:*") as queue, FarQueue.connect(queue.address) as other:

        def flush() -> None:
            other.put(next(numbers))
            other.flush(20)

        for came, where in injector.every(stride, act, flush):
            struck += came
            last = next(numbers)
            other.put(last)
            other.flush(20)
            assert queue.qsize() >= 1, where
            found = [queue.get(timeout=20)]
            while found[-1] != last:
                found.append(queue.get(timeout=20))
            assert found in ([last], [last - 1, last]), where
    assert struck


# CPython counts a new thread as its creator until it runs: an exception may end a deputy at its start.
# Another is started then.
@pytest.mark.filterwarnings("ignore:Exception ignored in thread:pytest.PytestUnraisableExceptionWarning")
def test_an_exception_that_another_thread_raises() -> None:
    """Into a loop of gets and a loop of puts of one thread."""
    ready, over = threading.Event(), threading.Event()
    armed: list[bool] = []
    victims: list[int] = []
    found: list[int] = []
    put: list[int] = []
    numbers = itertools.count()
    struck = 0

    def work() -> None:
        nonlocal found, struck
        victims.append(threading.get_ident())
        ready.set()
        for each in range(150_000):
            if each >= 1500 and struck > 20:  # on a busy machine, the other thread may not run for a while
                break
            try:
                armed.append(True)
                number = next(numbers)
                queue.put(number)
                put.append(number)
                found += [other.get(timeout=20)]  # no call between, at whose end an exception may be raised
                armed.clear()
            except injector.Struck:
                struck += 1
        over.set()

    with FarQueue(0, "tcp://127.0.0.1:*") as queue, FarQueue.connect(queue.address) as other:
        thread = threading.Thread(target=work)
        thread.start()
        assert ready.wait(20)
        while not over.wait(0.002):
            if armed:
                injector.raise_in(victims[0], injector.Struck)
                armed.clear()  # afterwards: a second one is not to come while the first is dealt with
        thread.join()
        while set(put) - set(found):  # what an interrupted `get` gave back comes after later items
            found.append(other.get(timeout=20))
    assert struck > 20
    assert len(found) == len(set(found))


# -- a handler, a finalizer, a `__reduce__` that use the queue -------------------------------------


@pytest.mark.parametrize("maxsize", [0, 3])
def test_a_signal_handler_may_put_and_get(maxsize: int) -> None:
    """While the main thread puts, and while it waits for room or for an item."""
    sent = itertools.count(1_000_000)
    extra: list[int] = []

    def handle(*_: object) -> None:
        if len(running) < NESTED:
            number = next(sent)
            running.append(number)
            queue.put(number)
            running.remove(number)
            extra.append(number)

    running: list[int] = []
    count = 5000 if not maxsize else 300
    found: list[int] = []
    with FarQueue(maxsize, "tcp://127.0.0.1:*") as queue:

        def drain() -> None:
            with FarQueue.connect(queue.address) as other:
                while (item := other.get(timeout=20)) != -1:
                    found.append(item)

        draining = threading.Thread(target=drain)
        draining.start()
        before = signal.signal(signal.SIGALRM, handle)
        every = 0.01 if maxsize else 0.001  # a put that waits may take longer: handlers in handlers
        signal.setitimer(signal.ITIMER_REAL, every, every)
        try:
            for number in range(count):
                queue.put(number)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        queue.put(-1)
        draining.join(30)
        assert not draining.is_alive()
    assert sorted(found) == [*range(count), *sorted(extra)]
    assert [each for each in found if each < 1_000_000] == list(range(count))


def test_a_handler_may_put_the_item_that_the_main_thread_waits_for() -> None:
    with FarQueue(1, "tcp://127.0.0.1:*") as queue:

        def handle(*_: object) -> None:
            queue.put("from the handler")

        before = signal.signal(signal.SIGALRM, handle)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            assert queue.get(timeout=10) == "from the handler"
        finally:
            signal.signal(signal.SIGALRM, before)


def test_a_handler_makes_the_room_that_the_main_thread_waits_for() -> None:
    with FarQueue(1, "tcp://127.0.0.1:*") as queue:
        taken: list[int] = []

        def handle(*_: object) -> None:
            taken.append(queue.get(timeout=10))

        before = signal.signal(signal.SIGALRM, handle)
        try:
            queue.put(1)
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            queue.put(2, timeout=10)
            assert taken == [1]
            assert queue.get(timeout=10) == 2
        finally:
            signal.signal(signal.SIGALRM, before)


class Putter:
    """Puts in its finalizer; it is in a reference cycle, so a garbage collection runs it."""

    def __init__(self, queue: FarQueue, number: int, failed: list[int]) -> None:
        self.queue, self.number, self.failed, self.other = queue, number, failed, self

    def __del__(self) -> None:
        try:
            self.queue.put(self.number, timeout=5)
        except RuntimeError:
            self.failed.append(self.number)


def test_a_finalizer_may_put() -> None:
    """The item is in the queue, or the finalizer gets an error: it is never lost, and no state is damaged."""
    failed: list[int] = []
    threshold = gc.get_threshold()
    with FarQueue(0, "tcp://127.0.0.1:*") as queue:
        gc.set_threshold(20, 2, 2)
        try:
            for number in range(200):
                Putter(queue, 1_000_000 + number, failed)
                queue.put([number], timeout=20)
                if number % 5 == 0:
                    queue.put_many([[number]], timeout=20)
                    queue.qsize()
        finally:
            gc.set_threshold(*threshold)
        gc.collect()
        queue.put(-1)
        found = list(iter(lambda: queue.get(timeout=20), -1))
    numbers = [each for each in found if isinstance(each, int)]
    assert sorted(numbers + failed) == list(range(1_000_000, 1_000_200))
    assert len(found) - len(numbers) == 240


class Acker:
    """Acks a delivery in its finalizer; it is in a reference cycle, so a garbage collection runs it."""

    def __init__(self, delivery: Delivery, failed: list[BaseException]) -> None:
        self.delivery, self.failed, self.other = delivery, failed, self

    def __del__(self) -> None:
        try:
            self.delivery.ack()
        except RuntimeError as error:
            self.failed.append(error)


def test_a_finalizer_may_ack() -> None:
    failed: list[BaseException] = []
    threshold = gc.get_threshold()
    with FarQueue(0, "tcp://127.0.0.1:*") as queue:
        queue.put_many(range(200))
        gc.set_threshold(20, 2, 2)
        try:
            for number in range(200):
                Acker(queue.receive(timeout=20), failed)
                queue.put([number], timeout=20)
                queue.qsize()
        finally:
            gc.set_threshold(*threshold)
        gc.collect()
        assert failed == []
        assert eventually(lambda: queue.counts()["settled"] == 200, within=20)


class Chatty:
    """Puts into a queue while it is pickled."""

    queue: FarQueue

    def __reduce__(self) -> tuple[type, tuple[str]]:
        self.queue.put("I am pickled")
        return str, ("chatty",)


@pytest.mark.parametrize("maxsize", [0, 2])
def test_an_object_may_put_while_it_is_pickled(maxsize: int) -> None:
    with FarQueue(maxsize, "tcp://127.0.0.1:*") as queue:
        Chatty.queue = queue
        queue.put(Chatty(), timeout=10)
        assert [queue.get(timeout=10), queue.get(timeout=10)] == ["I am pickled", "chatty"]
