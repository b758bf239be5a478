"""A client's sockets: they perform the actions of `ClientProtocol`, and read the messages for it."""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Callable

import zmq

from nearfar.errors import AddressError, KeysError, ProtocolError
from nearfar.net import sockets
from nearfar.net.addresses import Address
from nearfar.net.auth import Access
from nearfar.net.driver import Driver, Events, Hold
from nearfar.net.failures import LoopFailures
from nearfar.net.handshake import Connection
from nearfar.net.process import Waker
from nearfar.net.session import Connect, SendMessage, SessionStage
from nearfar.net.validation import ProtocolErrors
from nearfar.queues import messages
from nearfar.queues.client.protocol import ClientProtocol
from nearfar.queues.client.session import Action, Close, ConnectInbox, ConnectLane
from nearfar.queues.messages import QueueFrame

log = logging.getLogger(__name__)

_CLOSED = SessionStage.CLOSED  # looked up once: it is compared in every turn

DRAIN = 256
"""Messages read from one socket before they are processed."""


class ClientSockets:
    """Runs `machine` against the queue at `address`, according to `access`. `hold` guards the machine.

    `on_change` is called without the lock after anything arrived, from any thread.
    """

    def __init__(
        self,
        machine: ClientProtocol,
        address: Address,
        access: Access,
        hold: Hold,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self.due = 0.0
        self.over = False
        self._machine = machine
        self._address = address
        self._access = access
        self._hold = hold
        self._complaints = ProtocolErrors(log)
        self._mishaps = LoopFailures(log, f"the client of the queue at {address}")
        self._control: Connection | None = None
        self._inbox: Connection | None = None
        self._lane: Connection | None = None
        self._sources: dict[int, Connection] = {}
        """The sockets to read, by the descriptors that signal new messages."""
        self._epoll = select.epoll()
        self._waker = Waker()
        self._epoll.register(self._waker.fileno(), select.EPOLLIN)
        self._unread: set[Connection] = set()
        """The sockets that may have messages to read."""
        self._control_used = False
        """Whether a message was sent on the control socket since it was last read."""
        self._look_next = 0.0
        """When to check next whether a socket was refused."""
        self._on_change = on_change
        self.driver = Driver(self, hold, self._waker, f"nearfar-end-{address}")
        self.driver.start()

    # -- Work, for the driver ---------------------------------------------------------------------

    failed = untold = False
    tell = bool

    def poll(self, timeout: float | None) -> Events:
        try:
            return self._epoll.poll(timeout)
        except ValueError:  # closed meanwhile
            return ()
        except sockets.FAILURES as error:
            self._mishaps.pause(error)
            return ()

    def turn(self, events: Events) -> bool:
        """Read, pass what came to the machine, and perform its actions, until nothing more arrives; returns
        whether anything did. Without `events`, only what is known to be unread is read."""
        machine, came = self._machine, False
        try:
            if self._epoll.closed:
                return False
            for descriptor, _ in events:
                source = self._sources.get(descriptor)
                if source is None:
                    self._waker.clear()
                else:
                    self._unread.add(source)
            while True:
                heard = self._read_all() if self._unread else []
                # After reading: a connection to an impostor at the address is detected before its messages.
                now = time.monotonic()
                turned_away = self._look(now) if now >= self._look_next else ""
                with self._hold:
                    if turned_away:
                        machine.turned_away(turned_away, now)
                    else:
                        for envelope in heard:
                            machine.receive(envelope, now)
                    actions = machine.act(now)
                    self.due = machine.deadline(now)
                if heard or turned_away:
                    came = True
                    if self._on_change is not None:
                        self._on_change()
                for action in actions:
                    self._act(action)
                if self._control_used and self._control is not None:
                    self._control_used = False
                    if sockets.readable(self._control.socket):  # sending cleared the signal of new messages
                        self._unread.add(self._control)
                if machine.calling.stage is _CLOSED:
                    self.over = not self._sources
                    return came
                if not self._unread:
                    return came
        except sockets.FAILURES as error:
            self._mishaps.pause(error)
            self.due = 0.0
            return True

    def end(self, error: BaseException | None) -> None:
        if error is not None:
            log.error("the thread of the queue at %s failed", self._address, exc_info=error)
            self._machine.refused = f"its thread in this process failed: {error!r}"  # raised by all calls
        with self.driver.turns:
            self._close_sockets()
            self._epoll.close()
        with self._hold:
            self._machine.calling.stage = SessionStage.CLOSED
        self.over = True

    # -- the sockets -----------------------------------------------------------------------------

    def _look(self, now: float) -> str:
        """Why one of the sockets was refused; empty if none was."""
        dialed = [each for each in (self._control, self._inbox, self._lane) if each is not None]
        looks = [each.look(now) for each in dialed]
        self._look_next = min([each.look_next for each in dialed], default=0.0)
        return next(filter(None, looks), "")

    def _read_all(self) -> list[QueueFrame]:
        """The messages received on the control socket, then those on the lane."""
        heard: list[QueueFrame] = []
        for dialed in (self._control, self._lane):
            if dialed in self._unread:
                self._read(dialed, heard)
        return heard

    def _read(self, dialed: Connection, heard: list[QueueFrame]) -> None:
        socket = dialed.socket
        for _ in range(DRAIN):
            try:
                heard.append(messages.unpack(sockets.receive(socket, 1, small=sockets.COPIED)))
            except zmq.Again:
                break
            except ProtocolError as error:
                text = f"dropped a malformed message from {self._address}: %s"
                self._complaints.note(text, error, time.monotonic())
            if not sockets.readable(socket):  # cheaper than zmq.Again
                break
        else:
            return
        self._unread.discard(dialed)

    def _act(self, action: Action) -> None:
        """Perform an action. After a failure for lack of resources, it is repeated: numbered messages are
        resent, and a new session replaces one that lacks a socket."""
        try:
            if type(action) is SendMessage:
                self._send(action.envelope)
            else:
                self._change_sockets(action)
        except zmq.Again:  # the peer does not read: the message is sent again later
            pass
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

    def _send(self, envelope: QueueFrame) -> None:
        frames = messages.pack(*envelope)
        if envelope.message.body is None:
            if self._control is not None:
                self._control_used = True
                sockets.send(self._control.socket, frames)
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
            try:
                descriptor = sockets.descriptor(dialed.socket)
                self._epoll.register(descriptor, select.EPOLLIN)
            except BaseException:
                dialed.close()
                raise
            self._sources[descriptor] = dialed
            self._unread.add(dialed)
        return dialed

    def _close_sockets(self) -> None:
        for descriptor in self._sources:  # before they are closed: a forked child may keep them open
            self._epoll.unregister(descriptor)
        self._sources.clear()
        for dialed in (self._control, self._inbox, self._lane):
            if dialed is not None:
                dialed.close()
        self._control = self._inbox = self._lane = None
        self._unread.clear()
