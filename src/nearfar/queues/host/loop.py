"""The host's thread: owns the sockets of one queue, and does what its machine says."""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections import deque

import zmq

from nearfar.errors import AddressError, ProtocolError
from nearfar.net import sockets
from nearfar.net.addresses import Address
from nearfar.net.waker import Waker
from nearfar.net.watch import Watch
from nearfar.queues import wire
from nearfar.queues.host.ledger import Ledger
from nearfar.queues.host.leftovers import clear_lanes
from nearfar.queues.host.machine import HostMachine
from nearfar.queues.host.peers import CloseLane, OpenLane, Send
from nearfar.queues.wire import Envelope, Kind

log = logging.getLogger(__name__)

DRAIN = 256
"""Messages read from one socket before the others get their turn."""


class Lane:
    """The PUSH socket of one consumer. It refuses messages until its consumer has connected: they wait."""

    def __init__(self, place: int | str, socket: zmq.Socket[bytes]) -> None:
        self.place = place
        self.socket = socket
        self.backlog: deque[list[bytes]] = deque()

    def send(self, frames: list[bytes]) -> None:
        self.backlog.append(frames)
        self.push()

    def push(self) -> None:
        """Send what waits, as far as it goes."""
        with contextlib.suppress(zmq.Again):
            while self.backlog:
                self.socket.send_multipart(self.backlog[0], zmq.NOBLOCK)
                self.backlog.popleft()


class Host:
    """Hosts one queue at `address` in a thread of this process, until `close`.

    `lease` is in seconds; `ports` are those that the sockets beside the address may use (None: any free one).
    `trusted` says whether this queue's peers may send pickles. Raises `AddressError`.
    """

    def __init__(
        self, address: Address, ledger: Ledger, *, lease: float, trusted: bool, ports: range | None = None
    ) -> None:
        self._ports = ports
        self._control = sockets.make(zmq.ROUTER)
        self._inbox = sockets.make(zmq.PULL)
        try:
            self.address = sockets.bind(self._control, address)
            self._inbox_place = sockets.bind_in(self._inbox, self.address, ports, ".inbox")
        except AddressError:
            self._control.close()
            self._inbox.close()
            raise
        clear_lanes(self.address)
        about = {
            "epoch": secrets.token_hex(8),
            "inbox": self._inbox_place,
            "maxsize": ledger.maxsize,
            "maxbytes": ledger.maxbytes,
            "lease": lease,
            "trusted": trusted,
        }
        self.malformed = 0
        self._machine = HostMachine(ledger, about, lease=lease)
        self._lanes: dict[str, Lane] = {}
        # an end of an earlier host at this address may still call at its lane: it must not find another's
        self._lanes_opened = secrets.randbelow(100_000)
        self._watch = Watch()
        self._waker = Waker()
        self._poller = zmq.Poller()
        for source in (self._control, self._inbox, self._waker.fileno()):
            self._poller.register(source, zmq.POLLIN)
        self._closing: float | None = None
        self._next_tick = 0.0
        self._soon = lease / 100
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"nearfar-host-{self.address}", daemon=True)
        self._thread.start()

    def counts(self) -> dict[str, int]:
        """The ledger in figures, and how many frames were malformed."""
        with self._lock:
            return self._machine.counts() | {"malformed": self.malformed}

    def close(self, timeout: float = 2.0) -> None:
        """Stop, when every end has said goodbye, or after `timeout` seconds."""
        self._closing = time.monotonic() + timeout
        self._waker.wake()
        self._thread.join()

    # -- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._may_stop():
                events = dict(self._poller.poll(self._patience()))
                with self._lock:
                    self._read(events)
                    self._see_deaths(events)
                    now = time.monotonic()
                    if now >= self._next_tick or not events:
                        self._machine.tick(now)
                        self._next_tick = self._machine.deadline(now)
                    self._act(now)
                    if events:  # what came may be due before anything that was known
                        self._next_tick = min(self._next_tick, now + self._soon)
        finally:
            self._close_everything()

    def _may_stop(self) -> bool:
        if self._closing is None:
            return False
        return not self._machine.peers or time.monotonic() >= self._closing

    def _patience(self) -> int:
        now = time.monotonic()
        deadline = self._next_tick
        if self._closing is not None:
            deadline = min(deadline, self._closing)
        return max(0, int((deadline - now) * 1000) + 1)

    def _read(self, events: dict[object, int]) -> None:
        self._waker.clear()
        for socket in (self._inbox, self._control):
            if socket not in events:
                continue
            with contextlib.suppress(zmq.Again):
                for _ in range(DRAIN):
                    self._receive(socket.recv_multipart(zmq.NOBLOCK))

    def _receive(self, frames: list[bytes]) -> None:
        now = time.monotonic()
        try:
            session = frames[0].decode()
            envelope = wire.unpack(frames[1:])
        except (ProtocolError, UnicodeDecodeError) as error:
            self.malformed += 1
            log.warning("dropped a malformed message: %s", str(error)[:200])
            return
        if envelope.message.kind is Kind.HELLO and session not in self._machine.peers:
            descriptor = self._watch.add(session, envelope.message.fields[2])
            if descriptor is not None:
                self._poller.register(descriptor, zmq.POLLIN)
        self._machine.receive(session, envelope, now)

    def _see_deaths(self, events: dict[object, int]) -> None:
        for source in events:
            if isinstance(source, int) and (found := self._watch.ended(source)) is not None:
                self._poller.unregister(source)
                session, pid = found
                self._machine.dead(session, f"process {pid} ended", time.monotonic())

    def _act(self, now: float) -> None:
        """Do what the machine says; doing may give it more to say."""
        while actions := self._machine.flush(now):
            for action in actions:
                match action:
                    case Send(session, envelope):
                        self._send(session, envelope)
                    case OpenLane(session, ask):
                        self._open_lane(session, ask, now)
                    case CloseLane(session):
                        self._close_lane(session)
        for lane in self._lanes.values():
            if lane.backlog:
                lane.push()
                self._poller.register(lane.socket, zmq.POLLOUT if lane.backlog else 0)

    def _send(self, session: str, envelope: Envelope) -> None:
        frames = wire.pack(*envelope)
        if envelope.message.kind is not Kind.LEND:
            with contextlib.suppress(zmq.Again):
                self._control.send_multipart([session.encode(), *frames], zmq.NOBLOCK)
        elif session in self._lanes:
            self._lanes[session].send(frames)

    def _open_lane(self, session: str, ask: int, now: float) -> None:
        if session not in self._lanes:
            socket = sockets.make(zmq.PUSH)
            self._lanes_opened += 1
            suffix = f".lane-{self._lanes_opened % 100_000}"
            try:
                place = sockets.bind_in(socket, self.address, self._ports, suffix)
            except AddressError as error:
                socket.close()
                log.error("no lane for %s: %s", session, error)
                return
            self._lanes[session] = Lane(place, socket)
        self._machine.lane_opened(session, ask, self._lanes[session].place, now)

    def _close_lane(self, session: str) -> None:
        lane = self._lanes.pop(session, None)
        if lane is not None:
            if lane.socket in self._poller:
                self._poller.unregister(lane.socket)
            sockets.close_bound(lane.socket, self.address, lane.place)

    def _close_everything(self) -> None:
        for lane in self._lanes.values():
            sockets.close_bound(lane.socket, self.address, lane.place)
        sockets.close_bound(self._inbox, self.address, self._inbox_place)
        sockets.close_bound(self._control, self.address)
        self._watch.close()
        self._waker.close()
