"""An end's thread: owns the sockets that connect one process to one queue, and does what its machine says."""

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
from nearfar.net.dialing import Dialed
from nearfar.net.waker import Waker
from nearfar.queues import wire
from nearfar.queues.ends.actions import Action, Close, Connect, ConnectInbox, ConnectLane, Send
from nearfar.queues.ends.machine import EndMachine, State

log = logging.getLogger(__name__)

DRAIN = 256
"""Messages read before the machine gets to answer."""


class EndLoop:
    """Runs `machine` against the queue at `address`, as `access` says; `changed` guards the machine, and is
    notified.

    `on_change` is called without the lock after anything came in.
    """

    def __init__(
        self,
        machine: EndMachine,
        address: Address,
        access: Access,
        changed: threading.Condition,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self._machine = machine
        self._address = address
        self._access = access
        self._changed = changed
        self._on_change = on_change
        self._complaints = Complaints(log)
        self._waker = Waker()
        self._woken = False
        self._sleeps_until = 0.0
        self._control: Dialed | None = None
        self._inbox: Dialed | None = None
        self._lane: Dialed | None = None
        self._poller = zmq.Poller()
        self._thread = threading.Thread(target=self._run, name=f"nearfar-end-{address}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Let the thread look at the machine now. Call with the lock held."""
        if not self._woken:
            self._woken = True
            self._waker.wake()

    def wake_within(self, seconds: float, now: float) -> None:
        """Let the thread look at the machine within `seconds`. Call with the lock held."""
        if self._sleeps_until > now + seconds:
            self.wake()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread to end; tells whether it did."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # -- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        self._poller.register(self._waker.fileno(), zmq.POLLIN)
        try:
            while self._step():
                pass
        except Exception:
            log.exception("the thread of the queue at %s failed", self._address)
            raise
        finally:
            self._close_sockets()
            with self._changed:
                self._machine.state = State.CLOSED
                self._waker.close()
                self._changed.notify_all()

    def _step(self) -> bool:
        """One turn: act, sleep, read. False when the machine is closed and nothing is left to do."""
        with self._changed:
            self._woken = False
            now = time.monotonic()
            self._machine.tick(now)
            actions = self._machine.flush(now)
            closed = self._machine.state is State.CLOSED
            deadline = self._machine.deadline(now)
            self._sleeps_until = deadline
        for action in actions:
            self._act(action)
        if closed:
            return False
        patience = max(0, int((deadline - time.monotonic()) * 1000) + 1)
        events = dict(self._poller.poll(patience))
        self._waker.clear()
        heard = self._read(self._control, events) + self._read(self._lane, events)
        # After reading: a stranger that took the host's place was seen to connect before it said anything.
        turned_away = self._look()
        if heard or turned_away:
            with self._changed:
                now = time.monotonic()
                if turned_away:
                    self._machine.turned_away(turned_away, now)
                else:
                    for envelope in heard:
                        self._machine.receive(envelope, now)
                self._changed.notify_all()
            if self._on_change is not None:
                self._on_change()
        return True

    def _look(self) -> str:
        """Why one of the sockets was not let in; nothing if all were."""
        now = time.monotonic()
        looks = [
            dialed.look(now) for dialed in (self._control, self._inbox, self._lane) if dialed is not None
        ]
        return next(filter(None, looks), "")

    def _read(self, dialed: Dialed | None, events: dict[object, int]) -> list[wire.Envelope]:
        heard: list[wire.Envelope] = []
        if dialed is None or dialed.socket not in events:
            return heard
        with contextlib.suppress(zmq.Again):
            for _ in range(DRAIN):
                frames = dialed.socket.recv_multipart(zmq.NOBLOCK)
                try:
                    heard.append(wire.unpack(frames))
                except ProtocolError as error:
                    text = f"dropped a malformed message from {self._address}: %s"
                    self._complaints.note(text, error, time.monotonic())
        return heard

    def _act(self, action: Action) -> None:
        match action:
            case Send(envelope):
                self._send(envelope)
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

    def _send(self, envelope: wire.Envelope) -> None:
        frames = wire.pack(*envelope)
        with contextlib.suppress(zmq.Again):
            if envelope.message.body is None:
                if self._control is not None:
                    self._control.socket.send_multipart(frames, zmq.NOBLOCK)
            elif self._inbox is not None:
                self._inbox.socket.send_multipart([self._session, self._ticket, *frames], zmq.NOBLOCK)

    def _open(self, kind: int, address: Address, *, identity: str = "") -> Dialed | None:
        largest = sockets.LARGEST_FRAME if kind == zmq.PULL else sockets.LARGEST_CONTROL
        try:
            dialed = Dialed(kind, address, self._access, identity=identity, largest=largest)
        except (AddressError, KeysError) as error:  # the keys were fine when the queue was made
            with self._changed:
                self._machine.turned_away(str(error), time.monotonic())
            return None
        if kind != zmq.PUSH:
            self._poller.register(dialed.socket, zmq.POLLIN)
        return dialed

    def _close_sockets(self) -> None:
        for dialed in (self._control, self._inbox, self._lane):
            if dialed is not None:
                if dialed.socket in self._poller:
                    self._poller.unregister(dialed.socket)
                dialed.close()
        self._control = self._inbox = self._lane = None
