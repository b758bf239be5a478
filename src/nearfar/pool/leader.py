"""Who does a pool's I/O: the caller who waits, and a thread in the background when nobody waits.

Handing an answer from an I/O thread to the caller costs two changes of thread and a fight for the
interpreter's lock: more than the task. So the first caller who waits *leads*: it polls and dispatches by
itself, for all. Others who wait follow: the leader wakes each whose answer has come, and one takes over when
it leaves. The background thread leads when no caller has for a while, and yields to one who comes.

::

    caller A  --wait_until--> leads: poll, step, tell, wake whom it concerns ... leaves --> promotes B
    caller B  --wait_until--> follows: sleeps on its own lock
    background                leads while nobody waits; yields to A; comes back after `GRACE` without a leader
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from math import inf
from time import monotonic, sleep
from typing import Protocol

from nearfar.net.waker import Waker

GRACE = 0.005
"""Seconds without a leader after which the background thread leads."""
SHALLOW = 20
"""Looks, `GRACE` apart, after which the background thread sleeps until the leader leaves."""


class Work(Protocol):
    """What a leader does. `poll` is the only one that waits; only one thread at a time calls it."""

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """Wait for something to do, up to `timeout` seconds."""

    def step(self, events: list[tuple[int, int]]) -> None:
        """Do it. From any thread. Must not raise but for what signals raise."""

    def tell(self) -> bool:
        """Tell those concerned what has come of it, if anything; runs callers' callbacks. From any thread."""

    def deadline(self) -> float | None:
        """When `step` has to be called without an event; by `time.monotonic`. From any thread."""

    @property
    def over(self) -> bool:
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
    alone wakes followers. Ctrl-C may come at any point: the lead is given up in two steps that both may be
    done twice, and each is.
    """

    def __init__(self, work: Work, waker: Waker, name: str) -> None:
        self._work = work
        self._waker = waker
        self._seats = threading.Lock()
        self._leader: int | None = None
        self._followers: deque[_Follower] = deque()
        """Each takes itself out."""
        self._background = threading.Thread(target=self._watch, name=name, daemon=True)
        self._background_leads = False
        self._asked_to_yield = False
        self._steps = 0
        self._asleep_until = 0.0
        """When the leader's poll ends at the latest."""
        self._deep_sleep = False
        self._left = threading.Semaphore(0)

    def start(self) -> None:
        """Start the background thread."""
        self._background.start()

    def join(self) -> None:
        """Wait for the background thread, once `work` is over. Not from that thread itself, and not from one
        that leads, in a callback: that thread ends when this one does not lead any more.
        """
        here = threading.get_ident()
        if self._background.is_alive() and here not in (self._background.ident, self._leader):
            self._left.release()
            self._waker.wake()
            self._background.join()

    def wait_until(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """Lead or follow until `ready()`; False after `timeout` seconds (None: no limit)."""
        if ready():
            return True
        deadline = None if timeout is None else monotonic() + timeout
        thread = threading.get_ident()
        if self._leader == thread:  # in a callback that this thread runs while it leads
            return self._lead(ready, deadline)
        follower = None
        try:
            try:
                if not self._take_over(thread):
                    follower = _Follower(ready, thread)
                    if not self._follow(follower, deadline):
                        return ready()
                return self._lead(ready, deadline)
            finally:
                self._leave(thread, follower)
        finally:
            if follower is not None or self._leader == thread or self._deep_sleep:
                self._leave(thread, follower)

    def help(self) -> None:
        """Do what is there to do, without waiting, if nobody else is about to. Tells nobody of it."""
        if self._background_leads:
            self._ask_to_yield()
        if self._leader is not None:
            return
        thread = threading.get_ident()
        try:
            try:
                if self._take_over(thread):
                    self._steps += 1
                    self._work.step(self._work.poll(0))
            finally:
                self._leave(thread)
        finally:
            self._leave(thread)

    def reconsider(self) -> None:
        """The work's deadline may have come nearer than the leader thinks."""
        if not self._asleep_until:
            return
        deadline = self._work.deadline()
        if deadline is not None and deadline < self._asleep_until:
            self._waker.wake()

    # -- leading -----------------------------------------------------------------------------------

    def _take_over(self, thread: int) -> bool:
        with self._seats:
            if self._leader is not None:
                return False
            self._leader = thread
            return True

    def _lead(self, ready: Callable[[], bool], deadline: float | None) -> bool:
        self._tell()  # what the last leader, or who only handed in, has found and not told
        while not ready():
            timeout = self._patience(deadline)
            if self._work.over:  # another thread still tells what we wait for
                sleep(GRACE if timeout is None else min(timeout, GRACE))
            events = self._work.poll(timeout)
            self._asleep_until = 0.0
            self._steps += 1
            self._work.step(events)
            self._tell()
            if deadline is not None and monotonic() >= deadline:
                return ready()
        return True

    def _patience(self, deadline: float | None) -> float | None:
        """Seconds that the leader may sleep; notes until when."""
        self._asleep_until = inf  # before the look: who brings the deadline nearer after it wakes us
        due = self._work.deadline()
        if deadline is not None and (due is None or deadline < due):
            due = deadline
        if due is None:
            return None
        self._asleep_until = due
        return max(0.0, due - monotonic())

    def _tell(self) -> None:
        self._work.tell()
        if self._followers:
            with self._seats:
                for follower in self._followers:
                    if not follower.woken and follower.ready():
                        follower.woken = True
                        follower.lock.release()

    def _leave(self, thread: int, follower: _Follower | None = None) -> None:
        """Neither lead nor follow any more. May be said twice."""
        with self._seats:
            if follower is not None and follower in self._followers:
                self._followers.remove(follower)
            if self._leader == thread:
                self._leader = None
                for each in self._followers:
                    if not each.woken:
                        # no call before the release is done: a signal's handler runs at one
                        self._leader = each.thread
                        each.woken = True
                        each.lock.release()
                        break
        if self._deep_sleep and self._leader is None:
            self._left.release()

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
        follower.lock.acquire(timeout=-1 if deadline is None else max(0.0, deadline - monotonic()))
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
            self._close_waker(thread)

    def _close_waker(self, thread: int) -> None:
        """Not while somebody may be polling on it."""
        while not self._take_over(thread):
            self._waker.wake()
            self._left.acquire(timeout=GRACE)
        self._waker.close()
        self._leave(thread)

    def _may_leave(self) -> bool:
        return self._asked_to_yield or bool(self._followers) or self._work.over

    def _stand_by(self) -> None:
        """Return when nobody has led for `GRACE`."""
        looks = 0
        while not self._work.over:
            steps = self._steps
            self._left.acquire(timeout=GRACE)
            if self._work.tell() and self._leader is not None:  # what those who only hand in have found
                self._waker.wake()
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
            self._left.acquire()
            self._deep_sleep = False
