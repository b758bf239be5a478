"""Which thread does the I/O of a queue or a pool: a waiting caller, or a background thread when no caller
waits.

Passing an item or an answer from an I/O thread to the caller costs two thread switches and contention for the
GIL: more than a small task. So the first caller that waits *leads*: it polls, and takes the *turns*, for all.
In a turn, a thread sends what is due, and processes what has arrived. Other waiting callers follow: the
leader wakes each follower whose condition is met, and one of them takes over when the leader leaves. The
background thread leads when no caller has led for `GRACE`, and yields to a caller that arrives. A thread that
does not wait may take a turn, too; only one thread at a time does.

No exception may interrupt a turn. A caller in the main thread blocks signals except while it sleeps; for a
thread in which other exceptions may be raised as well, a deputy waits (see `nearfar.net.interrupts`).

::

    caller A  --wait_until--> leads: poll, turn, tell, wake ready followers ... leaves --> promotes B
    caller B  --wait_until--> follows: sleeps on its own lock
    caller C  --help--------> takes a turn, or has the thread that is in one take another
    background                leads while no caller waits; yields to A; leads again after `GRACE`
"""

from __future__ import annotations

import select
import threading
from _queue import Empty, SimpleQueue
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from threading import get_ident
from time import monotonic, sleep
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from nearfar.net.interrupts import DeferredCall, Shield, deferred_call_here, ours, safely
from nearfar.net.process import Waker

GRACE = 0.005
"""Seconds without a leader after which the background thread leads."""
SHALLOW = 20
"""Checks, `GRACE` apart, after which the background thread sleeps until the leader leaves."""
LATE = 0.25
"""Seconds after which the background thread takes an overdue turn although a caller leads: that may be in a
long signal handler."""

LOOK = b"\1"
"""What wakes a leader to check its deadline, and whether to yield: it takes no turn."""

Events = Sequence[tuple[int, int]]
"""Descriptors that are ready, each with the kind of its event."""
P = ParamSpec("P")
T = TypeVar("T")


class Busy(RuntimeError):
    """This thread is inside the code that it has called again, as a finalizer does."""


class Hold:
    """The lock of the state that turns change, a context manager. Signals must be deferred
    (`nearfar.net.interrupts`).

    A garbage collection may start anywhere, and a finalizer may use the same queue or pool: in a thread that
    holds the lock already, that raises `Busy` before anything is changed.
    """

    __slots__ = ("lock", "message", "thread")

    def __init__(self, message: str) -> None:
        """`message`: that of `Busy`."""
        self.lock = threading.RLock()
        self.thread: int | None = None
        """The thread that is inside (and does not wait)."""
        self.message = message

    def __enter__(self) -> None:
        self.lock.acquire()
        if self.thread is not None:
            self.lock.release()
            raise Busy(self.message)
        self.thread = get_ident()

    def __exit__(self, *_: object) -> None:
        self.thread = None
        self.lock.release()

    def __call__(self, otherwise: T, do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `do` returns; `otherwise`, without calling `do`, if this thread is inside already."""
        if self.here:
            return otherwise
        with self:
            return do(*args, **kwargs)

    def look(self, do: Callable[[], T]) -> T:
        """What `do` returns; `do` only reads, so it also runs if this thread is inside already."""
        return do() if self.here else cast(T, self(None, do))

    @property
    def here(self) -> bool:
        """Whether this thread is inside."""
        return self.thread == get_ident()

    def give_up(self) -> Any:
        """Release the lock until `take_back`."""
        self.thread = None
        return self.lock._release_save()  # type: ignore[attr-defined]

    def take_back(self, held: Any) -> None:
        """Acquire the lock again, with the value that `give_up` returned."""
        self.lock._acquire_restore(held)  # type: ignore[attr-defined]
        self.thread = get_ident()

    def forget_parent(self) -> None:
        """In a forked child: reset, since the thread that was inside does not exist there."""
        self.lock = threading.RLock()
        self.thread = None


class Work(Protocol):
    """What the driver's threads do. `poll` is the only one that waits."""

    due: float
    """When a turn must be taken without an event (`time.monotonic`; `inf`: never)."""
    failed: bool
    """Whether a turn has failed so that what callers wait for may never come."""

    @property
    def over(self) -> bool:
        """True once there is no work left and there can be no more."""

    def poll(self, timeout: float | None) -> Events:
        """Wait for something to do, up to `timeout` seconds; only the leader waits. The events include those
        of the driver's waker, which the turn must clear."""

    def turn(self, events: Events) -> object:
        """Send and read, and set `due`. `events` are empty if this thread does not lead. Returns something
        true if anything came that waiting threads may wait for. Must raise nothing."""

    @property
    def tell(self) -> Callable[[], bool]:
        """Delivers outcomes, if there are any, and returns whether there were (`bool`, if there never are).
        From any thread: callers' callbacks run in the background thread only."""

    @property
    def untold(self) -> bool:
        """Whether there are outcomes that the background thread must deliver."""

    def end(self, error: BaseException | None) -> None:
        """Called once by the background thread, when all work is over, or after an `error` of that thread."""


sleeps = [0]
"""How often a caller has slept, at any driver of this process. No attribute of the class: a change of that
costs all methods their caches."""


class _Follower:
    __slots__ = ("lock", "ready", "thread", "woken")

    def __init__(self, ready: Callable[[], bool], thread: int) -> None:
        self.ready = ready
        self.thread = thread
        self.woken = False
        self.lock = threading.Lock()
        self.lock.acquire()


class Driver:
    """See the module. `hold` guards the state of `work`; `waker` must be among what `work.poll` waits for.

    A thread that takes a turn without leading wakes the leader afterwards if anything came: the leader may
    wait for it itself, and only the leader wakes followers.

    A finalizer may run at any point of a thread, also in a turn: hence the reentrant locks. There it can
    request a turn, but not wait.
    """

    def __init__(self, work: Work, hold: Hold, waker: Waker, name: str) -> None:
        self._work = work
        self._hold = hold
        self._waker = waker
        self._woken_only = [(waker.fileno(), select.POLLIN)]
        """The events of a poll that ended only because of the waker."""
        self.turns = threading.RLock()
        """Held during a turn."""
        self.turned = 0.0
        """When the last turn ended."""
        self._turner: int | None = None
        self._again = False
        """A turn was requested: if a thread is in a turn, it takes one more."""
        self._woken = False
        """A turn is needed now, and a thread was woken for it."""
        self._seats = threading.RLock()
        self._leader: int | None = None
        self._leads = 0
        """How often a leader has polled."""
        self._followers: deque[_Follower] = deque()
        """The followers; each removes itself."""
        self._background = threading.Thread(target=ours(self._watch), name=name, daemon=True)
        self._background_runs = False
        self._background_ident: int | None = None
        self._background_leads = False
        self._asked_to_yield = False
        self._ended = False
        self.asleep_until = 0.0
        """When the leader's poll ends at the latest."""
        self._deep_sleep = False
        self._calls: SimpleQueue[None] = SimpleQueue()
        """Wakes the background thread while it does not lead."""
        self._afterwards: deque[Callable[[], object]] = deque()

    def start(self) -> None:
        """Start the background thread."""
        self._background_runs = True
        self._background.start()
        self._background_ident = self._background.ident

    @property
    def in_background(self) -> bool:
        """Whether callbacks run in this thread: it is the background thread, or that has ended."""
        return not self._background_runs or get_ident() == self._background_ident

    @property
    def running(self) -> bool:
        """Whether the background thread runs."""
        return self._background.is_alive()

    @property
    def inside(self) -> bool:
        """Whether this thread is in the middle of a turn, or of another change of the state, so that it
        cannot wait: called by a finalizer."""
        here = get_ident()
        owned: bool = self._seats._is_owned()  # type: ignore[attr-defined]
        return owned or here in (self._turner, self._hold.thread)

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the work to be over, and for the background thread to end; returns whether it has. Does
        not wait in that thread itself."""
        if self.running and get_ident() != self._background_ident:
            deadline = inf if timeout is None else monotonic() + timeout
            self.rouse()
            safely(partial(self.wait_until, lambda: self._work.over, deadline))
            self._calls.put(None)
            self._background.join(None if timeout is None else max(0.0, deadline - monotonic()))
        return not self.running

    # -- waking ------------------------------------------------------------------------------------

    def rouse(self) -> None:
        """Make a thread take a turn now, and check whether waiting threads are ready."""
        self._waker.wake()
        if self._leader is None:
            self._calls.put(None)

    def wake(self) -> None:
        """As `rouse`, once for several calls before a turn. Call with the lock of the state held."""
        if not self._woken:
            self._woken = True
            self.rouse()

    def wake_within(self, seconds: float, now: float) -> None:
        """Make a thread take a turn within `seconds`. Call with the lock of the state held."""
        if self._work.due > now + seconds:
            self._work.due = now + seconds
            if now + seconds < self.asleep_until:
                self._waker.wake(LOOK)

    def call_background(self) -> None:
        """Have the background thread deliver outcomes."""
        self._calls.put(None)
        if self._background_leads:
            self._waker.wake()

    def afterwards(self, do: Callable[[], object]) -> None:
        """Make the background thread call `do` between two turns. For a finalizer that runs in a turn."""
        self._afterwards.append(do)
        self.call_background()

    # -- turns -------------------------------------------------------------------------------------

    def help(self) -> None:
        """Take a turn in this thread; if a thread is in a turn, that one takes one more. Call with signals
        deferred, without the lock of the state."""
        self._again = True
        here = get_ident()
        if self._turner == here or self._hold.thread == here:  # a finalizer, in the middle of a change
            self._work.due = 0.0
            self._waker.wake(LOOK)
        elif self.turns.acquire(False):
            self._turn((), here)

    def _turn(self, events: Events, here: int) -> None:
        """Call in the thread `here` with `turns` held; releases it."""
        while True:
            self._again = self._woken = False
            self._turner = here
            try:
                came = self._work.turn(events)
            finally:
                self._turner = None
                self.turned = monotonic()
                self.turns.release()
            leader = self._leader
            if leader is not None and (leader != here or self.asleep_until):  # this one: in a handler
                if came:
                    self._waker.wake()
                elif self._work.due < self.asleep_until:
                    self._waker.wake(LOOK)
            if not (self._again and self.turns.acquire(blocking=False)):
                return
            events = ()

    def lead_once(self) -> None:
        """Poll and take a turn, unless another thread is about to. Delivers no outcomes."""
        if (self._leader is None or (self._background_leads and self.asleep_until)) and not self.inside:
            safely(self._lead_once)

    def _lead_once(self) -> None:
        thread, follower = get_ident(), None
        try:
            if not self._take_over(thread):
                # The background thread, which yields. Wait for it, or it would wait long for the GIL: a
                # thread that submits one call after another holds the GIL all the time.
                follower = _Follower(bool, thread)
                if not self._background_leads or not self._follow(follower, monotonic() + GRACE):
                    return
            self._leads += 1
            events = self._work.poll(0)
            self.turns.acquire()
            self._turn(events, thread)
        finally:
            self._leave(thread, follower)

    # -- waiting -----------------------------------------------------------------------------------

    def wait_until(self, ready: Callable[[], bool], deadline: float = inf) -> bool:
        """Lead or follow until `ready()`; False at `deadline`. Call with signals deferred, without the lock
        of the state. In a deputy whose caller waits no more, it returns early.

        `ready` may be called by any thread. It may also return False if `ready` was true for a moment.
        Raises `Busy` in a finalizer that runs in the middle of a turn, or of another change of the state.
        """
        deferred_call = deferred_call_here()
        if deferred_call is not None:
            deferred_call.stir = self._waker.wake
            ready = partial(_ready_or_abandoned, deferred_call, ready)
        thread = get_ident()
        if (self._turner == thread or self._hold.thread == thread or self._seats._is_owned()) and not ready():  # type: ignore[attr-defined]
            raise Busy(self._hold.message)
        if thread == self._background_ident:
            return self._wait_in_callback(thread, ready, deadline)
        return self._lead_or_follow(thread, ready, deadline)

    def _wait_in_callback(self, thread: int, ready: Callable[[], bool], deadline: float) -> bool:
        """In the background thread: perhaps for an outcome that no other thread delivers."""
        while True:
            self._work.tell()
            if ready():
                return True
            if not self._lead_or_follow(thread, lambda: ready() or self._work.untold, deadline):
                return ready()

    def _lead_or_follow(self, thread: int, ready: Callable[[], bool], deadline: float) -> bool:
        if self._leader == thread:  # in a callback, or a signal's handler, while this thread leads
            until = self.asleep_until
            try:
                return self._lead(thread, ready, deadline)
            finally:
                self.asleep_until = until
                if until:  # it sleeps on after the handler, and what it waits for may have come
                    self._waker.wake(LOOK)
        follower = None
        try:
            if not self._take_over(thread):
                follower = _Follower(ready, thread)
                if not self._follow(follower, deadline):
                    return ready()
            return self._lead(thread, ready, deadline)
        finally:
            self._leave(thread, follower)

    # -- leading -----------------------------------------------------------------------------------

    def _take_over(self, thread: int) -> bool:
        with self._seats:
            if self._leader is not None:
                return False
            self._leader = thread
            return True

    def _lead(self, thread: int, ready: Callable[[], bool], deadline: float) -> bool:
        work = self._work
        work.tell()  # outcomes that the last leader, or a helping thread, found and did not deliver
        if self._followers:
            self._wake_followers()
        while not ready():
            if work.failed:
                return False
            if not self._background_leads:
                sleeps[0] += 1
            # Before `due` is read: a thread that makes it earlier then wakes this one.
            self.asleep_until = inf
            due, timeout = work.due, None
            if deadline < due:
                due = deadline
            if due != inf:
                self.asleep_until = due
                timeout = max(0.0, due - monotonic())
            depth = _shield.lower()
            try:
                if work.over:  # another thread is still delivering what we wait for
                    sleep(GRACE if timeout is None else min(timeout, GRACE))
                    timeout = 0.0
                events = work.poll(timeout)
            finally:
                self.asleep_until = 0.0
                _shield.lift(depth)
            self._leads += 1
            if events == self._woken_only and not self._waker.clear().strip(LOOK):
                continue
            self.turns.acquire()
            self._turn(events, thread)
            work.tell()
            if self._followers:
                self._wake_followers()
            if deadline != inf and monotonic() >= deadline:
                return ready()
        return True

    def _wake_followers(self) -> None:
        for follower in tuple(self._followers):
            if not follower.woken and follower.ready():
                with self._seats:
                    if not follower.woken:
                        follower.woken = True
                        follower.lock.release()

    def _leave(self, thread: int, follower: _Follower | None = None) -> None:
        """Stop leading and following."""
        with self._seats:
            if follower is not None and follower in self._followers:
                self._followers.remove(follower)
            if self._leader == thread:
                next_one = self._next_leader() if self._followers else None
                if next_one is None:
                    self._leader = None
                else:
                    self._leader, next_one.woken = next_one.thread, True
                    next_one.lock.release()
            if self._ended and self._leader is None:
                self._waker.close()
        if self._leader is None and (self._deep_sleep or self._woken):
            self._calls.put(None)

    def _next_leader(self) -> _Follower | None:
        # The latest first: a thread that follows may do so again, in the handler of a signal.
        return next((each for each in reversed(self._followers) if not each.woken), None)

    # -- following ---------------------------------------------------------------------------------

    def _follow(self, follower: _Follower, deadline: float) -> bool:
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
        patience = -1 if deadline == inf else min(max(0.0, deadline - monotonic()), threading.TIMEOUT_MAX)
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
            self._waker.wake(LOOK)

    # -- the background thread ---------------------------------------------------------------------

    def _watch(self) -> None:
        thread = self._background_ident = get_ident()
        failed: BaseException | None = None
        try:
            while not self._work.over:
                while self._afterwards:
                    self._afterwards.popleft()()
                if self._take_over(thread):
                    self._background_leads = True
                    try:
                        self._lead(thread, self._may_leave, inf)
                    finally:
                        self._background_leads = False
                        self._asked_to_yield = False
                        self._leave(thread)
                self._stand_by()
        except BaseException as error:
            failed = error
        finally:
            self._background_runs = False
            self._waker.wake()  # a leader must not sleep on what is closed now
            try:
                self._work.end(failed)
            finally:
                self._close_waker()

    def _close_waker(self) -> None:
        """Close the waker, now or when the leader leaves."""
        with self._seats:
            self._ended = True
            if self._leader is None:
                self._waker.close()
            else:
                self._waker.wake()

    def _may_leave(self) -> bool:
        return self._asked_to_yield or bool(self._followers or self._afterwards) or self._work.over

    def _stand_by(self) -> None:
        """Return when no thread has led for `GRACE`."""
        looks = 0
        while not (self._work.over or self._afterwards):
            leads = self._leads
            self._sleep_until_called(GRACE)
            self._tell_for_others()
            if self._leader is None and (self._woken or self._leads == leads):
                return
            looks += 1
            if looks >= SHALLOW and self._leader is not None and self._leads == leads:
                self._sleep_deeply()
                looks = 0

    def _sleep_deeply(self) -> None:
        """Sleep until the leader leaves, and take the turns that it does not take in time."""
        with self._seats:
            self._deep_sleep = self._leader is not None
        while self._deep_sleep and not self._work.over:
            turned = self.turned
            if self._sleep_until_called(LATE):
                break
            if self.turned == turned:
                events = self._work.poll(0)
                if events or monotonic() >= self._work.due + LATE:
                    self.turns.acquire()
                    self._turn(events, get_ident())
                    self._work.tell()
                    self._wake_followers()
                    self._waker.wake()  # for the leader to see what this turn has taken from it
        self._deep_sleep = False
        self._tell_for_others()

    def _tell_for_others(self) -> None:
        """Deliver the outcomes found by threads that only help, and those for the background thread."""
        if self._work.tell() and self._leader is not None:
            self._waker.wake()

    def _sleep_until_called(self, seconds: float) -> bool:
        """Whether it was called."""
        with suppress(Empty):
            self._calls.get(timeout=seconds)
            return True
        return False


_shield = Shield()
"""Raised while a thread waits or helps, except while it sleeps."""


def _ready_or_abandoned(deferred_call: DeferredCall[Any], ready: Callable[[], bool]) -> bool:
    return deferred_call.abandoned or ready()
