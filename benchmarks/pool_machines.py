"""The coordinator's machine by itself, with simulated peers: what a task costs it, the wire's bytes included.

Half of the peers are clients, which have one task under way each, half are agents with a worker each. Every
message has one task and is a turn of its own, as where peers are many and idle: that is the dearest way.
"""

from __future__ import annotations

import gc
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence

from benchmarks import tables
from nearfar.coordinator import messages
from nearfar.coordinator.messages import PoolFrame
from nearfar.coordinator.protocol import CoordinatorProtocol
from nearfar.coordinator.scheduler import Scheduler, tell
from nearfar.coordinator.task import Mode, Task
from nearfar.net.session import Connect, SendMessage
from nearfar.pool.far_client import FarClient
from nearfar.worker.agent_protocol import AgentProtocol, AssignBatch, RevokeBatch

PEERS = (10, 100, 1000, 4000)
TASKS = 4000
LEASE = 10.0
TURN = 1e-4
"""Seconds that a turn takes, by the simulation's clock."""

Frames = list[bytes]


class SimulatedTask(Task):
    """The client's end of one: counted, and submitted anew."""

    __slots__ = ("owner",)

    def __init__(self, owner: SimulatedClient) -> None:
        self.owner = owner
        self.client = owner.name
        self.mode = int(Mode.CALL)
        self.function, self.blob, self.buffers = b"benchmarks.pool_tasks:same", b"\x80\x05K\x01\x85\x94.", ()

    def answered(self, status: int, blob: object, buffers: object) -> None:
        self.owner.done += 1

    def failed(self, error: BaseException) -> None:
        raise error


class SimulatedClient:
    def __init__(self, number: int, now: float) -> None:
        self.name = f"client-{number}"
        self.done = 0
        self._machine = FarClient(self.name, {"host": "here"})
        self._machine.connect(now)

    def hear(self, envelope: PoolFrame, now: float) -> None:
        self._machine.receive(envelope, now)
        tell(self._machine.outcomes)

    def speak(self, now: float) -> Iterator[tuple[str, Frames]]:
        if not self._machine:
            self._machine.submit(SimulatedTask(self))
        return _said(self._machine, self._machine.flush(now))


class SimulatedAgent:
    """Its worker answers at once."""

    def __init__(self, number: int, now: float) -> None:
        self.name = f"agent-{number}"
        self.done = 0
        self._machine = AgentProtocol(self.name, {"host": "here", "slots": 1})
        self._machine.connect(now)
        self._machine.came("0.0", 1, now)

    def hear(self, envelope: PoolFrame, now: float) -> None:
        self._machine.receive(envelope, now)

    def speak(self, now: float) -> Iterator[tuple[str, Frames]]:
        actions = self._machine.flush(now)
        for action in actions:
            if isinstance(action, AssignBatch):
                answers = [(0, row[3], []) for row in action.rows]
                self._machine.answered(action.worker, answers, 1e-5 * len(answers), now)
            elif isinstance(action, RevokeBatch):
                self._machine.returned(action.worker, 0, now)
        return _said(self._machine, [*actions, *self._machine.flush(now)])


def _said(machine: FarClient | AgentProtocol, actions: list[object]) -> Iterator[tuple[str, Frames]]:
    for action in actions:
        if isinstance(action, SendMessage):
            yield machine.session_name, [bytes(frame) for frame in messages.pack(*action.envelope)]
        elif not isinstance(action, Connect | AssignBatch | RevokeBatch):
            raise RuntimeError(f"nothing asks for {action}")


class Simulation:
    """Messages arrive at once, in the order in which they were sent."""

    def __init__(self, peers: int) -> None:
        self._coordinator = Scheduler()
        self._now = 0.0
        self._peers = CoordinatorProtocol(
            self._coordinator, "epoch", lease=LEASE, clients=True, now=self._now
        )
        self._spent = self._next_tick = 0.0
        self._under_way: deque[tuple[str, Frames]] = deque()
        clients = [SimulatedClient(number, self._now) for number in range(peers // 2)]
        agents = [SimulatedAgent(number, self._now) for number in range(peers - len(clients))]
        self._clients = clients
        self._by_name: dict[str, SimulatedClient | SimulatedAgent] = {each.name: each for each in clients}
        self._by_name.update((each.name, each) for each in agents)
        for each in (*agents, *clients):
            self._under_way.extend(each.speak(self._now))

    def run(self, tasks: int) -> float:
        """Microseconds of the coordinator's time for each task, once everybody has joined and `tasks` ran."""
        self._until(len(self._clients))
        done, self._spent = self._done(), 0.0
        self._until(done + tasks)
        return self._spent / (self._done() - done) * 1e6

    def _done(self) -> int:
        return sum(client.done for client in self._clients)

    def _until(self, done: int) -> None:
        while self._done() < done:
            for _ in range(len(self._under_way)):
                for socket, envelope in self._turn(*self._under_way.popleft()):
                    peer = self._by_name[socket.rpartition(".")[0]]
                    peer.hear(envelope, self._now)
                    self._under_way.extend(peer.speak(self._now))
            if not self._under_way:
                raise RuntimeError("nobody says anything any more")

    def _turn(self, socket: str, frames: Frames) -> list[tuple[str, PoolFrame]]:
        """As a coordinator's loop has it; only this is timed."""
        self._now += TURN
        started = time.perf_counter()
        self._peers.receive(socket, messages.unpack(frames), self._now)
        if self._now >= self._next_tick:
            self._peers.tick(self._now)
        self._coordinator.flush(self._now)
        tell(self._coordinator.outcomes)
        said = self._peers.flush(self._now)
        self._next_tick = self._peers.deadline(self._now)
        packed = [(name, [bytes(frame) for frame in messages.pack(*envelope)]) for name, envelope in said]
        self._spent += time.perf_counter() - started
        return [(name, messages.unpack(each)) for name, each in packed]


def cost(peers: int, tasks: int) -> float:
    """Microseconds of the coordinator's time for each task, with so many peers."""
    gc.collect()
    return Simulation(peers).run(tasks)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a Markdown table, and write both forms."""
    options = tables.make_parser("benchmarks.pool_machines", __doc__).parse_args(argv)
    names = {f"{count:,} peers": count for count in PEERS}
    values: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name, count in names.items():
            values[name].append(cost(count, TASKS))
    first = next(iter(names))
    row = tables.figure("a task, alone in each message", "us", values, first, rate=False)
    made = tables.result([row], list(names), first, options.rounds)
    tables.publish(made, options.output, "pool-machines", "The coordinator's machine alone; less is better.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
