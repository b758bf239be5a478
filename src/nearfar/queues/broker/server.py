"""The broker's thread: it owns the sockets of one queue, and performs the actions of `BrokerProtocol`."""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import zmq

from nearfar.errors import AddressError, NearfarError, ProtocolError
from nearfar.net import resources, sockets
from nearfar.net.addresses import Address
from nearfar.net.admission import Authenticator
from nearfar.net.auth import Access
from nearfar.net.failures import PAUSE, LoopFailures, service_failed
from nearfar.net.frames import WrongHello
from nearfar.net.interrupts import ours
from nearfar.net.process import ProcessWatcher, Waker
from nearfar.net.sockets import send_items
from nearfar.net.validation import ProtocolErrors, shown
from nearfar.queues import messages
from nearfar.queues.broker.ledger import Ledger
from nearfar.queues.broker.protocol import BrokerProtocol
from nearfar.queues.broker.sessions import CloseLane, OpenLane, SendTo
from nearfar.queues.messages import QueueFrame, QueueMessageType
from nearfar.serialization.shared_ring import HostRings


class DeliverySocket:
    """The PUSH socket of one consumer (its lane). Messages wait here until the consumer has connected."""

    def __init__(self, place: int | str, socket: zmq.Socket[bytes]) -> None:
        self.place = place
        self.socket = socket
        self.backlog: deque[tuple[int, list[bytes]]] = deque()
        self._waiting: set[int] = set()

    def send(self, number: int, frames: list[bytes]) -> None:
        """Send message `number`, unless it still waits here since it was first sent."""
        if number not in self._waiting:
            self._waiting.add(number)
            self.backlog.append((number, frames))
            self.push()

    def push(self) -> None:
        """Send the waiting messages, as many as the socket accepts."""
        with contextlib.suppress(zmq.Again):
            while self.backlog:
                number, frames = self.backlog[0]
                # without a copy if it is long: what the consumer does not read is kept here only once
                send_items(self.socket, frames)
                self.backlog.popleft()
                self._waiting.discard(number)


def clear_lanes(address: Address) -> None:
    """Remove the lane sockets of `address` at which no process listens. Only the process that has bound
    `address` may call this.

    The sockets of a frozen host still listen, and stay.
    """
    if not address.path:
        return
    place = Path(address.path)
    lane = re.compile(re.escape(place.name) + r"\.lane-\d+")
    with contextlib.suppress(OSError):
        for path in [path for path in place.parent.iterdir() if lane.fullmatch(path.name)]:
            if stat.S_ISSOCK(path.lstat().st_mode) and not _listens(path):
                path.unlink()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
    return True


def warn_of_losses(address: Address, counts: Mapping[str, int]) -> None:
    """Log a warning if a queue ended with items in it, according to the last figures of its host."""
    if said := losses(counts):
        log.warning(
            "the queue at %s ended with %s", address, said, extra={"event": "ended", "fields": dict(counts)}
        )


def losses(counts: Mapping[str, int]) -> str:
    """``3 items waiting, 1 item delivered and not acknowledged; it is lost: …``; empty for none."""
    waiting, letters = counts["size"], counts["unread letters"]
    in_hand = counts["unsettled"] - waiting
    parts = [
        f"{number(waiting, 'item')} waiting" if waiting else "",
        f"{number(in_hand, 'item')} delivered and not acknowledged" if in_hand else "",
        f"{number(letters, 'dead letter')} unread" if letters else "",
    ]
    what = ", ".join(filter(None, parts))
    if not counts["unsettled"]:
        return f"{what}; it is lost" if what else ""
    if counts["producers"]:
        return f"{what}; the producers keep what they put, and send it again to a queue at the same address"
    return f"{what}; it is lost: its producers have left"


def number(count: int, thing: str) -> str:
    """``1 item``, ``1,204 items``."""
    return f"{count:,} {thing}{'s' * (count != 1)}"


T = TypeVar("T")

log = logging.getLogger(__name__)

DRAIN = 256
"""Messages read from one socket before the others are read."""
DESCRIPTORS = 7
"""Descriptors per client: connections, its lane, the pidfd of its process, its shared memory; 8 if it puts
and gets."""
LANE_EVERY = 0.1
"""Seconds between two attempts to open a lane for which there were no resources."""
LANE_WITHIN = 2.0
"""Seconds after which a consumer that waits for a lane is refused."""
LOOK_EVERY = 0.5
"""The most seconds between two checks of the authenticator without a new connection."""
MOST_NAMES = 10_000
"""Socket identities whose names are kept."""
BODY = 3
"""The index of the frame with items, in messages to the inbox."""


class Broker:
    """Hosts one queue at `address` in a thread of this process, until `close`.

    `lease` is in seconds; the additional sockets use `ports` (None: any free one). `access` defines who is
    admitted. Raises `AddressError`, `KeysError`.
    """

    def __init__(
        self,
        address: Address,
        ledger: Ledger,
        access: Access,
        *,
        lease: float,
        ports: range | None = None,
    ) -> None:
        resources.make_room(resources.SERVICE, "a queue's host")
        resources.lift_limit()  # for as many clients as may connect, admitted or not
        self._room = resources.DescriptorLimit(DESCRIPTORS)
        self._ports = ports
        self._authenticator = Authenticator(access)
        self._control = self._authenticator.make(zmq.ROUTER, sockets.LARGEST_CONTROL)
        self._inbox = self._authenticator.make(zmq.PULL, _largest_item(ledger.maxbytes))
        try:
            self.address = self._authenticator.bind(self._control, address)
            self._inbox_place = self._authenticator.bind_in(self._inbox, self.address, ports, ".inbox")
        except NearfarError:
            self._control.close()
            self._inbox.close()
            self._authenticator.close()
            raise
        clear_lanes(self.address)
        about = {
            "epoch": secrets.token_hex(8),
            "inbox": self._inbox_place,
            "maxsize": ledger.maxsize,
            "maxbytes": ledger.maxbytes,
            "lease": lease,
            "trusted": access.trusted,
        }
        self._complaints = ProtocolErrors(log)
        self._nameless = 0
        self._rings = HostRings()
        self._machine = BrokerProtocol(
            ledger,
            about,
            lease=lease,
            secret=secrets.token_bytes(32),
            most_peers=sockets.most_peers(DESCRIPTORS),
            rings=self._rings,
        )
        self._lanes: dict[str, DeliverySocket] = {}
        self._behind: set[str] = set()
        """The sessions whose lanes have a backlog."""
        # a client of an earlier host at this address may still connect to its lane: it must not reach another
        self._lanes_opened = secrets.randbelow(100_000)
        self._watch = ProcessWatcher()
        self._waker = Waker()
        self._wakes = self._waker.fileno()
        self._poller = zmq.Poller()
        sources = (
            self._inbox,
            self._control,
            self._waker.fileno(),
            self._authenticator.questions,
            self._authenticator.arrivals,
        )
        for source in sources:
            if source is not None:
                self._poller.register(source, zmq.POLLIN)
        self.failure: BaseException | None = None
        """The error that ended the hosting before `close`, if any."""
        self._mishaps = LoopFailures(log, f"the queue at {self.address}")
        self._lanes_due: dict[str, tuple[int, float]] = {}
        """The sessions that wait for a lane, because none could be opened; with their question's number and
        the time at which they are refused."""
        self._next_lanes = 0.0
        self._closing: float | None = None
        self._next_tick = self._next_look = 0.0
        self._door_due: float | None = 0.0
        self._names: dict[bytes, str] = {}
        """The names of clients as text, by ZeroMQ's identity."""
        self._soon = lease / 100
        self._lock = threading.Lock()
        self._thread = threading.Thread(
            target=ours(self._run), name=f"nearfar-host-{self.address}", daemon=True
        )
        self._thread.start()

    def counts(self) -> dict[str, int]:
        """The ledger's figures, the numbers of malformed messages and of messages without a name, and the
        number of connections turned away."""
        with self._lock:
            return self._machine.counts() | {
                "malformed": self._complaints.count,
                "nameless": self._nameless,
                "turned away": self._authenticator.turned_away,
            }

    def close(self, timeout: float = 2.0) -> None:
        """Stop when every client has left, or after `timeout` seconds. Items left then are logged."""
        self._closing = time.monotonic() + timeout
        self._waker.wake()
        self._thread.join()

    # -- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._may_stop():
                self._turn()
        except BaseException as error:
            self._failed(error)
        finally:
            self._close_everything()
            warn_of_losses(self.address, self._machine.counts())
        if self.failure is not None:
            service_failed(f"the queue at {self.address} failed and has stopped: {self.failure!r}")

    def _turn(self) -> None:
        """One iteration of the loop. If one part fails, the others still run and the loop goes on: what was
        not read is still in the socket, and what was not sent is sent again."""
        nothing: list[tuple[object, int]] = []
        events = self._try(self._wait, otherwise=nothing) or nothing
        with self._lock:
            for source, _ in events:
                self._try(self._attend, source)
            now = time.monotonic()
            if now >= self._next_look:
                self._try(self._keep_the_door, now)
            if now >= self._next_tick or not events:
                self._machine.tick(now)
                self._next_tick = self._machine.deadline(now)
            if self._lanes_due:
                self._try(self._open_due_lanes, now)
            self._act(now)
            if len(self._watch) > len(self._machine.peers):
                self._forget_idle()
            if events:  # the new messages may bring an earlier deadline
                self._next_tick = min(self._next_tick, now + self._soon)

    def _try(self, do: Callable[..., T], *given: object, otherwise: T | None = None) -> T | None:
        """What `do` returns; `otherwise` if it fails."""
        try:
            return do(*given)
        except sockets.FAILURES as error:
            self._mishaps.note(error)
            return otherwise

    def _wait(self) -> list[tuple[object, int]]:
        when, now = self._next_tick, time.monotonic()
        for other in (self._closing, self._door_due, self._next_lanes if self._lanes_due else None):
            if other is not None and other < when:
                when = other
        try:
            return self._poller.poll(max(0, int((when - now) * 1000) + 1))
        except sockets.FAILURES:
            time.sleep(PAUSE)
            raise

    def _failed(self, error: BaseException) -> None:
        """Record that a bug ended the loop."""
        log.error("the loop of the queue at %s failed", self.address, exc_info=error)
        self.failure = error

    def _may_stop(self) -> bool:
        closing = self._closing
        return closing is not None and (not self._machine.peers or time.monotonic() >= closing)

    def _attend(self, source: object) -> None:
        """Process the event of `source`."""
        if source is self._inbox:
            self._read(self._inbox, sockets.COPIED)
        elif source is self._control:
            self._read(self._control, sockets.LARGEST_CONTROL)
        elif source == self._wakes:
            self._waker.clear()
        elif isinstance(source, int) and (found := self._watch.ended(source)) is not None:
            self._poller.unregister(source)
            session, pid = found
            self._machine.dead(session, f"process {pid} ended", time.monotonic())
        else:
            self._next_look = 0.0  # the authenticator has a new connection or question

    def _read(self, socket: zmq.Socket[bytes], small: int) -> None:
        with contextlib.suppress(zmq.Again):
            for _ in range(DRAIN):
                if self._authenticator.guarded:
                    user, first = self._authenticator.receive(socket)
                    frames = sockets.receive(socket, BODY, first, small=small)
                    if self._authenticator.admits(user):
                        self._receive(socket, frames, user)
                else:
                    self._receive(socket, sockets.receive(socket, BODY, small=small))
                if not sockets.readable(socket):  # cheaper than zmq.Again
                    break

    def _keep_the_door(self, now: float) -> None:
        """Run the authenticator, and end the sessions whose key was revoked: others get what they hold."""
        self._next_look = now + LOOK_EVERY
        for session in self._authenticator.turn(now, self._machine.peers):
            self._machine.expel(session, "its key was revoked", now)
        self._door_due = self._authenticator.deadline()
        if self._door_due is not None:
            self._next_look = min(self._next_look, self._door_due)

    def _receive(self, socket: zmq.Socket[bytes], frames: list[bytes], user: str = "") -> None:
        """Process one message. No message of a peer ends this thread."""
        now = time.monotonic()
        session = self._names.get(frames[0], "")
        machine = self._machine
        try:
            if not session:
                session = self._learn_name(frames[0])
            if self._authenticator.guarded:
                self._authenticator.check_session(session, user, machine.peers)
            if socket is self._inbox:
                if len(frames) != 4:
                    raise ProtocolError(f"{len(frames)} frames in the inbox")
                # any client can send there under any name: the ticket proves the sender
                peer = machine.peers.get(session)
                if peer is not None and not secrets.compare_digest(frames[1], peer.ticket.encode()):
                    raise ProtocolError("items in the name of another client")
                envelope = messages.unpack(frames[2:])
            else:
                envelope = messages.unpack(frames[1:])
            if (
                session in machine.peers
                or envelope.message.kind is not QueueMessageType.HELLO
                or self._has_room(session, envelope, now)
            ):
                machine.receive(session, envelope, now)
        except WrongHello as error:
            self._complaints.note("refused a peer: %s", error, now)
            machine.refuse(session, error.why)
        except sockets.Nameless:
            self._nameless += 1
        except ProtocolError as error:
            self._complaints.note("dropped a malformed message: %s", error, now)
        except Exception:  # a bug that one peer triggers must not end the host for the others
            log.exception("a message of %s could not be processed", shown(session))
            machine.give_up(session, "the host failed to process its message", now)
        if machine.complaints:
            for fault in machine.take_complaints():
                self._complaints.note("ended a session: %s", fault, now)

    def _learn_name(self, identity: bytes) -> str:
        """The name of the sender; kept for clients with a session."""
        session = sockets.peer_name(identity)
        if session in self._machine.peers:
            if len(self._names) >= MOST_NAMES:
                self._names.clear()
            self._names[identity] = session
        return session

    def _has_room(self, session: str, hello: QueueFrame, now: float) -> bool:
        """Whether there are descriptors for one more client; if so, its process is watched."""
        if self._room.lacks(self._waker.fileno(), now):
            if self._room.refuses(now):
                self._machine.refuse(session, self._room.REFUSAL)
            return False
        descriptor = self._watch.add(session, hello.message.fields[2])
        if descriptor is not None:
            self._poller.register(descriptor, zmq.POLLIN)
        return True

    def _forget_idle(self) -> None:
        """Stop watching the processes of clients that have left."""
        for idle in self._watch.idle(self._machine.peers):
            self._poller.unregister(idle)
            self._watch.ended(idle)

    def _act(self, now: float) -> None:
        """Perform the protocol's actions; opening a lane yields further ones."""
        more = True
        while more:
            more = False
            for action in self._machine.flush(now):
                try:
                    match action:
                        case SendTo(session, envelope):
                            self._send(session, envelope)
                        case OpenLane(session, ask):
                            more = True
                            self._open_lane(session, ask, now)
                        case CloseLane(session):
                            self._close_lane(session)
                except sockets.FAILURES as error:  # numbered messages are sent again
                    self._mishaps.note(error)
        if self._behind:
            for session in list(self._behind):
                self._try(self._push, session)

    def _push(self, session: str) -> None:
        lane = self._lanes.get(session)
        if lane is not None:
            lane.push()
            self._poller.register(lane.socket, zmq.POLLOUT if lane.backlog else 0)
        if lane is None or not lane.backlog:
            self._behind.discard(session)

    def _send(self, session: str, envelope: QueueFrame) -> None:
        frames = messages.pack(*envelope)
        if envelope.message.kind is not QueueMessageType.LEND:
            with contextlib.suppress(zmq.Again):
                self._control.send_multipart([session.encode(), *frames], zmq.NOBLOCK)
        elif session in self._lanes:
            lane = self._lanes[session]
            lane.send(envelope.number, frames)
            if lane.backlog:
                self._behind.add(session)

    def _open_lane(self, session: str, ask: int, now: float, until: float | None = None) -> None:
        """`until`: when the consumer is refused, if no lane can be opened."""
        if session not in self._lanes:
            try:
                self._lanes[session] = self._make_lane(session)
            except (AddressError, *sockets.FAILURES) as error:
                until = now + LANE_WITHIN if until is None else until
                if now < until and session in self._machine.peers:
                    self._lanes_due[session] = ask, until
                    self._next_lanes = now + LANE_EVERY
                    self._mishaps.note(error, "cannot open a lane for a consumer now")
                    return
                log.error("cannot open a lane for %s: %s", session, error)
                self._machine.refuse(session, f"the host cannot open a lane for it: {error}")
                self._machine.dead(session, "the host could not open a lane for it", now)
                return
        self._machine.lane_opened(session, ask, self._lanes[session].place, now)

    def _open_due_lanes(self, now: float) -> None:
        """Try again to open the lanes for which there were no resources."""
        if self._lanes_due and now >= self._next_lanes:
            due, self._lanes_due = self._lanes_due, {}
            for session, (ask, until) in due.items():
                if session in self._machine.peers:
                    self._open_lane(session, ask, now, until)

    def _make_lane(self, session: str) -> DeliverySocket:
        """Raises `AddressError`, and `sockets.FAILURES` if no socket can be made."""
        socket = self._authenticator.make(zmq.PUSH, sockets.LARGEST_CONTROL)
        self._lanes_opened += 1
        suffix = f".lane-{self._lanes_opened % 100_000}"
        try:
            place = self._authenticator.bind_in(socket, self.address, self._ports, suffix, only=session)
            return DeliverySocket(place, socket)
        except BaseException:
            socket.close()
            raise

    def _close_lane(self, session: str) -> None:
        lane = self._lanes.pop(session, None)
        if lane is not None:
            if lane.socket in self._poller:
                self._poller.unregister(lane.socket)
            self._authenticator.unbind(lane.socket, self.address, lane.place)

    def _close_everything(self) -> None:
        with self._lock:
            for lane in self._lanes.values():
                self._try(self._authenticator.unbind, lane.socket, self.address, lane.place)
            self._try(self._authenticator.unbind, self._inbox, self.address, self._inbox_place)
            self._try(self._authenticator.unbind, self._control, self.address)
            for close in (self._authenticator.close, self._watch.close, self._waker.close, self._rings.close):
                self._try(close)


def _largest_item(maxbytes: int) -> int:
    """The largest frame of the inbox, in bytes: an item larger than the whole queue is never put."""
    if not maxbytes:
        return sockets.LARGEST_FRAME
    return min(sockets.LARGEST_FRAME, max(maxbytes, sockets.LARGEST_CONTROL))
