"""Which thread leads, follows and is woken; the test controls the work."""

from __future__ import annotations

import random
import select
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from math import inf

import pytest

from nearfar.net import driver, interrupts
from nearfar.net.driver import Busy, Driver, Events, Hold
from nearfar.net.process import Waker
from tests.support import injector
from tests.support.waiting import eventually

LONG = 60.0
"""Seconds that nothing here takes, unless a thread was not woken."""


class Bench:
    """Work whose outcomes the test supplies: a turn finds those in `found`, and `tell` delivers them."""

    def __init__(self) -> None:
        self.waker = Waker()
        self.found: deque[Callable[[], object]] = deque()
        self.unsaid: deque[Callable[[], object]] = deque()
        self.over = self.failed = False
        self._due = inf
        self.on_deadline: Callable[[], object] = bool
        self.ended: list[BaseException | None] = []
        self.polls = 0
        self.polling: int | None = None
        self.hold = Hold("inside")
        self.driver = Driver(self, self.hold, self.waker, "bench")

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        self.polls += 1
        if self.waker.fileno() < 0:
            return []
        if timeout == 0:  # of a thread that need not lead
            return []
        assert self.polling in (None, threading.get_ident()), "two threads poll"
        poll = select.poll()
        poll.register(self.waker.fileno(), select.POLLIN)
        before, self.polling = self.polling, threading.get_ident()
        try:
            return poll.poll(None if timeout is None else timeout * 1000)
        finally:
            self.polling = before

    def turn(self, events: Events) -> bool:
        if events:
            self.waker.clear()
        while self.found:
            self.unsaid.append(self.found.popleft())
        return bool(self.unsaid)

    def tell(self) -> bool:
        told = False
        while self.unsaid:
            told = True
            try:
                self.unsaid.popleft()()
            except IndexError:
                break
        return told

    @property
    def untold(self) -> bool:
        return False

    @property
    def due(self) -> float:
        due = self._due
        self.on_deadline()
        return due

    @due.setter
    def due(self, due: float) -> None:
        self._due = due

    def bring(self, outcome: Callable[[], object]) -> None:
        """Supply an outcome, which the next turn finds."""
        self.found.append(outcome)
        self.waker.wake()

    def end(self, error: BaseException | None) -> None:
        self.ended.append(error)

    def stop(self) -> None:
        self.over = True
        self.driver.join()


@pytest.fixture(autouse=True)
def unexposed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads wait without a deputy; only interrupted ones have a profiler, and therefore a deputy."""
    monkeypatch.setattr(interrupts, "_raiser_is_in_use", bool)


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A driver without its background thread, which could compensate for a caller's mistake."""
    made = Bench()
    yield made
    made.waker.close()


@pytest.fixture
def watched() -> Iterator[Bench]:
    """A driver with its background thread."""
    made = Bench()
    made.driver.start()
    yield made
    made.stop()
    assert made.ended == [None]


def wait(bench: Bench, ready: Callable[[], bool], timeout: float) -> bool:
    return interrupts.safely(partial(bench.driver.wait_until, ready, time.monotonic() + timeout))


class Waiting:
    """A thread in `wait_until`, or in `do`."""

    def __init__(
        self,
        bench: Bench,
        ready: Callable[[], bool],
        timeout: float = LONG,
        do: Callable[[], bool] | None = None,
    ) -> None:
        self.met: bool | None = None
        self.error: BaseException | None = None
        self._do: Callable[[], bool] = do or (lambda: wait(bench, ready, timeout))
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.met = self._do()
        except BaseException as error:
            self.error = error

    def result(self) -> bool | None:
        self.thread.join(LONG)
        assert not self.thread.is_alive()
        return self.met


def leader(bench: Bench, ready: Callable[[], bool], timeout: float = LONG) -> Waiting:
    made = Waiting(bench, ready, timeout)
    assert eventually(lambda: bench.polling == made.thread.ident)
    return made


def follower(bench: Bench, ready: Callable[[], bool], timeout: float = LONG) -> Waiting:
    count = len(bench.driver._followers)
    made = Waiting(bench, ready, timeout)
    assert eventually(lambda: len(bench.driver._followers) > count)
    return made


def test_a_single_waiting_thread_leads(bench: Bench) -> None:
    came = threading.Event()
    first = leader(bench, came.is_set)
    bench.bring(came.set)
    assert first.result()


def test_a_wait_ends_at_its_timeout(bench: Bench) -> None:
    assert not wait(bench, bool, 0)
    assert not wait(bench, bool, 0.01)
    came = threading.Event()
    first = leader(bench, came.is_set)
    assert not wait(bench, bool, 0)
    assert not wait(bench, bool, 0.01)
    bench.bring(came.set)
    assert first.result()


def test_the_leader_wakes_threads_with_an_answer_and_passes_on_the_lead(bench: Bench) -> None:
    came = [threading.Event() for _ in range(3)]
    first = leader(bench, came[0].is_set)
    second, third = follower(bench, came[1].is_set), follower(bench, came[2].is_set)
    bench.bring(came[1].set)
    assert second.result()
    bench.bring(came[0].set)
    assert first.result()
    assert eventually(lambda: bench.polling == third.thread.ident)
    bench.bring(came[2].set)
    assert third.result()


def test_an_answer_before_a_follower_sleeps_is_noticed(bench: Bench) -> None:
    came, done = threading.Event(), threading.Event()
    first = leader(bench, done.is_set)
    asked: list[bool] = []

    def ready() -> bool:
        """The first time, the answer arrives just after the check, and the leader sleeps again."""
        asked.append(came.is_set())
        if len(asked) == 1:
            bench.bring(came.set)
            assert came.wait(LONG)
            assert eventually(lambda: bench.polling is not None)
        return asked[-1]

    began = time.monotonic()
    assert wait(bench, ready, LONG)
    assert time.monotonic() - began < LONG / 2
    bench.bring(done.set)
    assert first.result()


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_new_leader_delivers_outcomes_of_an_interrupted_one(bench: Bench) -> None:
    came = threading.Event()
    first = leader(bench, came.is_set)
    second = follower(bench, came.is_set)
    bench.found += [interrupt, came.set]
    bench.waker.wake()
    assert second.result()
    first.thread.join()
    assert isinstance(first.error, KeyboardInterrupt)


def test_a_new_leader_wakes_followers_of_an_interrupted_one(bench: Bench) -> None:
    came, never = threading.Event(), threading.Event()
    first, second = leader(bench, never.is_set), follower(bench, never.is_set)
    third = follower(bench, came.is_set)
    bench.found += [came.set, interrupt]
    bench.waker.wake()
    assert third.result()
    bench.bring(never.set)
    assert second.result()
    first.thread.join()
    assert isinstance(first.error, KeyboardInterrupt)


def test_an_earlier_deadline_is_noticed_while_the_leader_falls_asleep(bench: Bench) -> None:
    """The leader has read the old deadline, and does not sleep yet."""
    came = threading.Event()

    def nearer() -> None:
        bench.on_deadline = bool
        bench.found.append(came.set)
        bench.driver.wake_within(0, time.monotonic())

    bench.due = time.monotonic() + LONG
    bench.on_deadline = nearer
    began = time.monotonic()
    assert wait(bench, came.is_set, LONG)
    assert time.monotonic() - began < LONG / 2


def test_an_earlier_deadline_wakes_the_leader(bench: Bench) -> None:
    came = threading.Event()
    first = leader(bench, came.is_set)
    bench.found.append(came.set)
    bench.driver.wake_within(inf, time.monotonic())
    assert bench.polling is not None
    bench.driver.wake_within(0, time.monotonic())
    assert first.result()


def test_a_callback_of_the_leader_may_wait(bench: Bench) -> None:
    inner, outer = threading.Event(), threading.Event()

    def callback() -> None:
        bench.bring(inner.set)
        assert wait(bench, inner.is_set, LONG)
        outer.set()

    bench.bring(callback)
    assert wait(bench, outer.is_set, LONG)


def test_a_callback_of_the_leader_may_end_the_work() -> None:
    bench = Bench()
    bench.driver.start()
    came = threading.Event()

    def callback() -> None:
        bench.stop()
        came.set()

    bench.bring(callback)
    assert wait(bench, came.is_set, LONG)
    bench.driver.join()
    assert bench.waker.fileno() == -1


def test_the_background_thread_delivers_when_no_thread_waits(watched: Bench) -> None:
    for _ in range(5):
        came = threading.Event()
        watched.bring(came.set)
        assert came.wait(LONG)


@pytest.mark.parametrize("waits", [False, True], ids=["helps", "waits"])
def test_a_leader_sees_what_the_handler_of_a_signal_has_received_for_it(bench: Bench, waits: bool) -> None:
    outer, inner = threading.Event(), threading.Event()

    def handle(signum: int, frame: object) -> None:
        bench.found.extend([outer.set, inner.set])
        if waits:
            bench.waker.wake()
            assert wait(bench, inner.is_set, LONG)
        else:
            interrupts.safely(bench.driver.help)

    def strike() -> None:
        assert eventually(lambda: bench.polling == main)
        signal.pthread_kill(main, signal.SIGUSR1)

    main = threading.get_ident()
    before = signal.signal(signal.SIGUSR1, handle)
    other = threading.Thread(target=strike)
    other.start()
    try:
        began = time.monotonic()
        assert wait(bench, outer.is_set, LONG)
        assert time.monotonic() - began < LONG / 2
    finally:
        other.join()
        signal.signal(signal.SIGUSR1, before)


def test_a_finalizer_in_a_turn_requests_another_and_cannot_wait(bench: Bench) -> None:
    turns: list[bool] = []

    def turn(events: Events) -> bool:
        turns.append(bench.driver.inside)
        bench.due = inf
        if len(turns) == 1:
            bench.driver.help()
            with pytest.raises(Busy, match="inside"):
                bench.driver.wait_until(bool, time.monotonic() + LONG)
            assert bench.driver.wait_until(lambda: True)
        return False

    bench.__dict__["turn"] = turn
    bench.driver.help()
    assert turns == [True, True]
    assert not bench.driver.inside


def test_a_finalizer_in_a_change_of_the_state_has_the_leader_take_a_turn(bench: Bench) -> None:
    came = threading.Event()
    first = leader(bench, came.is_set)
    with bench.hold:
        bench.found.append(came.set)
        bench.driver.help()
        with pytest.raises(Busy, match="inside"):
            bench.driver.wait_until(bool)
    assert first.result()


def test_a_nested_wait_of_a_follower_takes_over_the_lead(bench: Bench) -> None:
    """Given a follower that waits again, in the handler of a signal, and a leader that leaves."""
    led, nested, outer = threading.Event(), threading.Event(), threading.Event()
    first = leader(bench, led.is_set)

    def wait_twice() -> bool:
        """As a handler does that runs in the first wait of this thread."""
        mine = driver._Follower(outer.is_set, threading.get_ident())
        bench.driver._followers.append(mine)
        met = wait(bench, nested.is_set, LONG)
        bench.driver._followers.remove(mine)
        return met

    second = Waiting(bench, bool, do=wait_twice)
    assert eventually(lambda: len(bench.driver._followers) == 2)
    bench.bring(led.set)
    assert first.result()
    bench.bring(nested.set)
    assert second.result()


def test_the_background_thread_leads_while_another_one_only_helps(watched: Bench) -> None:
    """Given a thread that takes turns all the time, as one does that submits calls, and never polls."""
    assert not wait(watched, bool, 0.01)
    until = time.monotonic() + LONG
    while watched.polling != watched.driver._background_ident:
        assert time.monotonic() < until
        watched.driver.help()


def test_the_background_thread_delivers_what_a_helping_thread_found(watched: Bench) -> None:
    for _ in range(20):
        came = threading.Event()
        watched.found.append(came.set)
        while watched.found:
            watched.driver.lead_once()
        assert came.wait(LONG)


def test_the_background_thread_yields_to_a_waiting_thread(watched: Bench) -> None:
    assert eventually(lambda: watched.polling is not None)
    came = threading.Event()
    first = leader(watched, came.is_set)
    watched.bring(came.set)
    assert first.result()


@pytest.mark.slow
def test_the_background_thread_wakes_up_when_a_long_lead_ends(watched: Bench) -> None:
    done, came = threading.Event(), threading.Event()
    first = leader(watched, done.is_set)
    assert eventually(lambda: watched.driver._deep_sleep)
    watched.bring(done.set)
    assert first.result()
    watched.bring(came.set)
    assert came.wait(LONG)


@pytest.mark.slow
def test_the_background_thread_takes_the_turns_of_a_leader_that_does_not(
    watched: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a leader in a long signal handler, or as here, in a poll that does not end at the deadline."""
    monkeypatch.setattr(driver, "LATE", 0.01)
    done, came = threading.Event(), threading.Event()
    first = leader(watched, done.is_set)
    assert eventually(lambda: watched.driver._deep_sleep)
    watched.found.append(came.set)
    watched._due = time.monotonic()
    assert eventually(lambda: not watched.found)
    watched._due = inf
    assert came.wait(LONG)
    watched.bring(done.set)
    assert first.result()


def test_a_thread_in_a_turn_takes_another_for_one_that_helps(bench: Bench) -> None:
    turns: list[int] = []

    def turn(events: Events) -> bool:
        turns.append(threading.get_ident())
        if len(turns) == 1:
            other = threading.Thread(target=bench.driver.help)
            other.start()
            other.join()  # it does not wait for this turn
        return False

    bench.__dict__["turn"] = turn
    bench.driver.help()
    assert turns == [threading.get_ident()] * 2


def test_the_end_of_the_background_thread_reports_its_error() -> None:
    """Given work that fails to deliver."""
    bench = Bench()
    error = KeyError("a fault")

    def fail() -> bool:
        raise error

    bench.__dict__["tell"] = fail
    bench.driver.start()
    assert eventually(lambda: not bench.driver.running)
    assert bench.ended == [error]
    assert bench.waker.fileno() == -1


def test_a_wait_after_the_end_does_not_spin() -> None:
    bench = Bench()
    bench.driver.start()
    bench.stop()
    before = bench.polls
    assert not wait(bench, bool, 0.1)
    assert bench.polls - before < 50


@pytest.fixture(params=["deputy", "signal"])
def act(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], object]]:
    """The interruption: an exception at any bytecode, or a signal."""
    yield from injector.striking(request.param, monkeypatch)


STRIDES = [17, pytest.param(1, marks=pytest.mark.slow)]


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("others", [0, 2])
def test_an_exception_at_any_bytecode_of_a_lead(others: int, stride: int, act: Callable[[], object]) -> None:
    bench = Bench()
    done, end = threading.Event(), threading.Event()
    followers: list[Waiting] = []

    def bring_all() -> None:
        """Called by the leader: others follow now, and then its own answer arrives."""
        bench.on_deadline = bool
        followers.extend(follower(bench, end.is_set) for _ in range(others))
        bench.found.append(done.set)
        bench.waker.wake()

    def lead() -> None:
        done.clear()
        end.clear()
        bench.on_deadline = bring_all
        wait(bench, done.is_set, LONG)

    def end_it(where: object) -> None:
        bench.on_deadline = bool
        bench.bring(end.set)
        assert all(each.result() for each in followers), where
        followers.clear()

    struck = 0
    for came, where in injector.every(stride, act, lead):
        struck += came
        end_it(where)
        assert wait(bench, end.is_set, LONG), where
        assert eventually(lambda: bench.driver._leader is None), where
        assert not bench.driver._followers, where
    assert struck
    end_it("the last time")
    bench.waker.close()


@pytest.mark.parametrize("stride", STRIDES)
def test_an_exception_at_any_bytecode_of_a_follower(stride: int, act: Callable[[], object]) -> None:
    bench = Bench()
    done, end = threading.Event(), threading.Event()
    first = leader(bench, end.is_set)
    struck = 0

    def follow() -> None:
        done.clear()
        wait(bench, done.is_set, LONG)

    def bring() -> None:
        while not over.wait(0.001):
            bench.bring(done.set)

    over = threading.Event()
    bringing = threading.Thread(target=bring)
    bringing.start()
    for came, where in injector.every(stride, act, follow):
        struck += came
        assert bench.polling is not None or eventually(lambda: bench.polling is not None), where
        assert eventually(lambda: not bench.driver._followers), where
    over.set()
    bringing.join()
    bench.bring(end.set)
    assert first.result()
    assert struck
    assert eventually(lambda: bench.driver._leader is None)
    bench.waker.close()


@pytest.mark.parametrize("stride", STRIDES)
def test_an_exception_at_any_bytecode_wakes_the_background_thread(
    stride: int, act: Callable[[], object], watched: Bench
) -> None:
    for _, where in injector.every(stride, act, lambda: wait(watched, bool, 0.001)):
        came = threading.Event()
        watched.bring(came.set)
        assert came.wait(LONG), where


@pytest.mark.parametrize("seed", range(3))
def test_many_threads(watched: Bench, seed: int) -> None:
    """Each supplies its own answer, or another thread's, and waits, polls and helps at random."""
    until = time.monotonic() + 1
    slow: list[float] = []

    def one(number: int) -> None:
        dice = random.Random(f"{seed}.{number}")
        while time.monotonic() < until:
            came = threading.Event()
            how, due = dice.randrange(5), inf
            if how == 0:  # found by a turn of a thread that does not wait
                watched.found.append(came.set)
                interrupts.safely(watched.driver.help)
            elif how == 1:  # told by who neither leads nor follows
                came.set()
            elif how == 2:  # at a moment that comes nearer
                watched.found.append(came.set)
                due = time.monotonic()
                watched.driver.wake_within(0, due)
            else:
                watched.bring(came.set)
            if dice.random() < 0.2:
                watched.driver.lead_once()
            if dice.random() < 0.2:
                wait(watched, came.is_set, dice.choice([0, 0.0001, 0.001]))
            began = time.monotonic()
            if not wait(watched, came.is_set, 5) or time.monotonic() - began > 3:
                slow.append(time.monotonic() - began)
            if due < inf and watched._due == due:  # not another thread's, which still waits for it
                watched.due = inf

    threads = [threading.Thread(target=one, args=(number,)) for number in range(12)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not slow


def test_a_hold_admits_one_thread_and_no_nested_call() -> None:
    alone = Hold("inside")
    assert not alone.here

    def outer() -> tuple[bool, str, str]:
        return alone.here, alone("not now", str, "done"), alone.look(lambda: "seen")

    assert alone((False, "", ""), outer) == (True, "not now", "seen")
    assert alone("not now", str, "done") == "done"
    with pytest.raises(IndexError):
        alone(0, lambda: [][0])
    assert alone("not now", str, "done") == "done"

    def nested() -> None:
        with alone:
            pass

    with pytest.raises(Busy, match="inside"):
        alone(None, nested)


def test_a_hold_that_is_given_up_admits_another_thread() -> None:
    alone = Hold("inside")
    found: list[str] = []
    with alone:
        held = alone.give_up()
        other = threading.Thread(target=lambda: found.append(alone("", str, "done")))
        other.start()
        other.join(LONG)
        alone.take_back(held)
        assert alone.here
    assert found == ["done"]
