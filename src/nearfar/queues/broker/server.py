"""The sockets of a queue's broker: they perform the actions of `BrokerProtocol`, and read its messages.

A client in the broker's own process needs no sockets: its messages and the broker's are passed by calls, and
its callers take the broker's turns (`nearfar.net.driver`)."""

from __future__ import annotations

import contextlib
import logging
import secrets
import select
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import zmq

from nearfar.errors import AddressError, NearfarError, ProtocolError
from nearfar.net import resources, sockets
from nearfar.net.addresses import Address
from nearfar.net.admission import Authenticator
from nearfar.net.auth import Access
from nearfar.net.driver import Driver, Events, Hold
from nearfar.net.failures import LoopFailures, service_failed
from nearfar.net.frames import WrongHello
from nearfar.net.interrupts import safely
from nearfar.net.process import ProcessWatcher, Waker
from nearfar.net.session import SendTo, SessionStage
from nearfar.net.validation import ProtocolErrors, shown
from nearfar.queues import messages
from nearfar.queues.broker.lanes import DeliverySocket, clear_lanes
from nearfar.queues.broker.ledger import Ledger
from nearfar.queues.broker.protocol import BrokerProtocol
from nearfar.queues.broker.sessions import CloseLane, OpenLane
from nearfar.queues.broker.status import Ages, queue_status
from nearfar.queues.client.protocol import ClientProtocol
from nearfar.queues.messages import QueueFrame, QueueMessageType
from nearfar.serialization.shared_ring import HostRings

if TYPE_CHECKING:
    from nearfar.dashboard.board import Board
    from nearfar.dashboard.model import QueueStatus, Status


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


class LocalClient(NamedTuple):
    """A client in this process."""

    client: ClientProtocol
    lost: Callable[[], None]


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
MOST_PASSES = 4
"""Readings in one turn, and exchanges with clients of this process, so that a caller's turn ends while others
keep the broker busy."""
BUSY = "the queue cannot be used inside its own code, by a finalizer or while an item is unpickled"
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
        self._lane_wakes: set[int] = set()
        """The descriptors of those lanes."""
        self._control_used = False
        """Whether a message was sent on the control socket since it was last read."""
        # a client of an earlier host at this address may still connect to its lane: it must not get another
        self._lanes_opened = secrets.randbelow(100_000)
        self._watch = ProcessWatcher()
        self._epoll = select.epoll()
        self._waker = Waker()
        self._waker_wakes = self._waker.fileno()
        self._epoll.register(self._waker_wakes, select.EPOLLIN)
        self._control_wakes, self._inbox_wakes = map(sockets.descriptor, (self._control, self._inbox))
        questions, arrivals = self._authenticator.questions, self._authenticator.arrivals
        self._door_wakes = {arrivals} if arrivals is not None else set()
        if questions is not None:
            self._door_wakes.add(sockets.descriptor(questions))
        for descriptor in (self._control_wakes, self._inbox_wakes, *self._door_wakes):
            self._epoll.register(descriptor, select.EPOLLIN)
        self._unread = {self._control, self._inbox}
        """The sockets that may have messages to read."""
        self._locals: list[LocalClient] = []
        self._busy = False
        """Whether a turn has left something to do."""
        self.failure: BaseException | None = None
        """The error that ended the hosting before `close`, if any."""
        self._mishaps = LoopFailures(log, f"the queue at {self.address}")
        self._lanes_due: dict[str, tuple[int, float]] = {}
        """The sessions that wait for a lane, because none could be opened; with their request's number and
        the time at which they are refused."""
        self._next_lanes = 0.0
        self._closing: float | None = None
        self._next_tick = self._next_look = 0.0
        self._door_due: float | None = 0.0
        self._names: dict[bytes, str] = {}
        """The names of clients as text, by ZeroMQ's identity."""
        self._soon = lease / 100
        self._board: Board | None = None
        self._close_dashboard: Callable[[], None] = lambda: None
        self._ages = Ages()
        self.due = 0.0
        self.over = False
        self.hold = Hold(BUSY)
        self.driver = Driver(self, self.hold, self._waker, f"nearfar-host-{self.address}")
        self.driver.start()

    def counts(self) -> dict[str, int]:
        """The queue's figures, and the number of connections turned away."""
        return safely(self._counts)

    def _counts(self) -> dict[str, int]:
        with self.hold:
            return self._figures()

    def _figures(self) -> dict[str, int]:
        return self._machine.counts() | {"turned away": self._authenticator.turned_away}

    def show(self, board: Board, close: Callable[[], None]) -> None:
        """Publish the status on `board` from now on; `close` is called when the hosting ends."""
        self._board, self._close_dashboard = board, close
        self.driver.rouse()

    def status(self) -> QueueStatus:
        """The status for the dashboard of a program that hosts the queue."""
        return safely(self._status)

    def _status(self) -> QueueStatus:
        with self.hold:
            return self._status_now(time.monotonic())

    def _status_now(self, now: float) -> QueueStatus:
        """With `hold` held."""
        machine = self._machine
        found = queue_status(machine.ledger, machine.peers, self._figures(), self._ages, now)
        return {"address": str(self.address)} | found

    def _publish(self, now: float) -> Status:
        return {"address": str(self.address), "ready": True, "counts": {}, "queue": self._status_now(now)}

    def attach(self, client: ClientProtocol, lost: Callable[[], None]) -> bool:
        """Connect a client of this process, whose state `hold` guards; False if the hosting ends. `lost` is
        called, with `hold` held, if it ends before the client has left. Call with `hold` held."""
        if self.over or self._closing is not None:
            return False
        client.connect(time.monotonic(), self._machine)
        self._locals.append(LocalClient(client, lost))
        return True

    def close(self, timeout: float = 2.0) -> None:
        """Stop when every client has left, or after `timeout` seconds. Items left then are logged."""
        self._closing = time.monotonic() + timeout
        self.driver.join()

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
        """Perform actions and read, until nothing more arrives. If one part fails, the others still run:
        unread messages are still in the socket, and unsent ones are resent."""
        try:
            with self.hold:
                return not self.over and self._turn(events)
        except BaseException as error:
            self._failed(error)
            return True

    def _turn(self, events: Events) -> bool:
        heard = self._busy = False
        ready = events or self.poll(0)  # first: what dead consumers held comes before what waits
        came = bool(ready)
        for descriptor, _ in ready:
            if descriptor == self._inbox_wakes:
                self._unread.add(self._inbox)
            elif descriptor == self._control_wakes:
                self._unread.add(self._control)
            else:
                self._try(self._attend, descriptor)
        for _ in range(MOST_PASSES):
            if self._unread:
                came = True
                self._try(self._read_all)
            now = time.monotonic()
            if now >= self._next_look:
                self._try(self._expel_revoked, now)
            if now >= self._next_tick:
                self._machine.tick(now)
                self._next_tick = self._machine.deadline(now)
            if self._lanes_due:
                self._try(self._open_due_lanes, now)
            if self._locals:
                heard |= self._act_with_locals(now)
            else:
                self._act(now)
            if len(self._watch) > len(self._machine.peers):
                self._try(self._forget_idle)
            if came or heard:  # the new messages may bring an earlier deadline
                self._next_tick = min(self._next_tick, now + self._soon)
            if not self._unread:
                break
        self.over = self._closing is not None and self._may_stop(self._closing)
        if self._board is not None and (now := time.monotonic()) >= self._board.due:
            self._board.look(partial(self._publish, now), now)
        self.due = 0.0 if self._unread or self._busy else self._deadline()
        return heard or self.over

    def _act_with_locals(self, now: float) -> bool:
        """Perform the actions of the broker and of the clients in this process; returns whether these
        received anything. Their reaction may need another turn."""
        heard = False
        for _ in range(MOST_PASSES):
            said = self._machine.said_here
            for local in self._locals:
                if not local.client.quiet(now):
                    local.client.act(now)
            if heard and said == self._machine.said_here:
                return True
            self._act(now)
            came = False
            for local in self._locals:
                came |= local.client.receive_local(now)
                if local.client.calling.stage is SessionStage.CLOSED:
                    self._locals = [one for one in self._locals if one is not local]
                    heard = True
            if not came:
                return heard
            heard = True
        self._busy = True
        return heard

    def _deadline(self) -> float:
        """When the next turn is due."""
        when = min(self._next_tick, self._machine.flush_due)
        if self._closing is not None and self._closing < when:
            when = self._closing
        if self._door_due is not None and self._door_due < when:
            when = self._door_due
        if self._lanes_due and self._next_lanes < when:
            when = self._next_lanes
        if self._locals:
            now = time.monotonic()
            when = min(when, *[local.client.deadline(now) for local in self._locals])
        return when if self._board is None else min(when, self._board.due)

    def end(self, error: BaseException | None) -> None:
        if error is not None:
            self._failed(error)
        with self.driver.turns, self.hold:
            self.over = True
            for local in self._locals:
                local.lost()
            self._locals.clear()
            self._close_everything()
            counts = self._machine.counts()
        warn_of_losses(self.address, counts)
        self._close_dashboard()
        if self.failure is not None:
            service_failed(f"the queue at {self.address} failed and has stopped: {self.failure!r}")

    def _try(self, do: Callable[..., T], *given: object, otherwise: T | None = None) -> T | None:
        """What `do` returns; `otherwise` if it fails."""
        try:
            return do(*given)
        except sockets.FAILURES as error:
            self._mishaps.note(error)
            return otherwise

    def _failed(self, error: BaseException) -> None:
        """Record that a bug ended the hosting."""
        log.error("the loop of the queue at %s failed", self.address, exc_info=error)
        self.failure = error
        self.over = True

    def _may_stop(self, closing: float) -> bool:
        return not self._machine.peers or time.monotonic() >= closing

    def _read_all(self) -> None:
        """Read the sockets that may have messages."""
        for source in (self._inbox, self._control):
            if source in self._unread:
                self._read(source, sockets.COPIED if source is self._inbox else sockets.LARGEST_CONTROL)

    def _attend(self, descriptor: int) -> None:
        """Process the event of a descriptor other than those of the two sockets."""
        if descriptor == self._waker_wakes:
            self._waker.clear()
        elif descriptor in self._watch:
            if (found := self._forget(descriptor)) is not None:
                session, pid = found
                self._machine.table.dead(session, f"process {pid} ended", time.monotonic())
        elif descriptor in self._door_wakes:
            self._next_look = 0.0  # the authenticator has a new connection or request
        elif descriptor not in self._lane_wakes:
            self._forget(descriptor)  # watching that process failed: stop it

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
            else:
                return
        self._unread.discard(socket)

    def _expel_revoked(self, now: float) -> None:
        """Run the authenticator, and end the sessions whose key was revoked: others get their items."""
        self._next_look = now + LOOK_EVERY
        for session in self._authenticator.turn(now, self._machine.peers):
            self._machine.table.expel(session, "its key was revoked", now)
        questions = self._authenticator.questions
        if questions is not None and sockets.readable(questions):  # a request arrived while it answered
            self._next_look = 0.0
            return
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
            machine.table.malformed += 1
            self._complaints.note("refused a peer: %s", error, now)
            machine.table.refuse(session, error.why)
        except sockets.Nameless:
            machine.table.nameless += 1
        except ProtocolError as error:
            machine.table.malformed += 1
            self._complaints.note("dropped a malformed message: %s", error, now)
        except Exception:  # a bug that one peer triggers must not end the host for the others
            log.exception("a message of %s could not be processed", shown(session))
            machine.table.give_up(session, "the host failed to process its message", now)
        if machine.table.complaints:
            for fault in machine.table.take_complaints():
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
        if self._room.lacks(self._epoll.fileno(), now):
            if self._room.refuses(now):
                self._machine.table.refuse(session, self._room.REFUSAL)
            return False
        descriptor = self._watch.add(session, hello.message.fields[2])
        if descriptor is not None:
            try:
                self._epoll.register(descriptor, select.EPOLLIN)
            except OSError as error:  # then its silence will show its death
                self._mishaps.note(error)
                self._watch.ended(descriptor)
        return True

    def _forget_idle(self) -> None:
        """Stop watching the processes of clients that have left."""
        for idle in self._watch.idle(self._machine.peers):
            self._forget(idle)

    def _forget(self, descriptor: int) -> tuple[str, int] | None:
        """Stop watching a process. Closing the descriptor is not enough: a forked child may have a copy."""
        with contextlib.suppress(OSError):
            self._epoll.unregister(descriptor)
        return self._watch.ended(descriptor)

    def _act(self, now: float) -> None:
        """Perform the protocol's actions; opening a lane yields further ones."""
        more = True
        while more:
            more = False
            for action in self._machine.flush(now):
                try:
                    if type(action) is SendTo:
                        self._send(*action)
                    elif type(action) is OpenLane:
                        more = True
                        self._open_lane(*action, now)
                    elif type(action) is CloseLane:
                        self._close_lane(action.session)
                except zmq.Again:  # the peer does not read, or is gone
                    pass
                except sockets.FAILURES as error:  # numbered messages are sent again
                    self._mishaps.note(error)
        if self._behind:
            for session in list(self._behind):
                self._try(self._push, session)
        if self._control_used:  # sending clears the signal of new messages
            self._control_used = False
            if self._try(sockets.readable, self._control, otherwise=True):
                self._unread.add(self._control)

    def _push(self, session: str) -> None:
        """Send a consumer its queued messages, as far as it reads; the rest on an event of the descriptor."""
        lane = self._lanes.get(session)
        if lane is not None:
            lane.push()
            if lane.backlog and lane.wakes not in self._lane_wakes:
                self._lane_wakes.add(lane.wakes)
                self._epoll.register(lane.wakes, select.EPOLLIN)
            elif not lane.backlog:
                self._stop_watching(lane)
        if lane is None or not lane.backlog:
            self._behind.discard(session)

    def _stop_watching(self, lane: DeliverySocket) -> None:
        if lane.wakes in self._lane_wakes:
            self._lane_wakes.discard(lane.wakes)
            self._epoll.unregister(lane.wakes)

    def _send(self, session: str, envelope: QueueFrame) -> None:
        frames = messages.pack(*envelope)
        if envelope.message.kind is not QueueMessageType.LEND:
            self._control_used = True
            sockets.send(self._control, [session.encode(), *frames])
        elif session in self._lanes:
            lane = self._lanes[session]
            lane.send(envelope.number, frames)
            if lane.backlog:
                self._behind.add(session)

    def _open_lane(self, session: str, ask: int, now: float, until: float | None = None) -> None:
        """`until`: when the consumer is refused if no lane can be opened."""
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
                self._machine.table.refuse(session, f"the host cannot open a lane for it: {error}")
                self._machine.table.dead(session, "the host could not open a lane for it", now)
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
            wakes = sockets.descriptor(socket)  # first: a bound socket has more to close
            place = self._authenticator.bind_in(socket, self.address, self._ports, suffix, only=session)
            return DeliverySocket(place, socket, wakes)
        except BaseException:
            socket.close()
            raise

    def _close_lane(self, session: str) -> None:
        lane = self._lanes.pop(session, None)
        if lane is not None:
            self._stop_watching(lane)
            self._authenticator.unbind(lane.socket, self.address, lane.place)

    def _close_everything(self) -> None:
        for lane in self._lanes.values():
            self._try(self._authenticator.unbind, lane.socket, self.address, lane.place)
        self._try(self._authenticator.unbind, self._inbox, self.address, self._inbox_place)
        self._try(self._authenticator.unbind, self._control, self.address)
        for close in (self._authenticator.close, self._watch.close, self._epoll.close, self._rings.close):
            self._try(close)


def _largest_item(maxbytes: int) -> int:
    """The largest frame of the inbox, in bytes: an item larger than the whole queue is never put."""
    if not maxbytes:
        return sockets.LARGEST_FRAME
    return min(sockets.LARGEST_FRAME, max(maxbytes, sockets.LARGEST_CONTROL))
