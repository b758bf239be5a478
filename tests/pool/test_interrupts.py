"""An exception at any bytecode of a call of a pool: the caller gets it, and the pool continues."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from nearfar import Executor, Pool
from tests.pool import tasks
from tests.pool.pools import far, near
from tests.support import injector
from tests.support.injector import Struck

pytestmark = pytest.mark.timeout(method="thread")  # SIGALRM, the other method, is for the tests
LONG = 60.0


@pytest.fixture(scope="module", params=["near", "far"])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    making = near(2) if request.param == "near" else far(2)
    with making as made:
        made.map(abs, range(20), 1)
        yield made


@pytest.fixture(params=["bytecode", "signal"])
def act(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], object]]:
    """The interruption: an exception at any bytecode, or a signal whose handler raises."""
    yield from injector.striking(request.param, monkeypatch)


def workers(pool: Pool) -> set[Any]:
    supervisor = getattr(pool._engine, "_supervisor", None)
    return set() if supervisor is None else {member.pid for member in supervisor.members.values()}


INPUTS: list[Callable[[int], Iterable[int]]] = [range, lambda count: iter(range(count))]
EVERY = pytest.param(1, marks=[pytest.mark.exhaustive, pytest.mark.timeout(900)])
STRIDES = [61, EVERY]
MAP_STRIDES = [331, EVERY]


@pytest.mark.parametrize("stride", STRIDES)
def test_apply(pool: Pool, act: Callable[[], object], stride: int) -> None:
    before, struck = workers(pool), 0
    for came, where in injector.every(stride, act, lambda: pool.apply(tasks.add, (1, 2))):
        struck += came
        assert pool.apply_async(tasks.add, (3, 4)).get(LONG) == 7, where
    assert struck
    assert workers(pool) == before


@pytest.mark.parametrize("stride", STRIDES)
def test_an_answer_is_available_after_an_interrupted_get(
    pool: Pool, act: Callable[[], object], stride: int
) -> None:
    struck = 0
    results = [pool.apply_async(tasks.add, (1, 2))]

    def get() -> None:
        results.append(pool.apply_async(tasks.add, (1, 2)))
        results[-1].get(LONG)

    for came, where in injector.every(stride, act, get):
        struck += came
        assert all(result.get(LONG) == 3 for result in results), where
        del results[1:]
    assert struck


@pytest.mark.parametrize("stride", MAP_STRIDES)
def test_map(pool: Pool, act: Callable[[], object], stride: int) -> None:
    before, struck = workers(pool), 0
    for came, where in injector.every(stride, act, lambda: pool.map(abs, range(-9, 0), 2)):
        struck += came
        assert pool.map_async(abs, range(-5, 0), 2).get(LONG) == [5, 4, 3, 2, 1], where
    assert struck
    assert workers(pool) == before


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize(
    "kind", [range, lambda count: iter(range(count))], ids=["at hand", "read by a thread"]
)
def test_an_interrupted_imap_goes_on(
    pool: Pool, act: Callable[[], object], kind: Callable[[int], Iterable[int]], stride: int
) -> None:
    """An interrupted `next` gives the same result when it is called again."""
    struck, last = 0, "RETURN_VALUE"
    results = pool.imap(abs, kind(100_000), 2)
    expected = 0
    found: list[int] = []

    def take() -> None:
        found[len(found) :] = (results.next(LONG),)

    for came, where in injector.every(stride, act, take):
        struck += came
        if came and where.opcode == last and where.function == "IMapIterator.next":
            expected += 1  # it was on its way out, and its caller's to lose
        for each in found:
            assert each == expected, where
            expected += 1
        found.clear()
    assert struck
    results.close()


@pytest.mark.parametrize("stride", MAP_STRIDES)
@pytest.mark.parametrize(
    "kind", [range, lambda count: iter(range(count))], ids=["at hand", "read by a thread"]
)
def test_an_imap_of_failing_tasks(
    pool: Pool, act: Callable[[], object], kind: Callable[[int], Iterable[int]], stride: int
) -> None:
    """From start to end: each result arrives, and each error of a task."""
    struck = 0

    def use() -> None:
        found: list[int] = []
        results = pool.imap(tasks.fail_if_odd, kind(6), window=2)
        while len(found) < 6:
            try:
                found[len(found) :] = (results.next(LONG),)
            except tasks.Trouble as error:
                found[len(found) :] = error.args
        assert found == list(map(abs, range(6)))
        assert next(results, None) is None

    for came, where in injector.every(stride, act, use):
        struck += came
        assert pool.apply_async(tasks.add, (3, 4)).get(LONG) == 7, where
    assert struck


@pytest.mark.parametrize("seconds", [0.0, 0.0005, 0.002, 0.005])
def test_an_error_in_the_reading_thread_reaches_the_caller(pool: Pool, seconds: float) -> None:
    """At any step of that thread: the earlier results arrive, and the iterator ends."""
    reader: list[int] = []

    def source() -> Iterator[int]:
        reader.append(threading.get_ident())
        yield from range(1_000_000)

    results = pool.imap(abs, source(), window=20)
    expected = 0
    assert results.next(LONG) == 0
    aim = threading.Timer(seconds, lambda: injector.raise_in(reader[0], Struck))
    aim.start()
    with pytest.raises(Struck):
        while True:
            expected += 1
            assert results.next(LONG) == expected
    aim.join()
    assert next(results, None) is None
    assert pool.apply_async(tasks.add, (3, 4)).get(LONG) == 7


@pytest.mark.parametrize("stride", STRIDES)
def test_executor(act: Callable[[], object], stride: int) -> None:
    struck = 0
    with Executor(1, mp_context=multiprocessing.get_context("fork")) as executor:
        for came, where in injector.every(stride, act, lambda: executor.submit(abs, -1).result(LONG)):
            struck += came
            assert executor.submit(abs, -2).result(LONG) == 2, where
        assert struck


@pytest.mark.parametrize("stride", STRIDES)
def test_cancel(pool: Pool, act: Callable[[], object], stride: int) -> None:
    struck = 0

    def cancel() -> None:
        results[:] = [pool.apply_async(tasks.add, (1, 2))]
        results[0].cancel()

    results: list[Any] = []
    for came, where in injector.every(stride, act, cancel):
        struck += came
        for result in results:
            result.wait(LONG)
            assert result.ready(), where
        assert pool.apply_async(tasks.add, (3, 4)).get(LONG) == 7, where
    assert struck


class Alarm:
    """A handler that raises, once each time it is armed."""

    def __init__(self) -> None:
        self.armed = False

    def __call__(self, *_: object) -> None:
        if self.armed:
            self.armed = False
            raise Struck


@pytest.mark.parametrize("number", [signal.SIGALRM, signal.SIGUSR1, signal.SIGRTMAX])
def test_a_handler_of_any_signal_may_raise_during_calls(pool: Pool, number: int) -> None:
    """At random moments, without tracing."""
    before, alarm, struck = workers(pool), Alarm(), 0
    old = signal.signal(number, alarm)
    over = threading.Event()
    victim = threading.main_thread().ident
    assert victim is not None

    def ring() -> None:
        while not over.wait(0.0007):
            signal.pthread_kill(victim, number)

    ringing = threading.Thread(target=ring)
    ringing.start()
    try:
        for each in range(300):
            alarm.armed = True
            try:
                assert pool.apply(tasks.add, (each, 1)) == each + 1
                assert pool.map(abs, range(-3, 0), 1) == [3, 2, 1]
            except Struck:
                struck += 1
            alarm.armed = False
    finally:
        over.set()
        ringing.join()
        signal.signal(number, old)
    assert struck > 20
    assert pool.apply_async(tasks.add, (3, 4)).get(LONG) == 7
    assert workers(pool) == before


# CPython counts a new thread as its creator until it runs: an exception may end a deputy at its start.
# Another is started then.
@pytest.mark.filterwarnings("ignore:Exception ignored in thread:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("main", [True, False])
def test_an_exception_that_another_thread_raises(pool: Pool, main: bool) -> None:
    before = workers(pool)
    ready, over = threading.Event(), threading.Event()
    victims: list[int] = []
    struck: list[int] = []
    armed: list[bool] = []

    def work() -> None:
        victims.append(threading.get_ident())
        ready.set()
        for each in range(300):
            try:
                armed.append(True)
                assert pool.apply(tasks.add, (each, 1)) == each + 1
                assert pool.map(abs, range(-3, 0), 1) == [3, 2, 1]
                armed.clear()
            except Struck:
                struck.append(each)
        over.set()

    def shoot() -> None:
        assert ready.wait(LONG)
        while not over.wait(0.001):
            if armed:
                armed.clear()
                injector.raise_in(victims[0], Struck)

    one, other = (shoot, work) if main else (work, shoot)
    thread = threading.Thread(target=one)
    thread.start()
    try:
        other()
    except Struck:  # the last of them, which came late
        over.set()
    thread.join()
    assert len(struck) > 20
    assert pool.apply_async(tasks.add, (3, 4)).get(LONG) == 7
    assert workers(pool) == before


def test_a_stack_that_is_nearly_full(pool: Pool) -> None:
    """At every stack depth: an answer, or a RecursionError in the caller."""
    before, found = workers(pool), []

    def at(depth: int) -> None:
        if depth:
            at(depth - 1)
        else:
            found.append(pool.apply(tasks.add, (1, 2)))

    limit = sys.getrecursionlimit()
    here = len(__import__("inspect").stack(0))
    full = 0
    for depth in range(limit - here - 300, limit - here + 10, 3):
        try:
            at(depth)
        except RecursionError:
            full += 1
    assert full
    assert set(found) == {3}
    assert pool.apply_async(tasks.add, (3, 4)).get(LONG) == 7
    assert workers(pool) == before
