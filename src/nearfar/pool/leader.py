"""Who does a pool's I/O: the caller who waits, and a thread in the background when nobody waits.

Handing an answer from an I/O thread to the caller costs two changes of thread and a fight for the
interpreter's lock: more than the task. So the first caller who waits *leads*: it polls and dispatches by
itself, for all. Others who wait follow: the leader wakes each whose answer has come, and one takes over when
it leaves. The background thread leads when no caller has for a while, and yields to one who comes.

No exception may tear what a leader does. A caller in the main thread holds signals back but for while it
sleeps; in the place of one to whom more than that may happen, a deputy waits (see `nearfar.net.deputy`).

::

    caller A  --wait_until--> leads: poll, step, tell, wake whom it concerns ... leaves --> promotes B
    caller B  --wait_until--> follows: sleeps on its own lock
    background                leads while nobody waits; yields to A; comes back after `GRACE` without a leader
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
from typing import Any, Protocol

from nearfar.net.deputy import Errand, errand_here, ours, safely
from nearfar.net.shield import Shield
from nearfar.net.waker import Waker

GRACE = 0.005
"""Seconds without a leader after which the background thread leads."""
SHALLOW = 20
"""Looks, `GRACE` apart, after which the background thread sleeps until the leader leaves."""


class Work(Protocol):
    """What a leader does. `poll` is the only one that waits; only one thread at a time calls it."""

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """Wait for something to do, up to `timeout` seconds."""

    def send(self) -> None:
        """Do what was handed in and waits here, if anything. From any thread."""

    def step(self, events: list[tuple[int, int]]) -> None:
        """Do it. From any thread. Must not raise but for what signals raise."""

    def tell(self) -> bool:
        """Tell those concerned what has come of it, if anything. From any thread: callers' callbacks run in
        the background thread alone.
        """

    @property
    def untold(self) -> bool:
        """Whether there is something that the background thread is to tell."""

    def deadline(self) -> float | None:
        """When `step` has to be called without an event; by `time.monotonic`. From any thread."""

    failed: bool
    """Whether a step has failed, after which nobody may be told what others wait for."""
    over: bool
    """True once there will never be anything to do again."""


class _Follower:
    __slots__ = ("lock", "ready", "thread", "woken")

    def __init__(self, ready: Callable[[], bool], thread: int) -> None:
        self.ready = ready
        self.thread = thread
        self.woken = False
        self.lock = threading.Lock()
        self.lock.acquire()


class Leadership:
    """See the module. `waker` must be among what `work.poll` waits for.

    Whoever tells something without leading wakes the leader afterwards: it may wait for that itself, and it
    alone wakes followers. What a finalizer does may come at any point of a thread: hence the locks that a
    thread may take twice.
    """

    def __init__(self, work: Work, waker: Waker, name: str) -> None:
        self._work = work
        self._waker = waker
        self._seats = threading.RLock()
        self._leader: int | None = None
        self._followers: deque[_Follower] = deque()
        """Each takes itself out."""
        self._background = threading.Thread(target=ours(self._watch), name=name, daemon=True)
        self._background_runs = False
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

    @property
    def in_background(self) -> bool:
        """Whether callbacks are to be run here: this is the background thread, or there is none any more."""
        return not self._background_runs or threading.get_ident() == self._background.ident

    def call_background(self) -> None:
        """There is something for the background thread to tell."""
        self._calls.put(None)
        if self._background_leads:
            self._waker.wake()

    def join(self) -> None:
        """Wait for the background thread, once `work` is over. Not from that thread itself, and not from one
        that leads, in a callback: that thread ends when this one does not lead any more.
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
        errand = errand_here()
        if errand is not None:
            errand.stir = self._waker.wake
            ready = partial(_ready_or_abandoned, errand, ready)
        deadline = None if timeout is None else monotonic() + timeout
        self._work.send()
        thread = threading.get_ident()
        if thread == self._background.ident:
            return self._wait_in_callback(thread, ready, deadline)
        return self._lead_or_follow(thread, ready, deadline)

    def _wait_in_callback(self, thread: int, ready: Callable[[], bool], deadline: float | None) -> bool:
        """In the background thread: perhaps for something that no other thread tells."""
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
        """Do what is there to do, without waiting, if nobody else is about to. Tells nobody of it."""
        if self._leader is None or (self._background_leads and self.asleep_until):
            safely(self._help)

    def _help(self) -> None:
        thread, follower = threading.get_ident(), None
        try:
            if not self._take_over(thread):
                # The background thread, which yields. It has to be waited for, or it would wait long for the
                # interpreter's lock: whoever hands in one call after another has that all the time.
                follower = _Follower(bool, thread)
                if not self._background_leads or not self._follow(follower, monotonic() + GRACE):
                    return
            self._steps += 1
            self._work.step(self._work.poll(0))
        finally:
            self._leave(thread, follower)

    def reconsider(self) -> None:
        """The work's deadline may have come nearer than the leader thinks."""
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
        self._tell()  # what the last leader, or who only handed in, has found and not told
        while not ready():
            if work.failed:
                return False
            timeout = self._patience(deadline)
            depth = _shield.lower()
            try:
                if work.over:  # another thread still tells what we wait for
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
        """Seconds that the leader may sleep; notes until when."""
        self.asleep_until = inf  # before the look: who brings the deadline nearer after it wakes us
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
        """Neither lead nor follow any more."""
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
        """Sleep until it is ready, or its time is over; True if it is to lead now."""
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
        thread = threading.get_ident()
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
        """Not while somebody may be polling on it."""
        while not self._take_over(thread):
            self._waker.wake()
            self._sleep_until_called(GRACE)
        self._waker.close()
        self._leave(thread)

    def _may_leave(self) -> bool:
        return self._asked_to_yield or bool(self._followers) or self._work.over

    def _stand_by(self) -> None:
        """Return when nobody has led for `GRACE`."""
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
        """Tell what those who only hand in have found, and what is to be told in the background."""
        if self._work.tell() and self._leader is not None:
            self._waker.wake()

    def _sleep_until_called(self, seconds: float | None) -> None:
        with suppress(Empty):
            self._calls.get(timeout=seconds)


_shield = Shield()
"""Up whenever this waits or helps, but for while it sleeps."""


def _ready_or_abandoned(errand: Errand[Any], ready: Callable[[], bool]) -> bool:
    return errand.abandoned or ready()
