"""A coordinator, agents and clients without a network: every message is encoded and arrives at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

from nearfar.coordinator import messages
from nearfar.coordinator import task as failures
from nearfar.coordinator.large_parts import CLIENT, Row
from nearfar.coordinator.messages import (
    VERSION,
    PoolChannel,
    PoolFrame,
    PoolMessage,
    PoolMessageType,
    open_channel,
)
from nearfar.coordinator.protocol import CoordinatorProtocol
from nearfar.coordinator.scheduler import Scheduler
from nearfar.coordinator.task import Mode, TaskOutcome
from nearfar.errors import InitializerFailed
from nearfar.net.session import Connect, SendMessage
from nearfar.worker.agent_protocol import AgentProtocol, AssignBatch, Kill, Retire, RevokeBatch
from tests.coordinator.check import check_bytes

LEASE = 10.0


def through(envelope: PoolFrame) -> PoolFrame:
    """A message after encoding and decoding."""
    return messages.unpack([bytes(frame) for frame in messages.pack(*envelope)])


class FakeAgent:
    """An agent's protocol and a fake supervisor; the test controls what its workers run."""

    def __init__(self, world: World, name: str, workers: int, keeps: int = 0) -> None:
        self.world = world
        about = {"host": "elsewhere", "pid": 77, "slots": workers, "bytes": keeps}
        self.machine = AgentProtocol(name, about)
        self.value: Callable[[bytes], bytes] = lambda blob: blob[::-1]
        self.socket = ""
        self.cut = False
        self.serial = 0
        self.unread: dict[str, deque[list[Row]]] = {}
        self.reading: dict[str, deque[Row]] = {}
        self.ran: list[bytes] = []
        """The blobs of what was run, initializers included."""
        self.machine.connect(world.now)
        for _ in range(workers):
            self.start()

    def start(self) -> str:
        self.serial += 1
        name = f"0.{self.serial}"
        self.unread[name], self.reading[name] = deque(), deque()
        self.machine.came(name, 1000 + self.serial, self.world.now)
        return name

    def end(self, name: str, how: str = "killed by SIGKILL") -> None:
        self.reading.pop(name)
        self.machine.died(name, how, len(self.unread.pop(name)), self.world.now)

    def read(self, name: str) -> None:
        """Worker `name` reads its next batch, if it has read none."""
        if not self.reading[name] and self.unread[name]:
            self.reading[name].extend(self.unread[name].popleft())

    def run(self, name: str, status: int = 0) -> bool:
        """Worker `name` runs its next task; the value of a task is its blob, backwards."""
        self.read(name)
        if not self.reading[name]:
            return False
        blob = bytes(self.reading[name].popleft()[3])
        self.ran.append(blob)
        self.machine.answered(name, [(status, self.value(blob), [])], 0.01, self.world.now)
        return True

    def busy(self) -> list[str]:
        return [name for name in self.unread if self.reading[name] or self.unread[name]]

    def act(self) -> bool:
        actions = self.machine.flush(self.world.now)
        for action in actions:
            match action:
                case Connect(session):
                    self.socket = session
                case SendMessage(envelope) if not self.cut:
                    self.world.to_coordinator.append((self.socket, through(envelope)))
                case AssignBatch(worker, _, rows) if worker in self.unread:
                    self.unread[worker].append(rows)
                case RevokeBatch(worker) if worker in self.unread:
                    count = len(self.unread[worker])
                    self.unread[worker].clear()
                    self.machine.returned(worker, count, self.world.now)
                case Kill(worker) if worker in self.unread:
                    self.end(worker)
                    self.start()
                case Retire(worker):
                    del self.unread[worker], self.reading[worker]
                case _:
                    pass
        return bool(actions)


class FakeClient:
    """A client that submits its tasks without an outcome again in each session."""

    def __init__(self, world: World, name: str, initializer: Row | None = None, eager: bool = False) -> None:
        self.world = world
        self.name = name
        self.initializer = initializer
        self.eager = eager
        self.session = 0
        self.cut = False
        self.talk: PoolChannel | None = None
        self.pending: dict[int, Row] = {}
        self.outcomes: dict[int, list[tuple[int, Any]]] = {}
        self.cancelled: dict[int, bool] = {}
        self.workers = -1
        self.number = 0
        self.parted = False
        self.greet()

    @property
    def socket(self) -> str:
        return f"{self.name}.{self.session}"

    def greet(self) -> None:
        self.session += 1
        self.talk = None
        about = {"host": "here", "pid": 5}
        self.world.to_coordinator.append(
            (
                self.socket,
                PoolFrame(0, 0, PoolMessage(PoolMessageType.HELLO, (VERSION, CLIENT, self.name, about))),
            )
        )

    def say(self, kind: PoolMessageType, *fields: Any, rows: list[Row] | None = None) -> None:
        assert self.talk is not None
        self.talk.send(PoolMessage(kind, fields, rows), self.world.now)

    def submit(self, *blobs: bytes, timeout: float | None = None, retries: int = 0) -> list[int]:
        rows: list[Row] = []
        for blob in blobs:
            self.number += 1
            rows.append((self.number, Mode.CALL, b"m:f", blob, [], timeout, retries))
        self.pending.update((row[0], row) for row in rows)
        self.say(PoolMessageType.SUBMIT, False, rows=rows)
        return [row[0] for row in rows]

    def hear(self, envelope: PoolFrame) -> None:
        message = envelope.message
        if message.kind is PoolMessageType.WELCOME and self.talk is None:
            self.talk = open_channel(message.fields[1]["lease"], self.world.now)
            self.say(PoolMessageType.JOIN, self.eager, rows=[self.initializer] if self.initializer else [])
            if self.pending:
                self.say(PoolMessageType.SUBMIT, True, rows=list(self.pending.values()))
        elif message.kind is PoolMessageType.STRANGER:
            self.greet()
        elif self.talk is not None:
            for each in self.talk.hear(envelope, self.world.now):
                self.handle(each)

    def handle(self, message: PoolMessage) -> None:
        match message.kind:
            case PoolMessageType.OUTCOMES:
                for number, outcome, blob, _ in message.rows or ():
                    self.pending.pop(number, None)
                    self.outcomes.setdefault(number, []).append((outcome, bytes(blob)))
            case PoolMessageType.CANCELLED:
                self.cancelled[message.fields[0]] = message.fields[1]
                if message.fields[1]:
                    self.pending.pop(message.fields[0], None)
            case PoolMessageType.WORKERS:
                self.workers = message.fields[0]
            case PoolMessageType.PART:
                self.parted = True

    def value(self, number: int) -> bytes:
        """The only outcome of a task, a value."""
        ((outcome, blob),) = self.outcomes[number]
        assert outcome is TaskOutcome.VALUE or outcome == TaskOutcome.VALUE
        return bytes(blob)

    def error(self, number: int) -> BaseException:
        """The only outcome of a task, a failure."""
        ((outcome, blob),) = self.outcomes[number]
        assert outcome == TaskOutcome.FAILED
        return failures.read(blob, InitializerFailed)

    def was_cancelled(self, number: int) -> bool:
        return isinstance(self.error(number), CancelledError)

    def act(self) -> bool:
        if self.talk is None:
            return False
        envelopes = self.talk.flush(self.world.now)
        if not self.cut:
            self.world.to_coordinator.extend((self.socket, through(envelope)) for envelope in envelopes)
        return bool(envelopes)


class World:
    """The peers, and the time."""

    def __init__(self, most_bytes: int = 0) -> None:
        self.now = 100.0
        self.most_bytes = most_bytes
        self.lives = 0
        self.to_coordinator: deque[tuple[str, PoolFrame]] = deque()
        self.agents: list[FakeAgent] = []
        self.clients: list[FakeClient] = []
        self.up = True
        self.restart()

    def restart(self) -> None:
        """Replace the coordinator by a new, empty one."""
        self.lives += 1
        self.coordinator = Scheduler()
        self.peers = CoordinatorProtocol(
            self.coordinator,
            f"life {self.lives}",
            lease=LEASE,
            clients=True,
            now=self.now,
            most_bytes=self.most_bytes,
        )
        self.to_coordinator.clear()
        self.up = True

    def agent(self, name: str = "agent", workers: int = 1, keeps: int = 0) -> FakeAgent:
        self.agents.append(FakeAgent(self, name, workers, keeps))
        self.settle()
        return self.agents[-1]

    def client(self, name: str = "client", initializer: Row | None = None, eager: bool = False) -> FakeClient:
        self.clients.append(FakeClient(self, name, initializer, eager))
        self.settle()
        return self.clients[-1]

    def settle(self) -> None:
        """Until no side has a message to send."""
        for _ in range(1000):
            said = [each.act() for each in (*self.agents, *self.clients)]
            if not self.turn() and not any(said):
                return
        raise AssertionError("they never stop talking")

    def turn(self) -> bool:
        if not self.up:
            self.to_coordinator.clear()
            return False
        while self.to_coordinator:
            name, envelope = self.to_coordinator.popleft()
            self.peers.receive(name, envelope, self.now)
        self.coordinator.flush(self.now)
        outcomes = list(self.coordinator.outcomes)
        self.coordinator.outcomes.clear()
        for task, outcome in outcomes:
            if isinstance(outcome, BaseException):
                task.failed(outcome)
            else:
                task.answered(*outcome)
        check_bytes(self.peers)
        said = self.peers.flush(self.now)
        for name, envelope in said:
            for agent in self.agents:
                if agent.socket == name and not agent.cut:
                    agent.machine.receive(through(envelope), self.now)
            for client in self.clients:
                if client.socket == name and not client.cut:
                    client.hear(through(envelope))
        return bool(said)

    def run_all(self) -> None:
        """Let every worker run all its tasks."""
        self.settle()
        while [agent for agent in self.agents for name in list(agent.unread) if agent.run(name)]:
            self.settle()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, in steps of a second."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(self.now + 1.0, until)
            for agent in self.agents:
                agent.machine.tick(self.now)
            for client in self.clients:
                if client.talk is not None:
                    client.talk.tick(self.now)
            if self.up:
                self.peers.tick(self.now)
                self.coordinator.tick(self.now)
            self.settle()
