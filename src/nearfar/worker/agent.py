"""The agent: workers of this machine for a coordinator elsewhere. One thread, the caller's."""

from __future__ import annotations

import logging
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

from nearfar.coordinator import messages
from nearfar.coordinator.client_session import Connect, SendMessage, SessionStage
from nearfar.coordinator.connection import CoordinatorConnection
from nearfar.errors import CoordinatorLost, NotAdmitted, PoolBroken
from nearfar.net.addresses import Address
from nearfar.net.auth import OWN, Access
from nearfar.net.process import Waker, about_me, new_name, new_session_stem
from nearfar.net.resources import CALLER, PAUSE, LoopFailures, Trim, make_room
from nearfar.net.sockets import FAILURES
from nearfar.net.timers import DelayedWarning
from nearfar.worker.agent_protocol import Action, AgentProtocol, AssignBatch, Kill, Retire, RevokeBatch
from nearfar.worker.channel import TaskRow
from nearfar.worker.handle import Answer
from nearfar.worker.supervisor import Supervisor, WorkerListener

log = logging.getLogger(__name__)

GIVE_EVERY = 0.05
"""Seconds between two tries to give a worker a batch for which there was no room."""
GIVE_WITHIN = 5.0
"""Seconds after which there is to be room for it."""
LAST_WORDS = 1.0
"""Seconds for telling the coordinator of what was killed."""


@dataclass(slots=True)
class Late:
    """What a worker is to be given, in this order, and there was no room for."""

    batches: deque[tuple[str, list[TaskRow]]]
    next: float
    """When it is tried again."""
    until: float
    """When it is given up, with the worker."""


class Agent:
    """Offers the workers that `hire` makes, `processes` of them, to the coordinator at `address`, as `access`
    says.

    `wait` is in seconds: how long it goes on without a coordinator. It beats from the thread that calls
    `run`; its workers are other processes, so a task that holds the interpreter does not silence it.
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
        """`max_bytes`: of answers that this agent keeps for clients which do not take them, about so many (0:
        no bound). The coordinator sees to it: it gives none of such a client's tasks out."""
        make_room(CALLER, "an agent")
        host = socket.gethostname()[: messages.LONGEST_NAME // 2]
        self.name = new_name()
        about = about_me() | {"host": host, "slots": processes, "quota": quota or 0, "bytes": max_bytes}
        self._address = address
        self._wait = wait
        self._machine = AgentProtocol(self.name, about, wait=wait, stem=new_session_stem(self.name))
        self._supervisor = hire(self)
        self._supervisor.label = f"{self.name}/"
        self._caller = CoordinatorConnection(address, access)
        self._descriptor = -1
        self._waker = Waker()
        self._poll = select.poll()
        for each in (self._waker.fileno(), self._supervisor.fileno()):
            self._poll.register(each, select.POLLIN)
        self._patience = DelayedWarning()
        self._trim = Trim()
        self._joined = ""
        self._late: dict[str, Late] = {}
        self._mishaps = LoopFailures(log, f"the agent {self.name}")
        self._condemned: set[str] = set()
        """Workers killed because the coordinator asked."""
        self._leaves = 0
        self._hopeless = ""
        self._ends: float | None = None
        """Once it was told twice to leave: when it does at the latest."""

    def run(self) -> None:
        """Work until `leave`, and then until all that runs is answered and had.

        Raises `CoordinatorLost` when none answers for `wait` seconds, or it refuses this agent, `NotAdmitted`
        when they do not let each other in, and `PoolBroken` when processes cannot be started: what still runs
        is answered first. The workers are gone afterwards, in any case.
        """
        try:
            self._start_crew()
            self._machine.connect(time.monotonic())
            while self._goes_on():
                self._take_in(self._sleep())
                self._check()
            if self._hopeless:
                raise PoolBroken(self._hopeless)
            if self._machine.refused:
                raise CoordinatorLost(f"the coordinator at {self._address}: {self._machine.refused}")
        finally:
            self._close()

    def leave(self) -> None:
        """Take no more work, and let `run` return once all that runs is answered. Called again: kill what
        runs, and return within a second. May be called by any thread, and by a signal handler.
        """
        self._leaves += 1
        self._waker.wake()

    # -- from the supervisor -----------------------------------------------------------------------------

    def came(self, name: str, pid: int) -> None:
        self._machine.came(name, pid, time.monotonic())

    def answered(self, name: str, answers: Sequence[Answer], spent: float) -> None:
        rows = [(status, blob, list(buffers)) for status, blob, buffers in answers]
        self._machine.answered(name, rows, spent, time.monotonic())

    def returned(self, name: str, batches: int) -> None:
        self._machine.returned(name, batches, time.monotonic())

    def died(self, name: str, how: str, unread: int) -> None:
        why = ", as the coordinator asked" if name in self._condemned else ""
        self._condemned.discard(name)
        if (late := self._late.pop(name, None)) is not None:
            unread += len(late.batches)
        log.info("worker %s/%s %s%s", self.name, name, how, why)
        self._machine.died(name, how, unread, time.monotonic())

    def left(self, name: str) -> None:
        """It was given up when it was retired."""

    def hopeless(self, reason: str) -> None:
        self._hopeless = reason

    # -- steps of the loop -------------------------------------------------------------------------

    def _start_crew(self) -> None:
        try:
            self._supervisor.start()
        except OSError as error:
            raise PoolBroken(f"no worker can be started: {error}") from error

    def _goes_on(self) -> bool:
        """False once the machine has said its last."""
        self._act()
        return self._machine.stage is not SessionStage.CLOSED

    def _act(self) -> None:
        """Do what the machine says; doing may give it more to say."""
        while actions := self._machine.flush(time.monotonic()):
            for action in actions:
                self._try(self._do, action)

    def _try(self, do: Callable[..., object], *given: object) -> bool:
        """Whether it could be done. What fails is no reason to end, nor to leave out the rest: what was not
        sent is sent again by its line, what was not read lies there still."""
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
                    self._poll.unregister(before)
                self._descriptor = self._caller.open(session)
                if self._descriptor >= 0:
                    self._poll.register(self._descriptor, select.POLLIN)
            case SendMessage(envelope):
                self._caller.send(envelope)
            case AssignBatch(worker, client, rows):
                self._give(worker, client, [TaskRow(*row[:4]) for row in rows])
            case RevokeBatch(worker) if worker in self._late:
                self.returned(worker, len(self._late.pop(worker).batches))
            case RevokeBatch(worker):
                self._supervisor.recall(worker)
            case Kill(worker):
                self._condemned.add(worker)
                self._supervisor.kill(worker)
            case Retire(worker):
                self._supervisor.retire(worker)

    def _give(self, worker: str, client: str, rows: list[TaskRow]) -> None:
        """Give a worker a batch; later, if there is no room for it on this machine now."""
        if worker not in self._late:
            try:
                self._supervisor.give(worker, client, rows)
            except (OSError, MemoryError) as error:
                self._mishaps.note(error, f"there is no room to give tasks to worker {worker} now")
                now = time.monotonic()
                self._late[worker] = Late(deque([(client, rows)]), now + GIVE_EVERY, now + GIVE_WITHIN)
        else:
            self._late[worker].batches.append((client, rows))

    def _give_late(self, now: float) -> None:
        """Try again. Where there is no room in time, the worker is killed, which tells its clients."""
        for worker, late in list(self._late.items()):
            if now < late.next:
                continue
            late.next = now + GIVE_EVERY
            try:
                while late.batches:
                    self._supervisor.give(worker, *late.batches[0])
                    late.batches.popleft()
                del self._late[worker]
            except (OSError, MemoryError) as error:
                if now >= late.until:
                    late.until = inf
                    log.warning("worker %s is killed, for there is no room for its tasks: %s", worker, error)
                    self._supervisor.kill(worker)

    def _sleep(self) -> set[int]:
        """Wait for something to do, and return the descriptors that have it."""
        try:
            return self._poll_all()
        except FAILURES as error:
            self._mishaps.note(error)
            time.sleep(PAUSE)
            return set()

    def _poll_all(self) -> set[int]:
        if self._caller.pending():
            return {self._descriptor, *(each for each, _ in self._poll.poll(0))}
        now = time.monotonic()
        deadline = self._machine.deadline(now)
        if self._ends is not None:
            deadline = min(deadline, self._ends)
        if (due := self._supervisor.deadline()) is not None:
            deadline = min(deadline, due)
        if (due := self._patience.deadline()) is not None:
            deadline = min(deadline, due)
        for late in self._late.values():
            deadline = min(deadline, late.next)
        return {each for each, _ in self._poll.poll(max(0, int((deadline - now) * 1000) + 1))}

    def _take_in(self, ready: set[int]) -> None:
        """What came: from the network, from the workers, from the clock, and from who stops this agent."""
        if self._waker.fileno() in ready:
            self._waker.clear()
        if self._descriptor in ready:
            self._try(self._hear)
            self._act()  # before a worker's death is heard of: what was given to it counts as unread then
        if self._supervisor.fileno() in ready:
            self._try(self._supervisor.turn)
        now = time.monotonic()
        if self._machine.stage is SessionStage.GREETING and self._descriptor not in ready:
            self._try(self._hear)  # what its descriptor does not tell: that it was not let in
        self._try(self._supervisor.tick, now)
        if self._late:
            self._give_late(now)
        self._machine.tick(now)
        if self._leaves or self._hopeless:
            self._supervisor.resize(0)
            self._machine.leave()
        if self._leaves > 1 and self._ends is None:
            self._ends = now + LAST_WORDS
            self._machine.abort()

    def _hear(self) -> None:
        heard, why = self._caller.receive()
        for envelope in heard:
            self._machine.receive(envelope, time.monotonic())
        if why:
            self._machine.turned_away(why, time.monotonic())

    def _check(self) -> None:
        now = time.monotonic()
        self._trim.look(self._machine.kept_bytes, now)
        self._report(now)
        if self._machine.barred:
            raise NotAdmitted(f"cannot work for the coordinator at {self._address}: {self._machine.barred}")
        if self._ends is not None and now >= self._ends:
            self._machine.abandon()
        elif self._machine.lost(now):
            raise CoordinatorLost(f"no coordinator has answered at {self._address} for {self._wait:g} s")

    def _report(self, now: float) -> None:
        """Say whether there is a coordinator."""
        machine, missing = self._machine, ""
        if machine.stage is SessionStage.OPEN and self._joined != machine.session_name:
            self._joined = machine.session_name
            log.info("joined the coordinator at %s", self._address)
        elif machine.away(now) or machine.stage is SessionStage.GREETING:
            missing = f"no coordinator answers at {self._address}; waiting for one"
        if said := self._patience.look(missing, now):
            log.warning("%s", said)

    def _close(self) -> None:
        for close in (self._supervisor.close, self._caller.close, self._waker.close):
            self._try(close)
