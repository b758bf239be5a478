"""An end's input and output: owns the sockets that connect one process to one queue, and does what its
machine says.

Any thread may take a *turn* at the sockets: act, read, act upon what came, until nothing more comes. A thread
of its own does when nobody else is about to. A put takes a turn itself when there is enough to send; a caller
who waits takes the *seat*: it sleeps where the messages come in, and takes the turns, so that no item
is handed from one thread to another. While there is a sitter the thread stands by, and for `GRACE` after.

Who sleeps does not touch the sockets, but their descriptors, which only tell that something is new since they
were last read: each turn reads them to the end, after all that it sends.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from nearfar.net.access import Access
from nearfar.net.addresses import Address
from nearfar.net.deputy import ours
from nearfar.net.shield import Shield
from nearfar.net.shortage import PAUSE
from nearfar.net.sockets import FAILURES
from nearfar.queues import wire
from nearfar.queues.ends.hold import Hold
from nearfar.queues.ends.machine import EndMachine, State
from nearfar.queues.ends.plugs import DRAIN, Plugs

log = logging.getLogger(__name__)

GRACE = 0.005
"""Seconds without a sitter after which the thread watches the sockets."""


class EndLoop(Plugs):
    """Runs `machine` against the queue at `address`, as `access` says; `hold` guards the machine, and is
    notified.

    `on_change` is called without the lock after anything came in, by the thread alone: where it is given, no
    other takes turns.
    """

    def __init__(
        self,
        machine: EndMachine,
        address: Address,
        access: Access,
        hold: Hold,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(machine, address, access, hold)
        self._on_change = on_change
        self._turns = threading.Lock()
        self._wanted = False
        """Somebody found the sockets taken, and wants another turn."""
        self._woken = False
        self._sleeps_until = 0.0
        self._sitter: int | None = None
        self._seats = 0
        """How often it has taken the seat: again in a signal's handler, while it sleeps there."""
        self._turner: int | None = None
        self._sits = 0
        self._near = False
        """The thread is going to look by itself, within `GRACE`."""
        self._deep = False
        """The thread sleeps until the sitter leaves."""
        self._over = False
        self._heard = 0
        self.turned = 0.0
        """When the last turn ended."""
        self._thread = threading.Thread(target=ours(self._run), name=f"nearfar-end-{address}", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def wake(self) -> None:
        """Have somebody look at the machine now. Call with the lock held."""
        if not self._woken:
            self._woken = True
            (self._bed if self._sitter is None else self._seat).waker.wake()

    def wake_within(self, seconds: float, now: float) -> None:
        """Have somebody look at the machine within `seconds`. Call with the lock held."""
        if self._sleeps_until > now + seconds:
            self._sleeps_until = now + seconds
            bed = self._bed if self._sitter is None else self._seat
            if bed.until > now + seconds and not self._near:
                bed.waker.wake()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread to end; tells whether it did."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # -- other threads ---------------------------------------------------------------------------

    def help(self) -> None:
        """Take a turn here; where another thread is at it, it takes one more. Call without the lock."""
        if self._on_change is not None:
            with self._hold:
                self.wake()
            return
        with _shield:
            self._wanted = True
            while self._wanted and self._turns.acquire(blocking=False):
                try:
                    self._turn()
                finally:
                    self._turns.release()

    def take_seat(self) -> bool:
        """Become the one who sleeps where messages come in, if nobody is. Call with the lock held."""
        here = threading.get_ident()
        taken = self._sitter not in (None, here) or self._machine.state is State.CLOSED
        if taken or self._on_change is not None:
            return False
        self._sitter = here
        self._seats += 1
        return True

    def leave_seat(self) -> None:
        """With the lock held. Whoever waits besides may take the seat."""
        self._seats -= 1
        if self._seats:
            return
        self._sitter = None
        if self._woken or self._deep:
            self._deep = False
            self._bed.waker.wake()
        if self._over:
            self._seat.waker.close()
        self._hold.notify(1)

    @property
    def turning(self) -> bool:
        """Whether this thread is in the middle of a turn."""
        return self._turner == threading.get_ident()

    def stir(self) -> None:
        """Have those who wait look at what they wait for."""
        with self._hold:
            self._hold.notify()
            if self._sitter is not None:
                self._seat.waker.wake()

    def sit(self, seconds: float) -> None:
        """Take a turn, and sleep if nothing came: up to `seconds`. Call with the lock and the shield held,
        and the seat; returns with them, and may raise what a signal's handler raises."""
        self._sits += 1
        until = time.monotonic() + seconds
        held = self._hold.give_up()
        try:
            heard = self._heard
            with self._turns:
                self._turn()
                watched = self._watched
            if heard == self._heard and self._machine.state is not State.CLOSED:
                depth = _shield.lower()
                try:
                    self._seat.sleep(watched, min(until, self._sleeps_until))
                finally:
                    _shield.lift(depth)
        finally:
            self._hold.take_back(held)

    # -- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._watch()
        except Exception as error:
            log.exception("the thread of the queue at %s failed", self._address)
            self._machine.refused = f"its thread in this process failed: {error!r}"  # for all who call it
            raise
        finally:
            with self._turns:
                self._close_sockets()
            with self._hold:
                self._machine.state = State.CLOSED
                self._over = True
                self._bed.waker.close()
                if self._sitter is None:
                    self._seat.waker.close()
                else:
                    self._seat.waker.wake()
                self._hold.notify()

    def _watch(self) -> None:
        sits = self._sits
        while self._machine.state is not State.CLOSED or self._watched:
            try:
                if self._sitter is None and self._sits == sits:
                    with self._turns:
                        self._turn()
                        watched = self._watched
                    while not self._bed.sleep(watched, self._sleeps_until) and self._may_sleep_on(sits):
                        watched = self._watched
                else:
                    sits = self._sits
                    self._stand_by(sits)
            except FAILURES as error:
                self._mishaps.note(error)
                time.sleep(PAUSE)

    def _may_sleep_on(self, sits: int) -> bool:
        """Whether the thread was only woken to sleep for a shorter time, or with other sockets."""
        if self._woken or self._sits != sits or self._machine.state is State.CLOSED:
            return False
        return time.monotonic() < self._sleeps_until

    def _stand_by(self, sits: int) -> None:
        """Sleep for `GRACE`, or, once the sitter sleeps as well, until it leaves; but come when called."""
        self._near = True
        self._bed.sleep([], time.monotonic() + GRACE)
        with self._hold:
            due = self._woken or time.monotonic() >= self._sleeps_until
            due = due and self._sitter is None
            self._deep = deep = self._sitter is not None and self._sits == sits
            self._near = False
        if due:
            with self._turns:
                self._turn()
        while deep and self._deep and self._machine.state is not State.CLOSED:
            self._bed.sleep([], time.monotonic() + 60)

    # -- a turn ----------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Act, read, and again, as long as anything comes. Call with `_turns` held."""
        self._turner = threading.get_ident()
        try:
            self._act_and_read()
        finally:
            self._turner = None

    def _act_and_read(self) -> None:
        before, unread = self._heard, True
        while True:
            self._wanted = False
            with self._hold:
                self._woken = False
                now = time.monotonic()
                self._machine.tick(now)
                actions = self._machine.flush(now)
                self._sleeps_until = self._machine.deadline(now)
                closed = self._machine.state is State.CLOSED
            for action in actions:
                self._act(action)
            if closed or not (actions or unread):
                break  # nothing was sent: the sockets are still as they were when all had been read
            control, lane = self._read(self._control), self._read(self._lane)
            heard, unread = control + lane, DRAIN in (len(control), len(lane))
            # After reading: a stranger that took the host's place was seen to connect before it spoke.
            if not self._take_in(heard, self._look()):
                break
        if before != self._heard and self._sitter not in (None, threading.get_ident()):
            self._seat.waker.wake()
        self.turned = time.monotonic()

    def _take_in(self, heard: list[wire.Envelope], turned_away: str) -> bool:
        if not heard and not turned_away:
            return False
        self._heard += 1
        with self._hold:
            now = time.monotonic()
            if turned_away:
                self._machine.turned_away(turned_away, now)
            else:
                for envelope in heard:
                    self._machine.receive(envelope, now)
            self._hold.notify()
        if self._on_change is not None:
            self._on_change()
        return True


_shield = Shield()
