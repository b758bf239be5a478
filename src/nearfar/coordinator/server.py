"""A coordinator's server: its socket, its local workers, and the thread that runs it."""

from __future__ import annotations

import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import zmq

from nearfar.coordinator import messages
from nearfar.coordinator.large_parts import Row
from nearfar.coordinator.messages import PoolFrame, PoolMessageType
from nearfar.coordinator.protocol import CoordinatorProtocol
from nearfar.coordinator.remote_client import LEAST
from nearfar.coordinator.scheduler import Scheduler, tell
from nearfar.coordinator.state import TaskBatch, Worker
from nearfar.coordinator.status import snapshot
from nearfar.errors import NearfarError, ProtocolError
from nearfar.net import resources, sockets
from nearfar.net.addresses import Address
from nearfar.net.admission import Authenticator
from nearfar.net.auth import OWN, Access
from nearfar.net.failures import LoopFailures, service_failed
from nearfar.net.frames import WrongHello
from nearfar.net.interrupts import ours
from nearfar.net.memory import Trim
from nearfar.net.process import ProcessWatcher, Waker, resident
from nearfar.net.reliable import LEASE
from nearfar.net.sockets import FAILURES
from nearfar.net.validation import ProtocolErrors, shown
from nearfar.worker.handle import Answer
from nearfar.worker.supervisor import PollSet, Supervisor, WorkerListener

if TYPE_CHECKING:
    from nearfar.dashboard.board import Board
    from nearfar.dashboard.model import Status

T = TypeVar("T")

log = logging.getLogger(__name__)

DRAIN = 256
"""Messages read in one turn."""
DESCRIPTORS = 2
"""Descriptors for one peer: its connection, and one that reports its process's death."""
LONGEST_NOTICE = 500
"""Characters of a notice in the log."""
BESIDE = 4 << 20
"""Bytes that a frame may have beyond one task's, or one answer's: those of other rows."""
SMALL = 1
"""Frames of a message without large parts, after its sender's name."""
FEW_NAMES = 64
"""Names of ended or unknown sessions that are kept."""
_NOBLOCK = int(zmq.NOBLOCK)
DOOR_EVERY = 0.1
"""Seconds after which a turn checks for connecting peers even if no descriptor reported one."""


class CoordinatorServer:
    """Binds `address` for a coordinator. Its owner drives it, with one thread at a time.

    A turn of its driver::

        poll `polls` and dispatch its events, until `due`; without a pause if pending()
        turn(now) -> Scheduler.tick(now), Scheduler.flush(now) -> tell Scheduler.outcomes -> say(now)

    `access` decides which peers are admitted: those can run any code in the workers. `lease` is in seconds,
    and must be longer than the largest message takes to arrive. `clients`: accept clients as well as agents.
    It watches its descriptors in `polls`.
    `max_bytes`: see `StandaloneCoordinator`. Raises `AddressError` for an address that cannot be bound, and
    `KeysError`.
    """

    def __init__(
        self,
        address: Address,
        coordinator: Scheduler,
        access: Access,
        polls: PollSet,
        *,
        lease: float = LEASE,
        clients: bool = False,
        max_bytes: int = 0,
    ) -> None:
        resources.make_room(resources.SERVICE, "a coordinator")
        resources.lift_limit()  # as for a queue's host
        self._room = resources.DescriptorLimit(DESCRIPTORS)
        self._authenticator = Authenticator(access)
        # a peer that announces a frame larger than one task or answer may be is disconnected
        largest = min(sockets.LARGEST_FRAME, max_bytes // 4 + BESIDE) if max_bytes else sockets.LARGEST_FRAME
        self._socket = self._authenticator.make(zmq.ROUTER, largest)
        try:
            self.address = self._authenticator.bind(self._socket, address)
        except NearfarError:
            self._socket.close()
            self._authenticator.close()
            raise
        if access.insecure:
            log.warning("everyone who can reach the pool at %s can run any code in its workers", self.address)
        now = time.monotonic()
        most = sockets.most_peers(DESCRIPTORS)
        epoch = secrets.token_hex(8)
        self.peers = CoordinatorProtocol(
            coordinator,
            epoch,
            lease=lease,
            clients=clients,
            now=now,
            most_peers=most,
            most_bytes=max_bytes,
        )
        self._trim = Trim()
        self._complaints = ProtocolErrors(log)
        self._mishaps = LoopFailures(log, f"the coordinator at {self.address}")
        self._next_tick = now
        self.due = now
        """When `turn` is wanted at the latest (`time.monotonic`), as far as the last `say` knew."""
        self._names: dict[bytes, str] = {}
        """The names of sessions, decoded, by the bytes in their messages."""
        self._door_at = now
        """When to check for connecting peers next."""
        self._door_due = now
        """When a turn is needed for that; `inf`: the next turn is early enough."""
        self._watch = ProcessWatcher()
        self._polls = polls
        self._descriptor = int(self._socket.getsockopt(zmq.FD))
        self.unread = True
        """Whether there may be unread messages that the descriptor does not report any more."""
        self._at_once = 1
        """Messages that the next turn reads at most: one after a wait, because a failed read costs as much as
        the `pending` that follows; more while that finds further ones each time."""
        self._ended: list[int] = []
        """Descriptors that have reported the end of a peer's process."""
        polls.watch(self._descriptor, self._note_message)
        self._doors: list[int] = []
        """The descriptors that report connecting peers."""
        if self._authenticator.questions is not None:
            self._doors.append(int(self._authenticator.questions.getsockopt(zmq.FD)))
        if self._authenticator.arrivals is not None:
            self._doors.append(self._authenticator.arrivals)
        for descriptor in self._doors:
            polls.watch(descriptor, self._note_arrival)

    def pending(self) -> bool:
        """True if there are messages to read: the next `turn` reads them."""
        try:
            self.unread = sockets.readable(self._socket)
        except sockets.FAILURES as error:
            self._mishaps.note(error)
            self.unread = True
        self._at_once = min(4 * self._at_once, DRAIN) if self.unread else 1
        return self.unread

    def turn(self, now: float) -> None:
        """Process received messages, and end the sessions of silent and dead peers. Never blocks, and raises
        nothing: after a failure, messages that were not read are read in the next turn."""
        if now >= self._door_at:
            self._door_at = self._door_due = now + DOOR_EVERY
            self._try(self._expel_revoked, now)
        if self.unread:
            self._read(now)
        while self._ended:
            self._try(self._see_death, self._ended.pop(0), now)
        if now >= self._next_tick:
            self.peers.tick(now)
            self._try(self._forget_idle)
            self._trim.look(self.peers.bytes, now)

    def say(self, now: float) -> None:
        """Send all outgoing messages. Never blocks, and raises nothing: the channels resend what was lost."""
        for name, envelope in self.peers.flush(now):
            self._send(name, envelope)
        self._next_tick = self.peers.deadline(now)
        self.due = min(self._next_tick, self._door_due)

    def counts(self) -> dict[str, int]:
        """The coordinator in figures."""
        return self.peers.counts() | {"turned away": self._authenticator.turned_away}

    def close(self) -> None:
        """Close the socket; for agents and clients, the coordinator is lost."""
        for descriptor in (self._descriptor, *self._doors, *self._watch.idle(())):
            self._polls.unwatch(descriptor)
        self._try(self._watch.close)
        self._try(self._authenticator.unbind, self._socket, self.address)
        self._try(self._authenticator.close)

    # -- inside ------------------------------------------------------------------------------------

    def _try(self, do: Callable[..., T], *given: object) -> T | None:
        """The result of `do`; None if it fails."""
        try:
            return do(*given)
        except sockets.FAILURES as error:
            self._mishaps.note(error)
            return None

    def _note_message(self) -> None:
        self.unread = True

    def _note_arrival(self) -> None:
        self._door_at = 0.0

    def _read(self, now: float) -> None:
        made, authenticator, user = self._socket, self._authenticator, ""
        guarded = authenticator.guarded
        try:
            for _ in range(self._at_once):
                if guarded:
                    user, name = authenticator.receive(made)
                else:
                    name = made.recv(_NOBLOCK)
                frames = sockets.receive(made, SMALL)  # a ROUTER has always some behind the name
                if not guarded or authenticator.admits(user):
                    self._receive(user, name, frames, now)
        except zmq.Again:
            self.unread = False
        except sockets.FAILURES as error:
            self._mishaps.note(error)

    def _expel_revoked(self, now: float) -> None:
        """End the sessions of peers whose key was revoked, as if they had died."""
        for session in self._authenticator.turn(now, self.peers.sessions):
            self.peers.table.expel(session, "its key was revoked", now)
        due = self._authenticator.deadline()
        self._door_due = inf if due is None else due
        self._door_at = min(self._door_at, self._door_due)

    def _receive(self, user: str, name: bytes, frames: list[bytes | memoryview], now: float) -> None:
        """Process one message; no message of a peer may end this thread."""
        session = ""
        try:
            session = self._names.get(name) or self._peer_name(name)
            if self._authenticator.guarded:
                self._authenticator.check_session(session, user, self.peers.sessions)
            envelope = messages.unpack(frames)
            if envelope.message.kind is not PoolMessageType.HELLO or session in self.peers.sessions:
                self.peers.receive(session, envelope, now)
            else:
                self._let_in(session, envelope, now)
        except WrongHello as error:
            self.peers.table.malformed += 1
            self._complaints.note("refused a peer: %s", error, now)
            self.peers.table.refuse(session, error.why)
        except sockets.Nameless:
            self.peers.table.nameless += 1
        except ProtocolError as error:
            self.peers.table.malformed += 1
            self._complaints.note("dropped a malformed message: %s", error, now)
        except Exception:  # an error of our own for one peer's message must not affect the others
            log.exception("a message of %s could not be processed", shown(session))
            self.peers.table.give_up(session, "the coordinator failed to process its message", now)
        if self.peers.table.complaints or self.peers.notices:
            for fault in self.peers.table.take_complaints():
                self._complaints.note("ended a session: %s", fault, now)
            for notice in self.peers.take_notices():
                log.warning("%s", shown(notice, LONGEST_NOTICE))

    def _peer_name(self, name: bytes) -> str:
        """The session name in a message. Raises `ProtocolError` if it is invalid."""
        session = sockets.peer_name(name)
        if len(self._names) > 2 * len(self.peers.sessions) + FEW_NAMES:
            self._names.clear()
        self._names[name] = session
        return session

    def _let_in(self, session: str, hello: PoolFrame, now: float) -> None:
        """Process the HELLO of a peer that is not known yet."""
        if self._room.lacks(self._descriptor, now):
            if self._room.refuses(now):
                self.peers.table.refuse(session, self._room.REFUSAL)
            return
        self.peers.receive(session, hello, now)
        if session in self.peers.sessions:
            self._watch_process(session, hello.message.fields[3])
        if len(self._watch) > len(self.peers.sessions):
            self._forget_idle()

    def _watch_process(self, session: str, about: dict[str, Any]) -> None:
        """Watch a peer's process; if it cannot be watched, its silence ends its session."""
        descriptor = self._watch.add(session, about)
        if descriptor is not None:
            try:
                self._polls.watch(descriptor, partial(self._ended.append, descriptor))
            except OSError as error:
                self._watch.ended(descriptor)
                self._mishaps.note(error)

    def _forget_idle(self) -> None:
        for descriptor in self._watch.idle(self.peers.sessions):
            self._polls.unwatch(descriptor)
            self._watch.ended(descriptor)
            if descriptor in self._ended:  # its number may be used again
                self._ended.remove(descriptor)

    def _see_death(self, descriptor: int, now: float) -> None:
        self._polls.unwatch(descriptor)
        found = self._watch.ended(descriptor)
        if found is not None:
            session, pid = found
            self.peers.table.dead(session, f"process {pid} ended", now)

    def _send(self, name: str, envelope: PoolFrame) -> None:
        try:
            sockets.send(self._socket, [name.encode(), *messages.pack(*envelope)], 1 + SMALL)
        except zmq.Again:
            pass  # the peer does not read, or has disconnected
        except sockets.FAILURES as error:
            self._mishaps.note(error)


Hire = Callable[[WorkerListener], Supervisor]
"""Makes a supervisor that calls `WorkerListener`."""


class LocalWorkers:
    """A supervisor's `WorkerListener`, and the `Link` of its workers."""

    def __init__(self, coordinator: Scheduler, hire: Hire, on_hopeless: Callable[[str], object]) -> None:
        """`on_hopeless` is called with the reason if no worker can be started any more."""
        self.supervisor = hire(self)
        self._coordinator = coordinator
        self._workers = coordinator.workers
        self._on_hopeless = on_hopeless
        self._host = socket.gethostname()
        self._draining = False
        self._ended: set[Worker] = set()

    def drain(self) -> None:
        """Finish the running tasks and start no other: then the processes end."""
        if not self._draining:
            self._draining = True
            self.supervisor.resize(0)
        for worker in self._own():
            self._coordinator.drain(worker)

    def end(self, signum: int) -> None:
        """Send `signum` to each process, once, and start no replacement.

        Workers of other machines that run a task are killed there.
        """
        self.supervisor.resize(0)
        self.supervisor.signal(signum)
        for worker in self._coordinator.workers.values():
            if worker.link is not self and worker.batches and worker not in self._ended:
                self._ended.add(worker)
                worker.link.kill(worker)

    def measure(self) -> None:
        """Read how much memory each process has."""
        for worker in self._own():
            worker.memory = resident(worker.pid)

    def busy(self) -> bool:
        """True if any worker has a task that it has not answered."""
        return any(worker.batches for worker in self._own())

    def _own(self) -> list[Worker]:
        return [worker for worker in self._coordinator.workers.values() if worker.link is self]

    # -- Link --------------------------------------------------------------------------------------

    def give(self, worker: Worker, batch: TaskBatch) -> None:
        """As `Link.give`."""
        tasks, first = batch.tasks, batch.tasks[0]
        blobs, beside = [task.blob for task in tasks], [task.buffers for task in tasks]
        try:
            self.supervisor.give_tasks(worker.name, batch.client, first.function, first.mode, blobs, beside)
        except (OSError, MemoryError) as error:
            self._coordinator.refused(worker, error)

    def recall(self, worker: Worker) -> None:
        """As `Link.recall`."""
        self.supervisor.recall(worker.name)

    def kill(self, worker: Worker) -> None:
        """As `Link.kill`."""
        self.supervisor.kill(worker.name)

    def retire(self, worker: Worker) -> None:
        """As `Link.retire`."""
        self.supervisor.retire(worker.name)

    # -- WorkerListener ----------------------------------------------------------------------------

    def came(self, name: str, pid: int) -> None:
        """As `WorkerListener.came`."""
        worker = Worker(name, self, host=self._host, pid=pid, quota=self.supervisor.quota)
        self._coordinator.worker_came(worker, monotonic())
        if self._draining:
            self._coordinator.drain(worker)

    def answered(self, name: str, answers: Sequence[Answer], spent: float) -> None:
        """As `WorkerListener.answered`."""
        worker = self._workers.get(name)
        if worker is None:
            return
        try:
            self._coordinator.answered(worker, answers, spent, monotonic())
        except ProtocolError as error:
            fields = {"worker": name, "reason": str(error)}
            log.warning("worker %s is killed: %s", name, error, extra={"event": "worker", "fields": fields})
            self.supervisor.kill(name)

    def returned(self, name: str, batches: int) -> None:
        """As `WorkerListener.returned`."""
        worker = self._coordinator.workers.get(name)
        if worker is not None:
            self._coordinator.returned(worker, batches)

    def died(self, name: str, how: str, unread: int) -> None:
        """As `WorkerListener.died`."""
        worker = self._coordinator.workers.get(name)
        if worker is not None:
            self._coordinator.died(worker, how, unread)

    def left(self, name: str) -> None:
        """As `WorkerListener.left`; the worker was removed when it was retired."""

    def hopeless(self, reason: str) -> None:
        """As `WorkerListener.hopeless`."""
        self._on_hopeless(reason)


MAX_BYTES = 1 << 30
"""Default bound, in bytes, of the arguments and results that a coordinator keeps."""


class StandaloneCoordinator:
    """A coordinator at `address`, in a thread of this process, until `stop`.

    `access` decides which peers are admitted. `hire` makes a supervisor of local workers; None for no local
    workers. `lease` is in seconds: how long an agent or a client may be silent. Raises `AddressError` and
    `KeysError` as `CoordinatorServer` does, and `ValueError` for a `max_bytes` below `remote_client.LEAST`.

    `max_bytes` bounds the arguments and results that it keeps, and those that agents keep: half of it for
    each; a client may use as much of a half as it leaves free (0: no bound). At the bound nothing is lost:
    arguments wait at their client; a client that does not take its results gets no more workers until it
    does, and the results of its running tasks wait at the agents; other clients are served. A task whose
    arguments, or whose result, have more than a quarter of `max_bytes` fails, with an error that explains it.

    It stores nothing for a restart: agents report running and answered tasks to the next coordinator, and
    clients submit tasks without an outcome again. No call runs twice, unless its worker was lost, too; the
    workers of `hire` are lost with their coordinator.
    """

    def __init__(
        self,
        address: Address,
        hire: Hire | None = None,
        *,
        access: Access = OWN,
        lease: float = LEASE,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        if 0 < max_bytes < LEAST:
            raise ValueError(f"max_bytes must be 0, for no bound, or at least {LEAST}, not {max_bytes}")
        self._coordinator = Scheduler()
        self._local = None if hire is None else LocalWorkers(self._coordinator, hire, log.error)
        self._polls = PollSet() if self._local is None else self._local.supervisor
        try:
            self._server = CoordinatorServer(
                address,
                self._coordinator,
                access,
                self._polls,
                lease=lease,
                clients=True,
                max_bytes=max_bytes,
            )
        except BaseException:
            self._polls.close()
            raise
        self.address = self._server.address
        """Its address, with the port that the system chose."""
        self._lock = threading.Lock()
        self._waker = Waker()
        self._polls.watch(self._waker.fileno(), self._waker.clear)
        if self._local is not None:
            self._local.supervisor.start()
        self.failure: BaseException | None = None
        """The error that ended the loop before `stop`, if one did."""
        self._mishaps = LoopFailures(log, f"the coordinator at {self.address}")
        self._ends: float | None = None
        """After `stop`: when it stops at the latest."""
        self._board: Board | None = None
        self._thread = threading.Thread(
            target=ours(self._run), name=f"nearfar-coordinator-{self.address}", daemon=True
        )
        self._thread.start()

    def show(self, board: Board) -> None:
        """Publish the status on `board` from now on."""
        from nearfar.coordinator.statistics import TaskStatistics

        with self._lock:
            self._coordinator.book.statistics = TaskStatistics(time.time)
            self._board = board
        self._waker.wake()

    def counts(self) -> dict[str, int]:
        """In figures: agents, clients, workers, running, waiting, held, done, lost, stale, malformed."""
        with self._lock:
            return self._server.counts()

    def status(self) -> list[Row]:
        """A row of each worker: name, host, pid, tasks answered, what it runs (or ""), seconds so far."""
        with self._lock:
            return self._server.peers.status(time.monotonic())

    def stop(self, grace: float = 5.0) -> None:
        """Stop once the local workers have finished their tasks and the clients have the results, or after
        `grace` seconds; other machines go on with theirs, for another coordinator. A second call stops at
        once.
        """
        with self._lock:
            self._ends = time.monotonic() + (0.0 if self._ends is not None else grace)
        self._waker.wake()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until it has stopped; returns whether it did so within `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._ends is None or not self._may_end():
                self._turn()
        except BaseException as error:
            log.error("the loop of the coordinator at %s failed", self.address, exc_info=error)
            self.failure = error
        finally:
            with self._lock:
                self._close()
        if self.failure is not None:
            service_failed(f"the coordinator at {self.address} failed and has stopped: {self.failure!r}")

    def _turn(self) -> None:
        """One turn of the loop. A failure in one part does not skip the others, or end the loop: unread
        messages are read later, and unsent ones are sent again."""
        try:
            events = self._wait()
        except FAILURES as error:
            self._mishaps.pause(error)
            events = []
        with self._lock:
            now = time.monotonic()
            if events:
                self._try(self._polls.dispatch, events)
            self._try(self._server.turn, now)
            if self._local is not None:
                self._try(self._local.supervisor.tick, now)
                if self._ends is not None:
                    self._local.drain()
            self._coordinator.tick(now)
            self._coordinator.flush(now)
            if self._coordinator.outcomes:
                tell(self._coordinator.outcomes)
            self._server.say(now)
            if self._board is not None:
                self._board.look(partial(self._status, now), now)

    def _status(self, now: float) -> Status:
        if self._local is not None:
            self._local.measure()
        about: Status = {"address": str(self.address), "ready": True}
        return about | snapshot(self._coordinator, self._server.counts(), now)

    def _try(self, do: Callable[..., object], *given: object) -> bool:
        """Whether `do` succeeded."""
        try:
            do(*given)
        except FAILURES as error:
            self._mishaps.note(error)
            return False
        return True

    def _wait(self) -> list[tuple[int, int]]:
        """Sleep until there is something to do; returns the events."""
        if self._server.pending():
            return self._polls.poll(0)
        deadline = self._server.due
        if self._local is not None:
            deadline = min(deadline, self._local.supervisor.deadline())
        if (due := self._coordinator.deadline()) is not None:
            deadline = min(deadline, due)
        if self._ends is not None:
            deadline = min(deadline, self._ends)
        if self._board is not None:
            deadline = min(deadline, self._board.due)
        return self._polls.poll(max(0.0, deadline - time.monotonic()))

    def _may_end(self) -> bool:
        if self._ends is None:
            return False
        busy = self._local is not None and self._local.busy()
        return time.monotonic() >= self._ends or not (busy or not self._server.peers.settled())

    def _close(self) -> None:
        self._try(self._server.close)
        self._try(self._polls.close)
        self._try(self._waker.close)
