"""Which thread does a pool's I/O: a waiting caller, or a background thread when no caller waits.

Passing an answer from an I/O thread to the caller costs two thread switches and contention for the GIL: more
than the task. So the first caller that waits *leads*: it polls and dispatches for all. Other waiting callers
follow: the leader wakes each follower whose answer has arrived, and one of them takes over when the leader
leaves. The background thread leads when no caller has led for `GRACE`, and yields to a caller that arrives.

No exception may interrupt a leader's step. A caller in the main thread blocks signals except while it sleeps;
for a thread in which other exceptions may be raised as well, a deputy waits (see `nearfar.net.interrupts`).

::

    caller A  --wait_until--> leads: poll, step, tell, wake ready followers ... leaves --> promotes B
    caller B  --wait_until--> follows: sleeps on its own lock
    background                leads while no caller waits; yields to A; leads again after `GRACE`
"""

from __future__ import annotations

import threading
from _queue import Empty, SimpleQueue
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import inf
from time import monotonic, sleep
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from nearfar.net.interrupts import DeferredCall, Shield, deferred_call_here, ours, safely
from nearfar.net.process import Waker

GRACE = 0.005
"""Seconds without a leader after which the background thread leads."""
SHALLOW = 20
"""Checks, `GRACE` apart, after which the background thread sleeps until the leader leaves."""


class Work(Protocol):
    """What a leader does. `poll` is the only one that waits; only one thread at a time calls it."""

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """Wait for something to do, up to `timeout` seconds."""

    def send(self) -> None:
        """Process submitted calls that wait here, if any. From any thread."""

    def step(self, events: list[tuple[int, int]]) -> None:
        """Process these events. From any thread. Must raise nothing but what signal handlers raise."""

    def tell(self) -> bool:
        """Deliver outcomes, if there are any. From any thread: callers' callbacks run in the background
        thread only.
        """

    @property
    def untold(self) -> bool:
        """Whether there are outcomes that the background thread must deliver."""

    def deadline(self) -> float | None:
        """When `step` must be called without an event (`time.monotonic`). From any thread."""

    failed: bool
    """Whether a step has failed; after that, outcomes may never be delivered."""
    over: bool
    """True once there is no work left and there can be no more."""


class _Follower:
    __slots__ = ("lock", "ready", "thread", "woken")

    def __init__(self, ready: Callable[[], bool], thread: int) -> None:
        self.ready = ready
        self.thread = thread
        self.woken = False
        self.lock = threading.Lock()
        self.lock.acquire()


class PoolDriver:
    """See the module. `waker` must be among what `work.poll` waits for.

    A thread that delivers outcomes without leading wakes the leader afterwards: the leader may wait for them
    itself, and only the leader wakes followers. A finalizer may run at any point of a thread: hence the
    reentrant locks.
    """

    def __init__(self, work: Work, waker: Waker, name: str) -> None:
        self._work = work
        self._waker = waker
        self._seats = threading.RLock()
        self._leader: int | None = None
        self._followers: deque[_Follower] = deque()
        """The followers; each removes itself."""
        self._background = threading.Thread(target=ours(self._watch), name=name, daemon=True)
        self._background_runs = False
        self._background_ident: int | None = None
        self._background_leads = False
        self._asked_to_yield = False
        self._steps = 0
        self.asleep_until = 0.0
        """When the leader's poll ends at the latest."""
        self._deep_sleep = False
        self._calls: SimpleQueue[None] = SimpleQueue()
        """Wakes the background thread while it does not lead."""

    def start(self) -> None:
        """Start the background thread."""
        self._background_runs = True
        self._background.start()
        self._background_ident = self._background.ident

    @property
    def in_background(self) -> bool:
        """Whether callbacks run in this thread: it is the background thread, or that has ended."""
        return not self._background_runs or threading.get_ident() == self._background_ident

    def call_background(self) -> None:
        """Have the background thread deliver outcomes."""
        self._calls.put(None)
        if self._background_leads:
            self._waker.wake()

    def join(self) -> None:
        """Wait for the background thread, once `work` is over. Returns at once in that thread itself, and in
        a callback of a leading thread: the background thread ends when this thread stops leading.
        """
        here = threading.get_ident()
        if self._background.is_alive() and here not in (self._background.ident, self._leader):
            self._calls.put(None)
            self._waker.wake()
            self._background.join()

    def wait_until(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """Lead or follow until `ready()`; False after `timeout` seconds (None: no limit)."""
        return safely(partial(self._wait_until, ready, timeout))

    def _wait_until(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        deferred_call = deferred_call_here()
        if deferred_call is not None:
            deferred_call.stir = self._waker.wake
            ready = partial(_ready_or_abandoned, deferred_call, ready)
        deadline = None if timeout is None else monotonic() + timeout
        self._work.send()
        thread = threading.get_ident()
        if thread == self._background_ident:
            return self._wait_in_callback(thread, ready, deadline)
        return self._lead_or_follow(thread, ready, deadline)

    def _wait_in_callback(self, thread: int, ready: Callable[[], bool], deadline: float | None) -> bool:
        """In the background thread: perhaps for an outcome that no other thread delivers."""
        while True:
            self._work.tell()
            if ready():
                return True
            if not self._lead_or_follow(thread, lambda: ready() or self._work.untold, deadline):
                return ready()

    def _lead_or_follow(self, thread: int, ready: Callable[[], bool], deadline: float | None) -> bool:
        if self._leader == thread:  # in a callback, or a signal's handler, while this thread leads
            return self._lead(ready, deadline)
        follower = None
        try:
            if not self._take_over(thread):
                follower = _Follower(ready, thread)
                if not self._follow(follower, deadline):
                    return ready()
            return self._lead(ready, deadline)
        finally:
            self._leave(thread, follower)

    def help(self) -> None:
        """Do one step without waiting, unless another thread is about to. Delivers no outcomes."""
        if self._leader is None or (self._background_leads and self.asleep_until):
            safely(self._help)

    def _help(self) -> None:
        thread, follower = threading.get_ident(), None
        try:
            if not self._take_over(thread):
                # The background thread, which yields. Wait for it, or it would wait long for the GIL: a
                # thread that # submits one call after another holds the GIL all the time.
                follower = _Follower(bool, thread)
                if not self._background_leads or not self._follow(follower, monotonic() + GRACE):
                    return
            self._steps += 1
            self._work.step(self._work.poll(0))
        finally:
            self._leave(thread, follower)

    def reconsider(self) -> None:
        """Wake the leader if the work's deadline is now earlier than the end of its poll."""
        deadline = self._work.deadline()
        if deadline is not None and deadline < self.asleep_until:
            self._waker.wake()

    # -- leading -----------------------------------------------------------------------------------

    def _take_over(self, thread: int) -> bool:
        with self._seats:
            if self._leader is not None:
                return False
            self._leader = thread
            return True

    def _lead(self, ready: Callable[[], bool], deadline: float | None) -> bool:
        work = self._work
        self._tell()  # outcomes that the last leader, or a submitting thread, found and did not deliver
        while not ready():
            if work.failed:
                return False
            timeout = self._patience(deadline)
            depth = _shield.lower()
            try:
                if work.over:  # another thread is still delivering what we wait for
                    sleep(GRACE if timeout is None else min(timeout, GRACE))
                    timeout = 0.0
                events = work.poll(timeout)
            finally:
                _shield.lift(depth)
            self.asleep_until = 0.0
            self._steps += 1
            work.step(events)
            self._tell()
            if deadline is not None and monotonic() >= deadline:
                return ready()
        return True

    def _patience(self, deadline: float | None) -> float | None:
        """Seconds that the leader may sleep; stores the end in `asleep_until`."""
        self.asleep_until = inf  # before reading it: a thread that makes the deadline earlier then wakes us
        due = self._work.deadline()
        if deadline is not None and (due is None or deadline < due):
            due = deadline
        if due is None:
            return None
        self.asleep_until = due
        return max(0.0, due - monotonic())

    def _tell(self) -> None:
        self._work.tell()
        if self._followers:
            with self._seats:
                for follower in tuple(self._followers):
                    if not follower.woken and follower.ready():
                        follower.woken = True
                        follower.lock.release()

    def _leave(self, thread: int, follower: _Follower | None = None) -> None:
        """Stop leading and following."""
        with self._seats:
            if follower is not None and follower in self._followers:
                self._followers.remove(follower)
            if self._leader == thread:
                self._leader = None
                for each in tuple(self._followers):
                    if not each.woken:
                        self._leader = each.thread
                        each.woken = True
                        each.lock.release()
                        break
        if self._deep_sleep and self._leader is None:
            self._calls.put(None)

    # -- following ---------------------------------------------------------------------------------

    def _follow(self, follower: _Follower, deadline: float | None) -> bool:
        """Sleep until it is ready, or until the deadline; True if this thread leads now."""
        with self._seats:
            if self._leader is None:
                self._leader = follower.thread
                return True
            self._followers.append(follower)
        if follower.ready():  # since before the leader could see it among the followers
            return False
        if self._background_leads:
            self._ask_to_yield()
        patience = -1 if deadline is None else max(0.0, deadline - monotonic())
        depth = _shield.lower()
        try:
            follower.lock.acquire(True, patience)
        finally:
            _shield.lift(depth)
        with self._seats:
            self._followers.remove(follower)
        return self._leader == follower.thread

    def _ask_to_yield(self) -> None:
        if not self._asked_to_yield:
            self._asked_to_yield = True
            self._waker.wake()

    # -- the background thread ---------------------------------------------------------------------

    def _watch(self) -> None:
        thread = self._background_ident = threading.get_ident()
        try:
            while not self._work.over:
                if self._take_over(thread):
                    self._background_leads = True
                    try:
                        self._lead(self._may_leave, None)
                    finally:
                        self._background_leads = False
                        self._asked_to_yield = False
                        self._leave(thread)
                self._stand_by()
        finally:
            self._background_runs = False
            self._close_waker(thread)

    def _close_waker(self, thread: int) -> None:
        """Close the waker once no thread can poll on it."""
        while not self._take_over(thread):
            self._waker.wake()
            self._sleep_until_called(GRACE)
        self._waker.close()
        self._leave(thread)

    def _may_leave(self) -> bool:
        return self._asked_to_yield or bool(self._followers) or self._work.over

    def _stand_by(self) -> None:
        """Return when no thread has led for `GRACE`."""
        looks = 0
        while not self._work.over:
            steps = self._steps
            self._sleep_until_called(GRACE)
            self._tell_for_others()
            if self._leader is None and self._steps == steps:
                return
            looks += 1
            if looks >= SHALLOW and self._leader is not None and self._steps == steps:
                self._sleep_deeply()
                looks = 0

    def _sleep_deeply(self) -> None:
        """Sleep until the leader leaves."""
        with self._seats:
            self._deep_sleep = self._leader is not None
        if self._deep_sleep:
            self._sleep_until_called(None)
            self._deep_sleep = False
            self._tell_for_others()

    def _tell_for_others(self) -> None:
        """Deliver the outcomes found by threads that only submit, and those for the background thread."""
        if self._work.tell() and self._leader is not None:
            self._waker.wake()

    def _sleep_until_called(self, seconds: float | None) -> None:
        with suppress(Empty):
            self._calls.get(timeout=seconds)


_shield = Shield()
"""Raised while a thread waits or helps, except while it sleeps."""


def _ready_or_abandoned(deferred_call: DeferredCall[Any], ready: Callable[[], bool]) -> bool:
    return deferred_call.abandoned or ready()


P = ParamSpec("P")
T = TypeVar("T")


class ReentrantGuard:
    """A lock that a garbage collection in the thread that holds it cannot deadlock on.

    Code under the lock may start a collection, in the same thread, and that may end an unreferenced pool,
    even this one. Only for code that runs `safely` (see `nearfar.net.interrupts`), or in nearfar's threads.
    """

    __slots__ = ("lock", "thread")

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.thread: int | None = None

    def __call__(self, otherwise: T, do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `do` returns; `otherwise`, without calling `do`, inside another call by this thread."""
        thread = threading.get_ident()
        with self.lock:
            if self.thread is not None:
                return otherwise
            self.thread = thread
            try:
                return do(*args, **kwargs)
            finally:
                self.thread = None

    def look(self, do: Callable[[], T]) -> T:
        """What `do` returns; `do` only reads, so it also runs inside another call by this thread."""
        return do() if self.here else cast(T, self(None, do))

    @property
    def here(self) -> bool:
        """Whether this thread is inside a call."""
        return self.thread == threading.get_ident()

    def forget_parent(self) -> None:
        """In a forked child: reset, since the thread that was inside a call does not exist there."""
        self.lock = threading.RLock()
        self.thread = None
