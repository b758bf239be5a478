"""Which thread does the I/O of a broker or a client: one thread at a time, preferably a caller that waits.

In a *turn*, a thread sends what is due, reads the sockets, and processes what it read, until nothing more
arrives. The driver's own thread takes turns when no other thread does. A put takes a turn itself when there
is enough to send. A caller that waits takes the *seat*, as the leader of the leader/followers pattern: it
polls the sockets and takes the turns, so that no item is passed from one thread to another. While the seat is
taken, and for `GRACE` seconds after, the driver's thread does no I/O.

A sleeping thread polls descriptors only. They signal only what arrived since the last read, so each turn
reads the sockets until they are empty, after everything that it sends.
"""

from __future__ import annotations

import select
import threading
import time
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Any, Protocol

from nearfar.net.failures import PAUSE, LoopFailures
from nearfar.net.interrupts import Shield, ours
from nearfar.net.process import Waker
from nearfar.net.sockets import FAILURES

GRACE = 0.005
"""Seconds without a thread in the seat after which the driver's thread polls the sockets."""
LATE = 0.25
"""Seconds after which the driver's thread takes an overdue turn although the seat is taken: the thread in it
may be in a long signal handler."""
BUSY = "the queue cannot be used inside its own code, by a finalizer or while an item is unpickled"


class Busy(RuntimeError):
    """This thread is inside the queue's own code."""


class WaitHandle:
    """Lets a thread sleep until it is woken, or until a descriptor is readable."""

    def __init__(self) -> None:
        self.waker = Waker()
        self._own = self.waker.fileno()
        self.until = inf
        """The time at which the thread that sleeps here wakes at the latest."""
        self.sleeping = False
        """Whether a thread sleeps here."""
        self._watched: list[int] = []
        self._poll = _poll(self._own)

    def sleep(self, watched: list[int], until: float) -> bool:
        """Sleep until that time (by `time.monotonic`), until woken, or until one of `watched` is readable;
        returns True in the last case."""
        self.until = until
        if self.sleeping:  # in a signal handler, while this thread sleeps here
            return self._sleep(_poll(self._own, *watched), until)
        if watched is not self._watched:
            self._poll = _poll(self._own, *watched)
            self._watched = watched
        self.sleeping = True
        try:
            return self._sleep(self._poll, until)
        finally:
            self.sleeping = False

    def _sleep(self, poll: select.poll, until: float) -> bool:
        patience = max(0.0, until - time.monotonic())
        came = False
        for descriptor, _ in poll.poll(int(patience * 1000) + 1 if patience else 0):
            if descriptor == self._own:
                self.waker.clear()
            else:
                came = True
        return came


def _poll(*descriptors: int) -> select.poll:
    made = select.poll()
    for descriptor in descriptors:
        made.register(descriptor, select.POLLIN)
    return made


class Hold:
    """The lock of a queue, a context manager. Signals must be deferred (`nearfar.net.interrupts`).

    A garbage collection may start anywhere, and a finalizer may use the queue: in a thread that holds the
    lock already, that raises `Busy` before anything is changed.
    """

    __slots__ = ("_busy", "_waiters", "lock")

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._busy = False
        """Whether the thread that holds the lock runs the queue's code (rather than waits)."""
        self._waiters: deque[Any] = deque()

    def __enter__(self) -> None:
        self.lock.acquire()
        if self._busy:
            self.lock.release()
            raise Busy(BUSY)
        self._busy = True

    def __exit__(self, *_: object) -> None:
        self._busy = False
        self.lock.release()

    def give_up(self) -> Any:
        """Release the lock until `take_back`."""
        self._busy = False
        return self.lock._release_save()  # type: ignore[attr-defined]

    def take_back(self, held: Any) -> None:
        """Acquire the lock again, with the value that `give_up` returned."""
        self.lock._acquire_restore(held)  # type: ignore[attr-defined]
        self._busy = True

    def wait(self, seconds: float) -> None:
        """With the lock held: release it until `notify`, or for `seconds`. Raises what a signal handler
        raises."""
        waiter = allocate_lock()
        waiter.acquire()
        self._waiters.append(waiter)
        held = self.give_up()
        try:
            _shield.let_through(waiter.acquire, True, min(seconds, threading.TIMEOUT_MAX))
        finally:
            self.take_back(held)
            with suppress(ValueError):
                self._waiters.remove(waiter)

    def notify(self, most: int | None = None) -> None:
        """With the lock held: wake the threads in `wait`, or up to `most` of them."""
        count = len(self._waiters) if most is None else min(most, len(self._waiters))
        for _ in range(count):
            self._waiters.popleft().release()


class Driven(Protocol):
    """The I/O that a driver's threads do, one thread at a time."""

    watched: list[int]
    """The descriptors to poll: a new list whenever they change."""

    @property
    def over(self) -> bool:
        """Whether all work is done for good."""

    def turn(self, driver: QueueDriver) -> None:
        """Send and read. Sets `QueueDriver.sleeps_until`, and increments `QueueDriver.heard` when it received
        anything that waiting calls may wait for."""

    def end(self, error: BaseException | None) -> None:
        """Called once by the driver's thread, when all work is done, or after an error that is not a
        failure of a call."""


class QueueDriver:
    """Runs `work` in its threads. `hold` guards the state of the work, and is notified of changes.

    With `alone`, only the driver's own thread takes turns.
    """

    sleeps = 0
    """How often a caller has slept in the seat, at any queue of this process."""

    def __init__(
        self, work: Driven, hold: Hold, name: str, mishaps: LoopFailures, *, alone: bool = False
    ) -> None:
        self.hold = hold
        self.turns = threading.Lock()
        """Held during a turn."""
        self.wanted = False
        """A turn was requested: if another thread is in a turn, it takes one more."""
        self.woken = False
        """A turn is needed now, and a thread was woken for it."""
        self.sleeps_until = 0.0
        """When the next turn is due."""
        self.heard = 0
        """The number of turns that received anything that calls may wait for."""
        self.turned = 0.0
        """When the last turn ended."""
        self._work = work
        self._mishaps = mishaps
        self._alone = alone
        self._wait_handle, self._seat = WaitHandle(), WaitHandle()
        self._sitter: int | None = None
        self._seats = 0
        """How often that thread has taken the seat: a signal handler may do so again during its sleep."""
        self._turner: int | None = None
        self._sits = 0
        self._near = False
        """The driver's thread will check by itself, within `GRACE`."""
        self._deep = False
        """The driver's thread sleeps until the seat is left."""
        self._over = False
        self._afterwards: deque[Callable[[], object]] = deque()
        self._thread = threading.Thread(target=ours(self._run), name=name, daemon=True)

    def start(self) -> None:
        """Start the driver's thread."""
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def wake(self) -> None:
        """Make a thread take a turn now. Call with the lock held."""
        if not self.woken:
            self.woken = True
            (self._wait_handle if self._sitter is None else self._seat).waker.wake()

    def call(self) -> None:
        """As `wake`, without the lock: for changes that the next turn must read, such as other
        descriptors."""
        self.woken = True
        for wait_handle in (self._wait_handle, self._seat):
            wait_handle.waker.wake()

    def afterwards(self, do: Callable[[], object]) -> None:
        """Make the driver's thread call `do` between two turns. For a finalizer that runs in a turn."""
        self._afterwards.append(do)
        self.call()

    def sleep_until(self, when: float) -> None:
        """Set the time of the next turn: another thread that sleeps for longer is woken. Call with the lock
        held."""
        self.sleeps_until = when
        wait_handle = self._wait_handle if self._sitter is None else self._seat
        if wait_handle.sleeping and wait_handle.until > when and not self._near:
            wait_handle.waker.wake()

    def wake_within(self, seconds: float, now: float) -> None:
        """Make a thread take a turn within `seconds`. Call with the lock held."""
        if self.sleeps_until > now + seconds:
            self.sleeps_until = now + seconds
            wait_handle = self._wait_handle if self._sitter is None else self._seat
            if wait_handle.until > now + seconds and not self._near:
                wait_handle.waker.wake()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread to end, unless this is that thread; returns whether it did."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    # -- other threads ---------------------------------------------------------------------------

    def help(self) -> None:
        """Take a turn in this thread; if another one is in a turn, that one takes one more. Call with signals
        deferred, without the lock."""
        if self._alone:
            with self.hold:
                self.wake()
            return
        self.wanted = True
        while self.wanted and self.turns.acquire(blocking=False):
            try:
                self._turn()
            finally:
                self.turns.release()

    def take_seat(self) -> bool:
        """Take the seat, if no thread has it; returns whether it did. Call with the lock held."""
        here = threading.get_ident()
        taken = self._sitter not in (None, here) or self._work.over
        if taken or self._alone:
            return False
        self._sitter = here
        self._seats += 1
        return True

    def leave_seat(self) -> None:
        """Leave the seat, to another thread that waits. Call with the lock held."""
        self._seats -= 1
        if self._seats:
            return
        self._sitter = None
        if self.woken or self._deep:
            self._deep = False
            self._wait_handle.waker.wake()
        if self._over:
            self._seat.waker.close()
        self.hold.notify(1)

    @property
    def turning(self) -> bool:
        """Whether this thread is in a turn."""
        return self._turner == threading.get_ident()

    def stir(self) -> None:
        """Make all waiting threads check their conditions."""
        with self.hold:
            self.hold.notify()
            if self._sitter is not None:
                self._seat.waker.wake()

    def sit(self, seconds: float) -> None:
        """Take a turn; if it received nothing, sleep up to `seconds`, and take another. Call with lock,
        signal deferral and seat held; they are held on return, too. Raises what a signal handler raises."""
        self._sits += 1
        until = time.monotonic() + seconds
        held = self.hold.give_up()
        try:
            heard = self.heard
            watched = self._turn_when_free()
            if heard == self.heard and not self._work.over:
                QueueDriver.sleeps += 1
                _shield.let_through(self._seat.sleep, watched, min(until, self.sleeps_until))
                self._turn_when_free()
        finally:
            self.hold.take_back(held)

    # -- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        failed: BaseException | None = None
        try:
            self._watch()
        except BaseException as error:
            failed = error
        finally:
            try:
                self._work.end(failed)
            finally:
                with self.hold:
                    self._over = True
                    self._wait_handle.waker.close()
                    if self._sitter is None:
                        self._seat.waker.close()
                    else:
                        self._seat.waker.wake()
                    self.hold.notify()

    def _watch(self) -> None:
        sits = self._sits
        while not self._work.over:
            while self._afterwards:
                self._afterwards.popleft()()
            try:
                if self._sitter is None and self._sits == sits:
                    watched = self._turn_when_free()
                    while not self._wait_handle.sleep(watched, self.sleeps_until) and self._may_sleep_on(
                        sits
                    ):
                        watched = self._work.watched
                else:
                    sits = self._sits
                    self._stand_by(sits)
            except FAILURES as error:
                self._mishaps.note(error)
                time.sleep(PAUSE)

    def _may_sleep_on(self, sits: int) -> bool:
        """Whether the thread was woken only to use an earlier deadline, or other sockets."""
        if self.woken or self._sits != sits or self._work.over:
            return False
        return time.monotonic() < self.sleeps_until

    def _stand_by(self, sits: int) -> None:
        """Sleep for `GRACE`; if the thread in the seat sleeps by then, until it leaves; or until woken."""
        self._near = True
        self._wait_handle.sleep([], time.monotonic() + GRACE)
        with self.hold:
            due = self.woken or time.monotonic() >= self.sleeps_until
            due = due and self._sitter is None
            self._deep = deep = self._sitter is not None and self._sits == sits
            self._near = False
        if due:
            self._turn_when_free()
        while deep and self._deep and not (self._work.over or self._afterwards):
            turned = self.turned
            self._wait_handle.sleep([], time.monotonic() + LATE)
            if self._deep and turned == self.turned and self._is_late():
                self._turn_when_free()

    def _is_late(self) -> bool:
        """Whether a turn is overdue by `LATE` seconds, or there are unread messages."""
        return time.monotonic() >= self.sleeps_until + LATE or bool(_poll(*self._work.watched).poll(0))

    # -- a turn ----------------------------------------------------------------------------------

    def _turn_when_free(self) -> list[int]:
        """Take a turn, and another if a thread found the sockets in use meanwhile; returns the descriptors to
        poll."""
        with self.turns:
            self._turn()
            watched = self._work.watched
        if self.wanted:
            self.help()
        return watched

    def _turn(self) -> None:
        """Call with `turns` held."""
        before, here = self.heard, threading.get_ident()
        self._turner = here
        try:
            self._work.turn(self)
        finally:
            self._turner = None
        if before != self.heard and self._sitter not in (None, here):
            self._seat.waker.wake()
        self.turned = time.monotonic()


_shield = Shield()
