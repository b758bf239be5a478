"""A pool without sockets, processes, threads or a clock: the real protocols over a simulated network.

Each connection is a channel: it keeps its order, but may be slow, and loses what a broken one would lose.
Everything random comes from one seeded generator, so that a failure can be run again.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

from nearfar.coordinator import messages
from nearfar.coordinator.large_parts import Row
from nearfar.coordinator.messages import PoolFrame
from nearfar.coordinator.protocol import CoordinatorProtocol
from nearfar.coordinator.scheduler import Scheduler
from nearfar.coordinator.task import Mode, Task, TaskState, TaskStatus
from nearfar.errors import InitializerFailed, TaskTimeout, WorkerLost
from nearfar.net.session import Connect, SendMessage, SessionStage
from nearfar.pool.far_client import FarClient
from nearfar.worker.agent_protocol import AgentProtocol, AssignBatch, Kill, Retire, RevokeBatch
from tests.coordinator.check import check, check_bytes
from tests.coordinator.fakes import Job

LEASE = 10.0
PACES = [0.00001, 0.00001, 0.001, 0.05, 0.4]
"""Seconds that a task may take."""


class World:
    """The simulated time and its events. `crash`: the probability that a task kills its worker."""

    def __init__(self, seed: int, *, loss: float = 0.0, slowest: float = 0.05, crash: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.loss = loss
        self.slowest = slowest
        self.crash = crash
        self.most_bytes = 64 << 10 if seed % 2 else 0
        """Of what the coordinator keeps: every other world's has little room, for some thirty small tasks."""
        self.runs: Counter[bytes] = Counter()
        """How often each task was begun."""
        self.prepared: Counter[tuple[str, bytes]] = Counter()
        """How often each worker process ran each initializer."""
        self.ends: dict[str, SimAgent | SimClient] = {}
        self.cut_off: set[str] = set()
        self.lives = 0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._last_arrival: dict[Any, float] = {}
        self.host: SimCoordinator | None = None
        self.start_coordinator()

    @property
    def agents(self) -> list[SimAgent]:
        return [end for end in self.ends.values() if isinstance(end, SimAgent)]

    @property
    def clients(self) -> list[SimClient]:
        return [end for end in self.ends.values() if isinstance(end, SimClient)]

    def later(self, delay: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.now + delay, next(self._order), action))

    def run(self, *, until: Callable[[], bool] = lambda: False, most: float = 3600.0) -> None:
        """Let time pass until `until`, or for `most` seconds."""
        end = self.now + most
        while self._agenda and not until():
            if self._agenda[0][0] > end:
                self.now = end
                return
            when, _, action = heapq.heappop(self._agenda)
            self.now = max(self.now, when)
            action()

    def carry(self, channel: Any, end: str, envelope: PoolFrame, arrive: Callable[[PoolFrame], None]) -> None:
        """Take a message over the network: late, in the order of its channel, or not at all."""
        if end in self.cut_off or self.random.random() < self.loss:
            return
        when = self.now + self.random.uniform(0.0001, self.slowest)
        when = max(when, self._last_arrival.get(channel, 0.0))
        self._last_arrival[channel] = when
        read = messages.unpack([bytes(frame) for frame in messages.pack(*envelope)])

        def land() -> None:
            if end not in self.cut_off:
                arrive(read)

        self.later(when - self.now, land)

    def start_coordinator(self) -> None:
        self.lives += 1
        self.host = SimCoordinator(self)

    def stop_coordinator(self) -> None:
        if self.host is not None:
            self.host.alive = False
            self.host = None

    def restart_coordinator(self, after: float = 0.5) -> None:
        """The coordinator is killed and restarted empty."""
        self.stop_coordinator()
        self.later(after, self.start_coordinator)

    def kill_workers(self, count: int, within: float) -> None:
        """Kill some workers at random, idle or not."""

        def kill() -> None:
            supervisors = [
                worker for agent in self.agents if agent.alive for worker in agent.supervisor.values()
            ]
            if supervisors:
                self.random.choice(supervisors).crash()

        for _ in range(count):
            self.later(self.random.uniform(0, within), kill)

    def cut(self, names: list[str], seconds: float) -> None:
        """No message reaches these peers, or comes from them, for so long."""
        self.cut_off.update(names)
        self.later(seconds, lambda: self.cut_off.difference_update(names))


class SimCoordinator:
    """Does what the coordinator's loop does."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.alive = True
        self.machine = Scheduler()
        epoch = f"life {world.lives}"
        self.peers = CoordinatorProtocol(
            self.machine, epoch, lease=LEASE, clients=True, now=world.now, most_bytes=world.most_bytes
        )
        self._tick()

    def receive(self, session: str, envelope: PoolFrame) -> None:
        if self.alive:
            self.peers.receive(session, envelope, self.world.now)
            self._act()

    def dead(self, session: str) -> None:
        """The process of a session on this machine ended."""
        if self.alive:
            self.peers.table.dead(session, "ended", self.world.now)
            self._act()

    def _tick(self) -> None:
        if not self.alive:
            return
        now = self.world.now
        self.peers.tick(now)
        self.machine.tick(now)
        self._act()
        wanted = [self.peers.deadline(now)]
        if (alarm := self.machine.deadline()) is not None:
            wanted.append(alarm)
        self.world.later(min(max(0.001, min(wanted) - now), 1.0), self._tick)

    def _act(self) -> None:
        now = self.world.now
        self.machine.flush(now)
        check(self.machine, resumed=self.world.lives > 1)
        outcomes = list(self.machine.outcomes)
        self.machine.outcomes.clear()
        for task, outcome in outcomes:
            if isinstance(outcome, BaseException):
                task.failed(outcome)
            else:
                task.answered(*outcome)
        check_bytes(self.peers)
        for session, envelope in self.peers.flush(now):
            end = self.world.ends.get(session.rpartition(".")[0])
            if end is not None:
                channel = (session, end.connection, "down")
                self.world.carry(channel, end.name, envelope, lambda e, s=session, d=end: d.receive(s, e))


class SimEnd:
    """The common part of the loops of an agent and of a client."""

    def __init__(self, world: World, name: str, machine: AgentProtocol | FarClient) -> None:
        self.world = world
        self.name = name
        self.machine = machine
        self.alive = True
        self.connection = 0
        self.closed = False
        world.ends[name] = self
        machine.connect(world.now)
        self._tick()

    def receive(self, session: str, envelope: PoolFrame) -> None:
        if self.alive and session == self.machine.session_name:
            self.machine.receive(envelope, self.world.now)
            self.act()

    def kill(self, *, seen: bool) -> None:
        """The process is gone; `seen` by a coordinator on the same machine, or only by its silence."""
        self.alive = False
        if seen and self.world.host is not None:
            self.world.host.dead(self.machine.session_name)

    def _tick(self) -> None:
        if not self.alive or self.closed:
            return
        now = self.world.now
        self.machine.tick(now)
        self.act()
        self.world.later(min(max(0.001, self.machine.deadline(now) - now), 1.0), self._tick)

    def act(self) -> None:
        if not self.alive:
            return
        for action in self.machine.flush(self.world.now):
            if isinstance(action, Connect):
                self.connection += 1
            elif isinstance(action, SendMessage):
                host, session = self.world.host, self.machine.session_name
                if host is not None:
                    channel = (session, self.connection, "up")
                    self.world.carry(
                        channel, self.name, action.envelope, lambda e, h=host, s=session: h.receive(s, e)
                    )
            else:
                self.do(action)

    def do(self, action: Any) -> None:
        raise NotImplementedError


class SimWorker:
    """A worker process: it reads a batch when it has nothing, and takes its time for each task."""

    def __init__(self, agent: SimAgent, name: str) -> None:
        self.agent = agent
        self.world = agent.world
        self.name = name
        self.unread: deque[list[Row]] = deque()
        self.reading: deque[Row] = deque()
        self.busy = False
        self.dead = False

    def go(self) -> None:
        if self.dead or self.busy:
            return
        if not self.reading and self.unread:
            self.reading.extend(self.unread.popleft())
        if self.reading:
            self.busy = True
            _, mode, function, blob, _ = self.reading[0]
            if mode == Mode.PREPARE:
                self.world.prepared[f"{self.agent.name}/{self.name}", bytes(blob)] += 1
            else:
                self.world.runs[bytes(blob)] += 1
            chance = self.world.random
            pace = float(function.partition(b" ")[2] or 0.001)
            end = self.crash if chance.random() < self.world.crash else self.finish
            spent = chance.uniform(0.5, 1.0) * pace
            self.world.later(spent, lambda: end(spent))

    def finish(self, spent: float) -> None:
        if self.dead or not self.agent.alive:
            return
        _, mode, _, blob, _ = self.reading.popleft()
        self.busy = False
        status = TaskStatus.ERROR if mode == Mode.PREPARE and blob.startswith(b"bad") else TaskStatus.VALUE
        self.agent.machine.answered(self.name, [(status, bytes(blob)[::-1], [])], spent, self.world.now)
        self.go()
        self.agent.act()

    def crash(self, _: float = 0.0) -> None:
        self.end("killed by SIGSEGV")
        self.agent.act()

    def end(self, how: str) -> None:
        if self.dead or not self.agent.alive:
            return
        self.dead = True
        del self.agent.supervisor[self.name]
        self.agent.machine.died(self.name, how, len(self.unread), self.world.now)
        self.world.later(0.05, self.agent.start)


class SimAgent(SimEnd):
    """An agent with its supervisor."""

    machine: AgentProtocol

    def __init__(self, world: World, name: str, workers: int = 2, quota: int = 0) -> None:
        self.supervisor: dict[str, SimWorker] = {}
        self.serial = 0
        machine = AgentProtocol(name, {"host": f"host of {name}", "pid": 1, "slots": workers, "quota": quota})
        super().__init__(world, name, machine)
        for _ in range(workers):
            world.later(world.random.uniform(0, 0.2), self.start)

    def start(self) -> None:
        if self.alive and self.machine.stage is not SessionStage.CLOSED:
            self.serial += 1
            worker = self.supervisor[f"w.{self.serial}"] = SimWorker(self, f"w.{self.serial}")
            self.machine.came(worker.name, 1000 + self.serial, self.world.now)
            self.act()

    def do(self, action: Any) -> None:
        worker = self.supervisor.get(action.worker)
        match action:
            case AssignBatch(_, _, rows) if worker is not None:
                worker.unread.append(rows)
                worker.go()
            case RevokeBatch() if worker is not None:
                count = len(worker.unread)
                worker.unread.clear()
                self.machine.returned(worker.name, count, self.world.now)
            case Kill() if worker is not None:
                worker.end("killed by SIGKILL")
            case Retire() if worker is not None:
                assert not worker.unread and not worker.reading
                worker.dead = True
                del self.supervisor[worker.name]
                self.world.later(0.05, self.start)
        self.world.later(0, self.act)


class SimClient(SimEnd):
    """Submits `count` tasks, some at once and some by and by, and cancels a share of them."""

    machine: FarClient

    def __init__(
        self,
        world: World,
        name: str,
        count: int,
        *,
        cancels: float = 0.0,
        timeout: float | None = None,
        retries: tuple[int, ...] = (0,),
        initializer: bytes = b"",
        eager: bool = False,
        wait: float = 60.0,
    ) -> None:
        self.jobs: dict[bytes, Job] = {}
        self.told: dict[bytes, list[Any]] = {}
        self.cancelled: set[bytes] = set()
        self.world = world
        self.name = name
        chance = world.random
        when = 0.0
        while len(self.jobs) < count:
            many = min(chance.choice([1, 1, 5, 30]), count - len(self.jobs))
            made = [self._job(timeout, chance.choice(retries)) for _ in range(many)]
            world.later(when, lambda made=made: self.submit(made))
            when += chance.choice([0.0, 0.0, 0.01, 1.0])
            for job in made:
                if chance.random() < cancels:
                    world.later(when + chance.choice([0.0, 0.1, 1.0, 4.0]), lambda job=job: self.cancel(job))
        row = (b"m:prepare 0.01", initializer, []) if initializer else None
        machine = FarClient(
            name,
            {"host": "here", "pid": 1},
            initializer=row,
            eager=eager,
            read_error=InitializerFailed,
            wait=wait,
        )
        super().__init__(world, name, machine)

    def _job(self, timeout: float | None, retries: int) -> Job:
        blob = f"{self.name}:{len(self.jobs)}".encode()
        pace = self.world.random.choice(PACES)
        job = Job(blob, self.name, f"m:f {pace}".encode(), timeout=timeout, retries=retries)
        job.blob = blob
        self.jobs[blob] = job
        return job

    @property
    def done(self) -> bool:
        return len(self.told) == len(self.jobs)

    def submit(self, jobs: list[Job]) -> None:
        if self.alive:
            for job in jobs:
                self.machine.submit(job)
            self.act()

    def cancel(self, job: Job) -> None:
        if self.alive:
            if job.state is not TaskState.SETTLED:
                self.cancelled.add(job.name)
            if self.machine.cancel([job]):
                self._tell(job, CancelledError())
            self.act()

    def act(self) -> None:
        super().act()
        outcomes = list(self.machine.outcomes)
        self.machine.outcomes.clear()
        for task, outcome in outcomes:
            self._tell(task, outcome)
        if self.done and self.machine.stage is not SessionStage.CLOSED:
            self.machine.leave()
        self.closed = self.machine.stage is SessionStage.CLOSED

    def do(self, action: Any) -> None:
        raise AssertionError(action)

    def _tell(self, task: Task, outcome: Any) -> None:
        """Record an outcome, which must belong to the task and be possible."""
        assert isinstance(task, Job) and self.jobs[task.name] is task
        assert task.name not in self.told, f"two outcomes for {task.name!r}"
        self.told.setdefault(task.name, []).append(outcome)
        runs = self.world.runs[task.name]
        if isinstance(outcome, tuple):
            assert outcome[0] == TaskStatus.VALUE and bytes(outcome[1]) == task.name[::-1], "another's answer"
            assert runs, "an answer to what never ran"
        elif isinstance(outcome, TaskTimeout):
            assert task.timeout is not None
        elif isinstance(outcome, CancelledError):
            assert task.name in self.cancelled
            if not task.retries and self.world.lives == 1:
                assert not runs, "cancelled, and had run"

    def values(self) -> int:
        return sum(isinstance(outcomes[0], tuple) for outcomes in self.told.values())

    def errors(self, kind: type[BaseException]) -> list[bytes]:
        return [name for name, outcomes in self.told.items() if isinstance(outcomes[0], kind)]

    def lost(self) -> list[bytes]:
        return self.errors(WorkerLost)
