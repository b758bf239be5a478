"""The host's thread: owns the sockets of one queue, and does what its machine says."""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import zmq

from nearfar.errors import AddressError, NearfarError, ProtocolError
from nearfar.net import descriptors, sockets
from nearfar.net.access import Access
from nearfar.net.addresses import Address
from nearfar.net.complaints import Complaints, shown
from nearfar.net.deputy import ours
from nearfar.net.door import Door
from nearfar.net.ending import service_failed
from nearfar.net.shortage import PAUSE, Mishaps
from nearfar.net.waker import Waker
from nearfar.net.watch import Watch
from nearfar.queues import wire
from nearfar.queues.host.farewell import warn_of_losses
from nearfar.queues.host.lane import Lane
from nearfar.queues.host.ledger import Ledger
from nearfar.queues.host.leftovers import clear_lanes
from nearfar.queues.host.machine import HostMachine
from nearfar.queues.host.peers import CloseLane, OpenLane, Send
from nearfar.queues.wire import Envelope, Kind

T = TypeVar("T")

log = logging.getLogger(__name__)

DRAIN = 256
"""Messages read from one socket before the others get their turn."""
DESCRIPTORS = 6
"""That an end takes here: connections, its lane, what tells of its process's death; 7 if it puts and gets."""
LANE_EVERY = 0.1
"""Seconds between two tries to make a lane for which there was no room."""
LANE_WITHIN = 2.0
"""Seconds after which the consumer that waits for one is refused."""
LOOK_EVERY = 0.5
"""Seconds between two looks at the door when nobody is there, at least."""
MOST_NAMES = 10_000
"""Names of those who called that are kept."""
BODY = 3
"""Which frame of what comes to the inbox holds items."""


class Host:
    """Hosts one queue at `address` in a thread of this process, until `close`.

    `lease` is in seconds; `ports` are those that the sockets beside the address may use (None: any free one).
    `access` says who gets in. Raises `AddressError`, `KeysError`.
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
        descriptors.make_room(descriptors.SERVICE, "a queue's host")
        descriptors.lift_limit()  # for as many ends as may come, strangers or not
        self._room = descriptors.Room(DESCRIPTORS)
        self._ports = ports
        self._door = Door(access)
        self._control = self._door.make(zmq.ROUTER, sockets.LARGEST_CONTROL)
        self._inbox = self._door.make(zmq.PULL, _largest_item(ledger.maxbytes))
        try:
            self.address = self._door.bind(self._control, address)
            self._inbox_place = self._door.bind_in(self._inbox, self.address, ports, ".inbox")
        except NearfarError:
            self._control.close()
            self._inbox.close()
            self._door.close()
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
        self._complaints = Complaints(log)
        self._nameless = 0
        self._machine = HostMachine(
            ledger,
            about,
            lease=lease,
            secret=secrets.token_bytes(32),
            most_peers=sockets.most_peers(DESCRIPTORS),
        )
        self._lanes: dict[str, Lane] = {}
        self._behind: set[str] = set()
        """The sessions whose lanes have a backlog."""
        # an end of an earlier host at this address may still call at its lane: it must not find another's
        self._lanes_opened = secrets.randbelow(100_000)
        self._watch = Watch()
        self._waker = Waker()
        self._wakes = self._waker.fileno()
        self._poller = zmq.Poller()
        sources = (
            self._inbox,
            self._control,
            self._waker.fileno(),
            self._door.questions,
            self._door.arrivals,
        )
        for source in sources:
            if source is not None:
                self._poller.register(source, zmq.POLLIN)
        self.failure: BaseException | None = None
        """What has ended the hosting before `close`, if something has."""
        self._mishaps = Mishaps(log, f"the queue at {self.address}")
        self._lanes_due: dict[str, tuple[int, float]] = {}
        """The sessions that wait for a lane, because there was none to be had; with their ask, and until
        when."""
        self._next_lanes = 0.0
        self._closing: float | None = None
        self._next_tick = self._next_look = 0.0
        self._door_due: float | None = 0.0
        self._names: dict[bytes, str] = {}
        """How those who called are called, as ZeroMQ says it and as text."""
        self._soon = lease / 100
        self._lock = threading.Lock()
        self._thread = threading.Thread(
            target=ours(self._run), name=f"nearfar-host-{self.address}", daemon=True
        )
        self._thread.start()

    def counts(self) -> dict[str, int]:
        """The ledger in figures, how many messages could not be true, or had no name, and how many ends were
        turned away."""
        with self._lock:
            return self._machine.counts() | {
                "malformed": self._complaints.count,
                "nameless": self._nameless,
                "turned away": self._door.turned_away,
            }

    def close(self, timeout: float = 2.0) -> None:
        """Stop, when every end has said goodbye, or after `timeout` seconds. What is left then is logged."""
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
            service_failed(
                f"the queue at {self.address} failed, and serves nobody any more: {self.failure!r}"
            )

    def _turn(self) -> None:
        """One turn of the loop. What fails in one of its parts is no reason to leave out the others, or to
        end: what was not read lies here still, and what was not sent is sent again."""
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
            if events:  # what came may be due before anything that was known
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
        """The loop has ended, by a fault of ours."""
        log.error("the loop of the queue at %s failed", self.address, exc_info=error)
        self.failure = error

    def _may_stop(self) -> bool:
        closing = self._closing
        return closing is not None and (not self._machine.peers or time.monotonic() >= closing)

    def _attend(self, source: object) -> None:
        """See to what `source` has to tell."""
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
            self._next_look = 0.0  # somebody is at the door

    def _read(self, socket: zmq.Socket[bytes], small: int) -> None:
        with contextlib.suppress(zmq.Again):
            for _ in range(DRAIN):
                if self._door.guarded:
                    user, first = self._door.receive(socket)
                    frames = sockets.receive(socket, BODY, first, small=small)
                    if self._door.admits(user):
                        self._receive(socket, frames, user)
                else:
                    self._receive(socket, sockets.receive(socket, BODY, small=small))
                if not sockets.readable(socket):  # to be told by an error costs more
                    break

    def _keep_the_door(self, now: float) -> None:
        """End the sessions of whose key was revoked: what they hold goes to others."""
        self._next_look = now + LOOK_EVERY
        for session in self._door.turn(now, self._machine.peers):
            self._machine.expel(session, "its key was revoked", now)
        self._door_due = self._door.deadline()
        if self._door_due is not None:
            self._next_look = min(self._next_look, self._door_due)

    def _receive(self, socket: zmq.Socket[bytes], frames: list[bytes], user: str = "") -> None:
        """Nothing that a peer says ends this thread."""
        now = time.monotonic()
        session = self._names.get(frames[0], "")
        machine = self._machine
        try:
            if not session:
                session = self._learn_name(frames[0])
            if self._door.guarded:
                self._door.check_session(session, user, machine.peers)
            if socket is self._inbox:
                if len(frames) != 4:
                    raise ProtocolError(f"{len(frames)} frames in the inbox")
                # everybody may write there in everybody's name: the ticket tells
                peer = machine.peers.get(session)
                if peer is not None and not secrets.compare_digest(frames[1], peer.ticket.encode()):
                    raise ProtocolError("items in the name of another end")
                envelope = wire.unpack(frames[2:])
            else:
                envelope = wire.unpack(frames[1:])
            if (
                session in machine.peers
                or envelope.message.kind is not Kind.HELLO
                or self._has_room(session, envelope, now)
            ):
                machine.receive(session, envelope, now)
        except wire.WrongHello as error:
            self._complaints.note("refused a peer: %s", error, now)
            machine.refuse(session, error.why)
        except sockets.Nameless:
            self._nameless += 1
        except ProtocolError as error:
            self._complaints.note("dropped a malformed message: %s", error, now)
        except Exception:  # a fault of ours, which one peer found: it is not to cost the others their host
            log.exception("what %s said could not be taken in", shown(session))
            machine.give_up(session, "the host failed to understand it", now)
        if machine.complaints:
            for fault in machine.take_complaints():
                self._complaints.note("ended a session: %s", fault, now)

    def _learn_name(self, identity: bytes) -> str:
        """How its sender is called; remembered of those who have a session."""
        session = sockets.peer_name(identity)
        if session in self._machine.peers:
            if len(self._names) >= MOST_NAMES:
                self._names.clear()
            self._names[identity] = session
        return session

    def _has_room(self, session: str, hello: Envelope, now: float) -> bool:
        """Whether there is room for one more end, whose process is watched then."""
        if self._room.lacks(self._waker.fileno(), now):
            if self._room.refuses(now):
                self._machine.refuse(session, self._room.REFUSAL)
            return False
        descriptor = self._watch.add(session, hello.message.fields[2])
        if descriptor is not None:
            self._poller.register(descriptor, zmq.POLLIN)
        return True

    def _forget_idle(self) -> None:
        """Watch no more the processes of ends that have left."""
        for idle in self._watch.idle(self._machine.peers):
            self._poller.unregister(idle)
            self._watch.ended(idle)

    def _act(self, now: float) -> None:
        """Do what the machine says; a new lane gives it more to say."""
        more = True
        while more:
            more = False
            for action in self._machine.flush(now):
                try:
                    match action:
                        case Send(session, envelope):
                            self._send(session, envelope)
                        case OpenLane(session, ask):
                            more = True
                            self._open_lane(session, ask, now)
                        case CloseLane(session):
                            self._close_lane(session)
                except sockets.FAILURES as error:  # what matters is sent again by its line
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

    def _send(self, session: str, envelope: Envelope) -> None:
        frames = wire.pack(*envelope)
        if envelope.message.kind is not Kind.LEND:
            with contextlib.suppress(zmq.Again):
                self._control.send_multipart([session.encode(), *frames], zmq.NOBLOCK)
        elif session in self._lanes:
            lane = self._lanes[session]
            lane.send(envelope.number, frames)
            if lane.backlog:
                self._behind.add(session)

    def _open_lane(self, session: str, ask: int, now: float, until: float | None = None) -> None:
        """`until`: when its consumer is refused, if there is no lane to be had."""
        if session not in self._lanes:
            try:
                self._lanes[session] = self._make_lane(session)
            except (AddressError, *sockets.FAILURES) as error:
                until = now + LANE_WITHIN if until is None else until
                if now < until and session in self._machine.peers:
                    self._lanes_due[session] = ask, until
                    self._next_lanes = now + LANE_EVERY
                    self._mishaps.note(error, "there is no lane for a consumer now")
                    return
                log.error("no lane for %s: %s", session, error)
                self._machine.refuse(session, f"the host has no lane for it: {error}")
                self._machine.dead(session, "there was no lane for it", now)
                return
        self._machine.lane_opened(session, ask, self._lanes[session].place, now)

    def _open_due_lanes(self, now: float) -> None:
        """Try again to open the lanes for which there was no room."""
        if self._lanes_due and now >= self._next_lanes:
            due, self._lanes_due = self._lanes_due, {}
            for session, (ask, until) in due.items():
                if session in self._machine.peers:
                    self._open_lane(session, ask, now, until)

    def _make_lane(self, session: str) -> Lane:
        """Raises `AddressError`, and `sockets.FAILURES` where there are no more sockets to be had."""
        socket = self._door.make(zmq.PUSH, sockets.LARGEST_CONTROL)
        self._lanes_opened += 1
        suffix = f".lane-{self._lanes_opened % 100_000}"
        try:
            place = self._door.bind_in(socket, self.address, self._ports, suffix, only=session)
            return Lane(place, socket)
        except BaseException:
            socket.close()
            raise

    def _close_lane(self, session: str) -> None:
        lane = self._lanes.pop(session, None)
        if lane is not None:
            if lane.socket in self._poller:
                self._poller.unregister(lane.socket)
            self._door.unbind(lane.socket, self.address, lane.place)

    def _close_everything(self) -> None:
        with self._lock:
            for lane in self._lanes.values():
                self._try(self._door.unbind, lane.socket, self.address, lane.place)
            self._try(self._door.unbind, self._inbox, self.address, self._inbox_place)
            self._try(self._door.unbind, self._control, self.address)
            for close in (self._door.close, self._watch.close, self._waker.close):
                self._try(close)


def _largest_item(maxbytes: int) -> int:
    """Bytes of a frame in the inbox: what is larger than the whole queue may be is never put."""
    if not maxbytes:
        return sockets.LARGEST_FRAME
    return min(sockets.LARGEST_FRAME, max(maxbytes, sockets.LARGEST_CONTROL))
