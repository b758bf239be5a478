"""A client's sockets and its loop: performs the actions of `ClientProtocol`, in one thread at a time.

Any thread may take a *turn* at the sockets: act, read, act upon what was read, until nothing more comes. The
loop's own thread takes turns when no other thread does. A put takes a turn itself when there is enough to
send. A caller that waits takes the *seat*: it sleeps on the sockets and takes the turns, so that no item is
passed from one thread to another. While the seat is taken, and for `GRACE` seconds after, the loop's thread
stands by.

A sleeping thread polls only the descriptors of the sockets. They signal only what is new since the last read,
so each turn reads the sockets to the end, after everything that it sends.
"""

from __future__ import annotations

import contextlib
import logging
import select
import threading
import time
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Any

import zmq

from nearfar.errors import AddressError, KeysError, ProtocolError
from nearfar.net import sockets
from nearfar.net.addresses import Address
from nearfar.net.auth import Access
from nearfar.net.failures import PAUSE, LoopFailures
from nearfar.net.handshake import Connection
from nearfar.net.interrupts import Shield, ours
from nearfar.net.process import Waker
from nearfar.net.sockets import FAILURES
from nearfar.net.validation import ProtocolErrors
from nearfar.queues import messages
from nearfar.queues.client.protocol import ClientProtocol, ClientState
from nearfar.queues.client.session import (
    Action,
    Close,
    ConnectControl,
    ConnectInbox,
    ConnectLane,
    SendControl,
)
from nearfar.queues.messages import QueueFrame


class WaitHandle:
    """Lets a thread sleep until it is woken, or until a message comes."""

    def __init__(self) -> None:
        self.waker = Waker()
        self._own = self.waker.fileno()
        self.until = inf
        """When the thread that sleeps here wakes at the latest."""
        self._watched: list[int] = []
        self._poll = _poll(self._own)
        self._sleeping = False

    def sleep(self, watched: list[int], until: float) -> bool:
        """Sleep until that time (by `time.monotonic`), until woken, or until one of `watched` is readable;
        returns True for the latter."""
        self.until = until
        if self._sleeping:  # in a signal's handler, while this thread sleeps here
            return self._sleep(_poll(self._own, *watched), until)
        if watched is not self._watched:
            self._poll = _poll(self._own, *watched)
            self._watched = watched
        self._sleeping = True
        try:
            return self._sleep(self._poll, until)
        finally:
            self._sleeping = False

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


BUSY = "the queue cannot be used inside its own code, by a finalizer or while an item is unpickled"


class Hold:
    """A context manager, for a thread that is not `exposed`: inside, it holds the lock, and signals wait.

    A garbage collection may start anywhere, and a finalizer may use the queue: in a thread that is inside
    already, that raises `RuntimeError`, before anything is changed.
    """

    __slots__ = ("_busy", "_waiters", "lock")

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._busy = False
        """Whether the thread that holds the lock is inside."""
        self._waiters: deque[Any] = deque()

    def __enter__(self) -> None:
        _shield.__enter__()
        self.lock.acquire()
        if self._busy:
            self.lock.release()
            _shield.__exit__()
            raise RuntimeError(BUSY)
        self._busy = True

    def __exit__(self, *_: object) -> None:
        self._busy = False
        self.lock.release()
        _shield.__exit__()

    def give_up(self) -> Any:
        """Release the lock until `take_back`. Signals still wait."""
        self._busy = False
        return self.lock._release_save()  # type: ignore[attr-defined]

    def take_back(self, held: Any) -> None:
        """Acquire the lock again, with the value that `give_up` returned."""
        self.lock._acquire_restore(held)  # type: ignore[attr-defined]
        self._busy = True

    def wait(self, seconds: float) -> None:
        """Inside: release the lock until `notify`, or for `seconds`. Raises what a signal handler raises."""
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
        """Inside: wake the threads that `wait`, or up to `most` of them."""
        count = len(self._waiters) if most is None else min(most, len(self._waiters))
        for _ in range(count):
            self._waiters.popleft().release()


_shield = Shield()


log = logging.getLogger(__name__)

DRAIN = 256
"""Messages read from one socket before they are processed."""

GRACE = 0.005
"""Seconds without a thread in the seat, after which the loop's thread watches the sockets."""


class ClientLoop:
    """Runs `machine` against the queue at `address`, according to `access`. `hold` guards the machine, and is
    notified of changes.

    `on_change` is called without the lock after anything came in, and only by the loop's thread: if it is
    given, no other thread takes turns.
    """

    sleeps = 0
    """How often a caller has slept in the seat, at any queue of this process."""

    def __init__(
        self,
        machine: ClientProtocol,
        address: Address,
        access: Access,
        hold: Hold,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self._machine = machine
        self._address = address
        self._access = access
        self._hold = hold
        self._complaints = ProtocolErrors(log)
        self._mishaps = LoopFailures(log, f"the client of the queue at {address}")
        self._control: Connection | None = None
        self._inbox: Connection | None = None
        self._lane: Connection | None = None
        self._watched: list[int] = []
        """The descriptors of the sockets to read: a new list whenever they change."""
        self._look_next = 0.0
        """When to check next whether a socket was refused."""
        self._wait_handle, self._seat = WaitHandle(), WaitHandle()
        self._on_change = on_change
        self._turns = threading.Lock()
        self._wanted = False
        """A thread found the sockets in use, and needs another turn."""
        self._woken = False
        self._sleeps_until = 0.0
        self._sitter: int | None = None
        self._seats = 0
        """How often that thread has taken the seat: a signal handler may take it again while it sleeps."""
        self._turner: int | None = None
        self._sits = 0
        self._near = False
        """The loop's thread is going to check by itself, within `GRACE`."""
        self._deep = False
        """The loop's thread sleeps until the seat is left."""
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
        """Have a thread take a turn now. Call with the lock held."""
        if not self._woken:
            self._woken = True
            (self._wait_handle if self._sitter is None else self._seat).waker.wake()

    def wake_within(self, seconds: float, now: float) -> None:
        """Have a thread take a turn within `seconds`. Call with the lock held."""
        if self._sleeps_until > now + seconds:
            self._sleeps_until = now + seconds
            wait_handle = self._wait_handle if self._sitter is None else self._seat
            if wait_handle.until > now + seconds and not self._near:
                wait_handle.waker.wake()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread to end; returns whether it did."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # -- other threads ---------------------------------------------------------------------------

    def help(self) -> None:
        """Take a turn in this thread; if another one is taking a turn, that one takes one more. Call without
        the lock."""
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
        """Take the seat, if no thread has it; returns whether it did. Call with the lock held."""
        here = threading.get_ident()
        taken = self._sitter not in (None, here) or self._machine.state is ClientState.CLOSED
        if taken or self._on_change is not None:
            return False
        self._sitter = here
        self._seats += 1
        return True

    def leave_seat(self) -> None:
        """Leave the seat to another thread that waits. Call with the lock held."""
        self._seats -= 1
        if self._seats:
            return
        self._sitter = None
        if self._woken or self._deep:
            self._deep = False
            self._wait_handle.waker.wake()
        if self._over:
            self._seat.waker.close()
        self._hold.notify(1)

    @property
    def turning(self) -> bool:
        """Whether this thread is in the middle of a turn."""
        return self._turner == threading.get_ident()

    def stir(self) -> None:
        """Have all waiting threads check what they wait for."""
        with self._hold:
            self._hold.notify()
            if self._sitter is not None:
                self._seat.waker.wake()

    def sit(self, seconds: float) -> None:
        """Take a turn, and sleep up to `seconds` if nothing came. Call with the lock, the shield and the seat
        held; they are held on return, too. May raise what a signal handler raises."""
        self._sits += 1
        until = time.monotonic() + seconds
        held = self._hold.give_up()
        try:
            heard = self._heard
            watched = self._turn_when_free()
            if heard == self._heard and self._machine.state is not ClientState.CLOSED:
                ClientLoop.sleeps += 1
                _shield.let_through(self._seat.sleep, watched, min(until, self._sleeps_until))
        finally:
            self._hold.take_back(held)

    # -- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._watch()
        except Exception as error:
            log.exception("the thread of the queue at %s failed", self._address)
            self._machine.refused = f"its thread in this process failed: {error!r}"  # raised by all calls
            raise
        finally:
            with self._turns:
                self._close_sockets()
            with self._hold:
                self._machine.state = ClientState.CLOSED
                self._over = True
                self._wait_handle.waker.close()
                if self._sitter is None:
                    self._seat.waker.close()
                else:
                    self._seat.waker.wake()
                self._hold.notify()

    def _watch(self) -> None:
        sits = self._sits
        while self._machine.state is not ClientState.CLOSED or self._watched:
            try:
                if self._sitter is None and self._sits == sits:
                    watched = self._turn_when_free()
                    while not self._wait_handle.sleep(watched, self._sleeps_until) and self._may_sleep_on(
                        sits
                    ):
                        watched = self._watched
                else:
                    sits = self._sits
                    self._stand_by(sits)
            except FAILURES as error:
                self._mishaps.note(error)
                time.sleep(PAUSE)

    def _may_sleep_on(self, sits: int) -> bool:
        """Whether the thread was woken only to sleep for a shorter time, or with other sockets."""
        if self._woken or self._sits != sits or self._machine.state is ClientState.CLOSED:
            return False
        return time.monotonic() < self._sleeps_until

    def _stand_by(self, sits: int) -> None:
        """Sleep for `GRACE`, or, once the thread in the seat sleeps, too, until it leaves; or until woken."""
        self._near = True
        self._wait_handle.sleep([], time.monotonic() + GRACE)
        with self._hold:
            due = self._woken or time.monotonic() >= self._sleeps_until
            due = due and self._sitter is None
            self._deep = deep = self._sitter is not None and self._sits == sits
            self._near = False
        if due:
            self._turn_when_free()
        while deep and self._deep and self._machine.state is not ClientState.CLOSED:
            self._wait_handle.sleep([], time.monotonic() + 60)

    # -- a turn ----------------------------------------------------------------------------------

    def _turn_when_free(self) -> list[int]:
        """Take a turn, and another if a thread found the sockets in use meanwhile; returns the descriptors to
        watch."""
        with self._turns:
            self._turn()
            watched = self._watched
        if self._wanted:
            self.help()
        return watched

    def _turn(self) -> None:
        """Act and read, as long as anything comes. Call with `_turns` held."""
        self._turner = threading.get_ident()
        try:
            self._act_and_read()
        finally:
            self._turner = None

    def _act_and_read(self) -> None:
        before, first = self._heard, True
        while True:
            control = self._read(self._control.socket) if self._control is not None else []
            lane = self._read(self._lane.socket) if self._lane is not None else []
            # After reading: so a connection to an impostor at the address is detected before its messages.
            now = time.monotonic()
            turned_away = self._look(now) if now >= self._look_next else ""
            if not (first or control or lane or turned_away or self._wanted):
                break  # nothing came since everything was sent
            first = self._wanted = False
            actions = self._decide(control, lane, turned_away)
            for action in actions:
                self._act(action)
            if self._machine.state is ClientState.CLOSED:
                break
            if not (actions or self._wanted) and DRAIN not in (len(control), len(lane)):
                break  # nothing was sent, so the sockets are unchanged since everything was read
        if before != self._heard and self._sitter not in (None, threading.get_ident()):
            self._seat.waker.wake()
        self.turned = time.monotonic()

    def _decide(self, control: list[QueueFrame], lane: list[QueueFrame], turned_away: str) -> list[Action]:
        """Pass what came to the machine; returns the actions to perform."""
        machine, came = self._machine, bool(control or lane or turned_away)
        with self._hold:
            self._woken = False
            now = time.monotonic()
            if turned_away:
                machine.turned_away(turned_away, now)
            else:
                for envelope in control + lane:
                    machine.receive(envelope, now)
            if came:
                self._heard += 1
                self._hold.notify()
            machine.tick(now)
            actions = machine.flush(now)
            self._sleeps_until = machine.deadline(now)
        if came and self._on_change is not None:
            self._on_change()
        return actions

    # -- the sockets -----------------------------------------------------------------------------

    def _look(self, now: float) -> str:
        """Why one of the sockets was refused; empty if none was."""
        dialed = [each for each in (self._control, self._inbox, self._lane) if each is not None]
        looks = [each.look(now) for each in dialed]
        self._look_next = min([each.look_next for each in dialed], default=0.0)
        return next(filter(None, looks), "")

    def _read(self, socket: zmq.Socket[bytes]) -> list[QueueFrame]:
        heard: list[QueueFrame] = []
        while len(heard) < DRAIN and sockets.readable(socket):
            try:
                heard.append(messages.unpack(sockets.receive(socket, 1, small=sockets.COPIED)))
            except zmq.Again:
                break
            except ProtocolError as error:
                text = f"dropped a malformed message from {self._address}: %s"
                self._complaints.note(text, error, time.monotonic())
        return heard

    def _act(self, action: Action) -> None:
        """Perform an action. If it fails for lack of resources, it is repeated: numbered messages are sent
        again, and a new session replaces one that lacks a socket."""
        try:
            if type(action) is SendControl:
                self._send(action.envelope)
            else:
                self._change_sockets(action)
        except sockets.FAILURES as error:
            self._mishaps.note(error)
            if isinstance(action, ConnectInbox | ConnectLane):
                with self._hold:
                    self._machine.begin_again(time.monotonic())

    def _change_sockets(self, action: Action) -> None:
        self._look_next = 0.0
        match action:
            case ConnectControl(session):
                self._close_sockets()
                self._session = session.encode()
                self._control = self._open(zmq.DEALER, self._address, identity=session)
            case ConnectInbox(place, ticket):
                self._ticket = ticket.encode()
                self._inbox = self._open(zmq.PUSH, self._address.beside(place))
            case ConnectLane(place):
                self._lane = self._open(zmq.PULL, self._address.beside(place))
            case Close():
                self._close_sockets()

    def _send(self, envelope: QueueFrame) -> None:
        frames = messages.pack(*envelope)
        with contextlib.suppress(zmq.Again):
            if envelope.message.body is None:
                if self._control is not None:
                    self._control.socket.send_multipart(frames, zmq.NOBLOCK)
            elif self._inbox is not None:
                sockets.send_items(self._inbox.socket, [self._session, self._ticket, *frames])

    def _open(self, kind: int, address: Address, *, identity: str = "") -> Connection | None:
        largest = sockets.LARGEST_FRAME if kind == zmq.PULL else sockets.LARGEST_CONTROL
        try:
            dialed = Connection(kind, address, self._access, identity=identity, largest=largest)
        except (AddressError, KeysError) as error:  # the keys were valid when the queue was made
            with self._hold:
                self._machine.turned_away(str(error), time.monotonic())
            return None
        if kind != zmq.PUSH:
            self._watch_others([*self._watched, int(dialed.socket.getsockopt(zmq.FD))])
        return dialed

    def _close_sockets(self) -> None:
        for dialed in (self._control, self._inbox, self._lane):
            if dialed is not None:
                dialed.close()
        self._control = self._inbox = self._lane = None
        if self._watched:
            self._watch_others([])

    def _watch_others(self, descriptors: list[int]) -> None:
        self._watched = descriptors
        for wait_handle in (self._wait_handle, self._seat):
            wait_handle.waker.wake()
