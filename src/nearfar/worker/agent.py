"""The agent: offers this machine's workers to a remote coordinator, in the caller's thread."""

from __future__ import annotations

import logging
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from nearfar.coordinator.connection import CoordinatorConnection
from nearfar.coordinator.large_parts import Row
from nearfar.coordinator.messages import PoolChannel
from nearfar.errors import CoordinatorLost, NotAdmitted, PoolBroken
from nearfar.net.addresses import Address
from nearfar.net.auth import OWN, Access
from nearfar.net.failures import LoopFailures
from nearfar.net.memory import Trim
from nearfar.net.process import Waker, about_me, new_name, new_session_stem, resident
from nearfar.net.resources import CALLER, make_room
from nearfar.net.session import Connect, SendMessage, SessionStage
from nearfar.net.sockets import FAILURES
from nearfar.net.timers import DelayedWarning
from nearfar.net.validation import LONGEST_NAME, shown
from nearfar.worker.agent_protocol import Action, AgentProtocol, AssignBatch, Kill, Retire, RevokeBatch
from nearfar.worker.handle import Answer
from nearfar.worker.supervisor import Supervisor, WorkerListener

if TYPE_CHECKING:
    from nearfar.coordinator.statistics import TaskStatistics
    from nearfar.dashboard.board import Board
    from nearfar.dashboard.model import Status

log = logging.getLogger(__name__)

MEMORY_EVERY = 5.0
"""Seconds, at least, between two reports of how much memory the workers have."""

GIVE_EVERY = 0.05
"""Seconds between two attempts to send a worker a batch for which there was no room."""
GIVE_WITHIN = 5.0
"""Seconds within which there must be room for it; after that, the worker is killed."""
LAST_WORDS = 1.0
"""Seconds for reporting killed workers to the coordinator."""


Batch = tuple[str, str, bytes, int, list[Any], list[Any]]
"""Worker, client, function and mode; the blob and the buffers of each task."""


@dataclass(slots=True)
class Late:
    """Batches of a worker, in order, for which there was no room."""

    batches: deque[Batch]
    next: float
    """When to try again."""
    until: float
    """When to give up, and kill the worker."""


class Agent:
    """Offers `processes` workers, which `hire` makes, to the coordinator at `address`, with `access`.

    `wait` is in seconds: how long it goes on without a coordinator. The thread that calls `run` sends the
    heartbeats; the workers are other processes, so a task that holds the GIL does not delay them.
    """

    def __init__(
        self,
        address: Address,
        hire: Callable[[WorkerListener], Supervisor],
        processes: int,
        *,
        access: Access = OWN,
        wait: float = 60.0,
        quota: int | None = None,
        max_bytes: int = 0,
    ) -> None:
        """`max_bytes`: about how many bytes of answers this agent keeps for clients that do not take them (0:
        no bound). The coordinator enforces it: it assigns no tasks of such a client."""
        make_room(CALLER, "an agent")
        host = self._host = socket.gethostname()[: LONGEST_NAME // 2]
        self.name = new_name()
        about = about_me() | {"host": host, "slots": processes, "quota": quota or 0, "bytes": max_bytes}
        self._address = address
        self._wait = wait
        self._machine = AgentProtocol(self.name, about, wait=wait, stem=new_session_stem(self.name))
        self._calling = self._machine.calling
        self._supervisor = hire(self)
        self._supervisor.label = f"{self.name}/"
        self._caller = CoordinatorConnection(address, access)
        self._descriptor = -1
        self._polls = self._supervisor.epoll
        """Of the socket, the waker and the workers: a nested one would cost a further system call a turn."""
        self._waker = Waker()
        self._supervisor.watch(self._waker.fileno(), self._waker.clear)
        self._look_at = 0.0
        """When `_look` must be called, as of the last sleep."""
        self._supervisor_due = inf
        """When the supervisor's `tick` must be called."""
        self._patience_due: float | None = None
        self._patience = DelayedWarning()
        self._trim = Trim()
        self._joined: PoolChannel | None = None
        """The channel of the session that was last reported to the user."""
        self._late: dict[str, Late] = {}
        self._mishaps = LoopFailures(log, f"the agent {self.name}")
        self._condemned: set[str] = set()
        """Workers killed because the coordinator asked."""
        self._memory_at = 0.0
        """When to report the memory of the workers next."""
        self._board: Board | None = None
        self._statistics: TaskStatistics | None = None
        self._running: dict[str, tuple[bytes, float]] = {}
        """For the dashboard: the function that each worker was given last, and when it answered last."""
        self._died = 0
        self._leaves = 0
        self._hopeless = ""
        self._ends: float | None = None
        """After a second `leave`: when it ends at the latest."""

    def run(self) -> None:
        """Work until `leave`, and then until the coordinator has the answers of all running tasks.

        Raises `CoordinatorLost` if no coordinator answers for `wait` seconds, or it refuses this agent,
        `NotAdmitted` if one of the two does not admit the other, and `PoolBroken` if processes cannot be
        started: running tasks are answered first. In any case, the workers have ended when it returns.
        """
        try:
            self._start_supervisor()
            now = time.monotonic()
            self._machine.connect(now)
            self._act(now)
            while self._calling.stage is not SessionStage.CLOSED:
                self._turn()
            if self._hopeless:
                raise PoolBroken(self._hopeless)
            if self._machine.refused:
                raise CoordinatorLost(f"the coordinator at {self._address}: {self._machine.refused}")
        finally:
            self._close()

    def leave(self) -> None:
        """Take no more tasks, and let `run` return once all running tasks are answered. Called again: kill
        the running workers, and return within a second. Any thread or signal handler may call it.
        """
        self._leaves += 1
        self._waker.wake()

    def show(self, board: Board) -> None:
        """Publish the status on `board`. Call it before `run`."""
        from nearfar.coordinator.statistics import TaskStatistics

        self._statistics = TaskStatistics(time.time)
        self._board = board

    # -- WorkerListener ----------------------------------------------------------------------------

    def came(self, name: str, pid: int) -> None:
        self._machine.came(name, pid, time.monotonic())

    def answered(self, name: str, answers: Sequence[Answer], spent: float) -> None:
        now = time.monotonic()
        self._machine.answered(name, list(map(tuple, answers)), spent, now)
        if self._statistics is not None:
            self._statistics.answered(answers, spent)
            self._running[name] = (self._running[name][0] if name in self._running else b"", now)

    def returned(self, name: str, batches: int) -> None:
        self._machine.returned(name, batches, time.monotonic())

    def died(self, name: str, how: str, unread: int) -> None:
        why = ", as the coordinator asked" if name in self._condemned else ""
        self._condemned.discard(name)
        if (late := self._late.pop(name, None)) is not None:
            unread += len(late.batches)
        self._running.pop(name, None)
        self._died += 1
        worker, reason = f"{self.name}/{name}", f"{how}{why}"
        log.info(
            "worker %s %s",
            worker,
            reason,
            extra={"event": "worker", "fields": {"worker": worker, "reason": reason}},
        )
        self._machine.died(name, how, unread, time.monotonic())

    def left(self, name: str) -> None:
        """The worker was removed when it was retired."""
        self._running.pop(name, None)

    def hopeless(self, reason: str) -> None:
        self._hopeless = reason

    # -- steps of the loop -------------------------------------------------------------------------

    def _start_supervisor(self) -> None:
        try:
            self._supervisor.start()
        except OSError as error:
            raise PoolBroken(f"no worker can be started: {error}") from error

    def _act(self, now: float) -> None:
        """Perform the protocol's actions; a recall may cause further ones at once."""
        again = True
        while again:
            again = False
            for action in self._machine.flush(now):
                if type(action) is SendMessage:
                    self._caller.send(action.envelope)
                elif type(action) is AssignBatch:
                    self._try(self._assign, *action)
                else:
                    self._try(self._do, action)
                    again = True

    def _try(self, do: Callable[..., object], *given: object) -> bool:
        """Whether `do` succeeded. A failure neither ends the loop nor skips the rest: unsent messages are
        sent again by the channel, unread ones are read later."""
        try:
            do(*given)
        except FAILURES as error:
            self._mishaps.note(error)
            return False
        return True

    def _do(self, action: Action) -> None:
        match action:
            case Connect(session):
                if self._descriptor >= 0:
                    before, self._descriptor = self._descriptor, -1
                    self._polls.unregister(before)
                self._descriptor = self._caller.open(session)
                if self._descriptor >= 0:
                    self._polls.register(self._descriptor, select.EPOLLIN)
            case RevokeBatch(worker) if worker in self._late:
                self.returned(worker, len(self._late.pop(worker).batches))
            case RevokeBatch(worker):
                self._supervisor.recall(worker)
            case Kill(worker):
                self._condemned.add(worker)
                self._supervisor.kill(worker)
            case Retire(worker):
                self._supervisor.retire(worker)

    def _assign(self, worker: str, client: str, rows: Sequence[Row]) -> None:
        """Send a worker a batch, or try again later if this machine has no room for it now."""
        _, mode, function, *_ = rows[0]  # the same for all rows, which the protocol has checked
        batch = (worker, client, function, mode, [row[3] for row in rows], [row[4] for row in rows])
        if self._board is not None:
            self._running[worker] = (function, time.monotonic())
        if worker not in self._late:
            try:
                self._supervisor.give_tasks(*batch)
            except (OSError, MemoryError) as error:
                self._mishaps.note(error, f"there is no room to give tasks to worker {worker} now")
                now = time.monotonic()
                self._late[worker] = Late(deque([batch]), now + GIVE_EVERY, now + GIVE_WITHIN)
        else:
            self._late[worker].batches.append(batch)

    def _give_late(self, now: float) -> None:
        """Try again. If there is no room in time, kill the worker, which is reported to its clients."""
        for worker, late in list(self._late.items()):
            if now < late.next:
                continue
            late.next = now + GIVE_EVERY
            try:
                while late.batches:
                    self._supervisor.give_tasks(*late.batches[0])
                    late.batches.popleft()
                del self._late[worker]
            except (OSError, MemoryError) as error:
                if now >= late.until:
                    late.until = inf
                    log.warning(
                        "worker %s is killed: there is no room for its tasks: %s",
                        worker,
                        error,
                        extra={"event": "worker", "fields": {"worker": worker, "reason": str(error)}},
                    )
                    self._supervisor.kill(worker)

    def _sleep(self) -> tuple[bool, dict[int, int]]:
        """Wait for something to do; returns whether there are messages, and the events of all else."""
        if self._caller.pending():
            events = dict(self._polls.poll(0))
            events.pop(self._descriptor, None)
            return True, events
        now = time.monotonic()
        self._look_at = self._machine.deadline(now)
        for due in (self._ends, self._patience_due):
            if due is not None:
                self._look_at = min(self._look_at, due)
        self._supervisor_due = self._supervisor.deadline()
        due = min(self._look_at, self._supervisor_due)
        if self._late:
            due = min(due, *(late.next for late in self._late.values()))
        if self._board is not None:
            due = min(due, self._board.due)
        events = dict(self._polls.poll(max(0.0, due - now)))
        return events.pop(self._descriptor, None) is not None, events

    def _turn(self) -> None:
        """Process events: of the network, the workers, the clock, and `leave`."""
        try:
            unread, events = self._sleep()
        except FAILURES as error:
            self._mishaps.pause(error)
            unread, events = False, {}
        now = time.monotonic()
        if unread:
            self._try(self._hear, now)
            self._act(now)  # before a worker's death is processed: a batch sent to it then counts as unread
        said = bool(events)
        if said:
            self._try(self._supervisor.dispatch, list(events.items()))
        if now >= self._supervisor_due:
            said = self._try(self._supervisor.tick, now) or said
        if self._late:
            self._give_late(now)
        if (
            now >= self._look_at
            or self._leaves
            or self._hopeless
            or self._calling.stage is not SessionStage.OPEN
            or self._joined is not self._calling.talk
        ):
            self._look(now, unread)
        elif said:
            self._act(now)
        if self._board is not None:
            self._board.look(lambda: self._status(now), now)

    def _status(self, now: float) -> Status:
        """The status for the dashboard."""
        assert self._statistics is not None
        found, done = self._machine.workers(), self._machine.done
        pids = self._supervisor.pids()
        joined = self._calling.stage is SessionStage.OPEN and not self._machine.away(now)
        rows: Status = {"workers": []}
        for name, ran, busy in found:
            function, since = self._running.get(name, (b"", now))
            runs = shown(function.decode(errors="replace")) or "a function sent by value"
            rows["workers"].append(
                {
                    "name": name,
                    "host": self._host,
                    "pid": pids.get(name, 0),
                    "tasks": ran,
                    "runs": runs if busy else "",
                    "seconds": now - since if busy else 0.0,
                    "memory": resident(pids[name]) if name in pids else None,
                }
            )
        return rows | {
            "address": str(self._address),
            "ready": joined,
            "waits_for": "" if joined else "the coordinator",
            "counts": {
                "workers": len(found),
                "running": sum(busy for _, _, busy in found),
                "done": done,
                "raised": self._statistics.raised,
                "lost": self._died,
                "stale": self._machine.stale,
                "bytes": self._machine.kept_bytes,
            },
            "task_seconds": self._statistics.durations.status(),
            "failures": self._statistics.failures.status(),
        }

    def _look(self, now: float, heard: bool) -> None:
        """Checks that not every turn needs: the clock, `leave`, whether there is a coordinator."""
        machine = self._machine
        if machine.stage is SessionStage.GREETING and not heard:
            self._try(self._hear, now)  # a rejected handshake does not make the descriptor readable
        machine.tick(now)
        if now >= self._memory_at:
            self._memory_at = now + MEMORY_EVERY
            sizes = {name: resident(pid) for name, pid in self._supervisor.pids().items()}
            machine.memory({name: size for name, size in sizes.items() if size is not None}, now)
        if self._leaves or self._hopeless:
            self._supervisor.resize(0)
            machine.leave()
        if self._leaves > 1 and self._ends is None:
            self._ends = now + LAST_WORDS
            machine.abort()
        self._act(now)
        self._check(now)
        self._act(now)

    def _hear(self, now: float) -> None:
        heard, why = self._caller.receive()
        for envelope in heard:
            self._machine.receive(envelope, now)
        if why:
            self._machine.turned_away(why, now)

    def _check(self, now: float) -> None:
        self._trim.look(self._machine.kept_bytes, now)
        self._report(now)
        if self._machine.barred:
            raise NotAdmitted(f"cannot work for the coordinator at {self._address}: {self._machine.barred}")
        if self._ends is not None and now >= self._ends:
            self._machine.abandon()
        elif self._machine.lost(now):
            raise CoordinatorLost(f"no coordinator has answered at {self._address} for {self._wait:g} s")

    def _report(self, now: float) -> None:
        """Report to the user whether there is a coordinator."""
        machine, missing = self._machine, ""
        if machine.stage is SessionStage.OPEN and self._joined is not self._calling.talk:
            self._joined = self._calling.talk
            address = str(self._address)
            log.info(
                "joined the coordinator at %s",
                address,
                extra={"event": "joined", "fields": {"worker": self.name, "address": address}},
            )
        elif machine.away(now) or machine.stage is SessionStage.GREETING:
            missing = f"no coordinator answers at {self._address}; waiting for one"
        if said := self._patience.look(missing, now):
            log.warning("%s", said)
        self._patience_due = self._patience.deadline()

    def _close(self) -> None:
        for close in (self._supervisor.close, self._caller.close, self._waker.close):
            self._try(close)
