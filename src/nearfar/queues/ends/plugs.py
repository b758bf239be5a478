"""The sockets of an end: opened, read and closed as its machine says, by one thread at a time."""

from __future__ import annotations

import contextlib
import logging
import time

import zmq

from nearfar.errors import AddressError, KeysError, ProtocolError
from nearfar.net import sockets
from nearfar.net.access import Access
from nearfar.net.addresses import Address
from nearfar.net.complaints import Complaints
from nearfar.net.dialing import Dialed
from nearfar.net.shortage import Mishaps
from nearfar.queues import wire
from nearfar.queues.ends.actions import Action, Close, Connect, ConnectInbox, ConnectLane, Send
from nearfar.queues.ends.bed import Bed
from nearfar.queues.ends.hold import Hold
from nearfar.queues.ends.machine import EndMachine

log = logging.getLogger("nearfar.queues.ends.loop")

DRAIN = 256
"""Messages read before the machine gets to answer."""


class Plugs:
    """What connects `machine` to the queue at `address`, as `access` says."""

    def __init__(self, machine: EndMachine, address: Address, access: Access, hold: Hold) -> None:
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
        self._bed, self._seat = Bed(), Bed()

    def _look(self) -> str:
        """Why one of the sockets was not let in; nothing if all were."""
        now = time.monotonic()
        looks = [
            dialed.look(now) for dialed in (self._control, self._inbox, self._lane) if dialed is not None
        ]
        return next(filter(None, looks), "")

    def _read(self, dialed: Dialed | None) -> list[wire.Envelope]:
        heard: list[wire.Envelope] = []
        if dialed is None:
            return heard
        socket = dialed.socket
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
            self._do(action)
        except sockets.FAILURES as error:
            self._mishaps.note(error)
            if isinstance(action, ConnectInbox | ConnectLane):
                with self._hold:
                    self._machine.begin_again(time.monotonic())

    def _do(self, action: Action) -> None:
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
