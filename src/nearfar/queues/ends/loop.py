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

import contextlib
import logging
import threading
import time
from collections.abc import Callable

import zmq

from nearfar.errors import AddressError, KeysError, ProtocolError
from nearfar.net import sockets
from nearfar.net.access import Access
from nearfar.net.addresses import Address
from nearfar.net.complaints import Complaints
from nearfar.net.deputy import ours
from nearfar.net.dialing import Dialed
from nearfar.net.shield import Shield
from nearfar.net.shortage import PAUSE, Mishaps
from nearfar.net.sockets import FAILURES
from nearfar.queues import wire
from nearfar.queues.ends.actions import Action, Close, Connect, ConnectInbox, ConnectLane, Send
from nearfar.queues.ends.bed import Bed
from nearfar.queues.ends.hold import Hold
from nearfar.queues.ends.machine import EndMachine, State
from nearfar.queues.wire import Envelope

log = logging.getLogger(__name__)

DRAIN = 256
"""Messages read from one socket before the machine gets to answer."""

GRACE = 0.005
"""Seconds without a sitter after which the thread watches the sockets."""


class EndLoop:
    """Runs `machine` against the queue at `address`, as `access` says; `hold` guards the machine, and is
    notified.

    `on_change` is called without the lock after anything came in, by the thread alone: where it is given, no
    other takes turns.
    """

    sleeps = 0
    """How often a caller has slept until something came, at any queue of this process."""

    def __init__(
        self,
        machine: EndMachine,
        address: Address,
        access: Access,
        hold: Hold,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self._machine = machine
        self._address = address
        self._access = access
        self._hold = hold
        self._complaints = Complaints(log)
        self._mishaps = Mishaps(log, f"the end of the queue at {address}")
        self._control: Dialed | None = None
        self._inbox: Dialed | None = None
        self._lane: Dialed | None = None
        self._watched: list[int] = []
        """The descriptors of the sockets to read: a new list whenever they change."""
        self._look_next = 0.0
        """When it is to be asked next why a socket was not let in."""
        self._bed, self._seat = Bed(), Bed()
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
            watched = self._turn_when_free()
            if heard == self._heard and self._machine.state is not State.CLOSED:
                EndLoop.sleeps += 1
                _shield.let_through(self._seat.sleep, watched, min(until, self._sleeps_until))
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
                    watched = self._turn_when_free()
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
            self._turn_when_free()
        while deep and self._deep and self._machine.state is not State.CLOSED:
            self._bed.sleep([], time.monotonic() + 60)

    # -- a turn ----------------------------------------------------------------------------------

    def _turn_when_free(self) -> list[int]:
        """Take a turn, and another if somebody found the sockets taken meanwhile; what to watch then."""
        with self._turns:
            self._turn()
            watched = self._watched
        if self._wanted:
            self.help()
        return watched

    def _turn(self) -> None:
        """Act, read, and again, as long as anything comes. Call with `_turns` held."""
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
            # After reading: a stranger that took the host's place was seen to connect before it spoke.
            now = time.monotonic()
            turned_away = self._look(now) if now >= self._look_next else ""
            if not (first or control or lane or turned_away or self._wanted):
                break  # nothing came since all that was to be sent was sent
            first = self._wanted = False
            actions = self._decide(control, lane, turned_away)
            for action in actions:
                self._act(action)
            if self._machine.state is State.CLOSED:
                break
            if not (actions or self._wanted) and DRAIN not in (len(control), len(lane)):
                break  # nothing was sent: the sockets are still as they were when all had been read
        if before != self._heard and self._sitter not in (None, threading.get_ident()):
            self._seat.waker.wake()
        self.turned = time.monotonic()

    def _decide(self, control: list[Envelope], lane: list[Envelope], turned_away: str) -> list[Action]:
        """Have the machine take in what came, and tell what is to be done."""
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
        """Why one of the sockets was not let in; nothing if all were."""
        dialed = [each for each in (self._control, self._inbox, self._lane) if each is not None]
        looks = [each.look(now) for each in dialed]
        self._look_next = min([each.look_next for each in dialed], default=0.0)
        return next(filter(None, looks), "")

    def _read(self, socket: zmq.Socket[bytes]) -> list[Envelope]:
        heard: list[Envelope] = []
        while len(heard) < DRAIN and sockets.readable(socket):
            try:
                heard.append(wire.unpack(sockets.receive(socket, 1, small=sockets.COPIED)))
            except zmq.Again:
                break
            except ProtocolError as error:
                text = f"dropped a malformed message from {self._address}: %s"
                self._complaints.note(text, error, time.monotonic())
        return heard

    def _act(self, action: Action) -> None:
        """Do it. What fails for want of something is done again: a message is sent again by its line, and a
        session without all of its sockets begins anew."""
        try:
            if type(action) is Send:
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
            case Connect(session):
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

    def _send(self, envelope: Envelope) -> None:
        frames = wire.pack(*envelope)
        with contextlib.suppress(zmq.Again):
            if envelope.message.body is None:
                if self._control is not None:
                    self._control.socket.send_multipart(frames, zmq.NOBLOCK)
            elif self._inbox is not None:
                sockets.send_items(self._inbox.socket, [self._session, self._ticket, *frames])

    def _open(self, kind: int, address: Address, *, identity: str = "") -> Dialed | None:
        largest = sockets.LARGEST_FRAME if kind == zmq.PULL else sockets.LARGEST_CONTROL
        try:
            dialed = Dialed(kind, address, self._access, identity=identity, largest=largest)
        except (AddressError, KeysError) as error:  # the keys were fine when the queue was made
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
        for bed in (self._bed, self._seat):
            bed.waker.wake()


_shield = Shield()
