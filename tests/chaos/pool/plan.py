"""A run of the pool, drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from tests.chaos.faults.failpoints import Failpoint
from tests.chaos.faults.faults import Fault, either, network_fault, proxy_fault
from tests.chaos.pool.points import OF_AGENT, OF_CLIENT, OF_COORDINATOR, OF_WORKER

TRANSPORTS = ("near", "ipc", "tcp", "proxy", "net")
HOST = "host"
"""The coordinator; in a near run there is none."""


@dataclass(frozen=True)
class Plan:
    """`hosted`: the one client's own pool coordinates, and workers join it."""

    seed: int
    transport: str
    hosted: bool
    clients: int
    agents: int
    processes: int
    """Of each agent, or of the near pool."""
    tasks: int
    """Of each client."""
    retries: int
    faults: tuple[Fault, ...]
    failpoints: tuple[tuple[str, Failpoint], ...]

    @property
    def near(self) -> bool:
        return self.transport == "near"

    @property
    def callers(self) -> list[str]:
        return [f"client{number}" for number in range(1, self.clients + 1)]

    @property
    def helpers(self) -> list[str]:
        return [] if self.near else [f"agent{number}" for number in range(1, self.agents + 1)]

    @property
    def centre(self) -> str:
        """The role that coordinates."""
        return self.callers[0] if self.near or self.hosted else HOST

    @classmethod
    def draw(cls, seed: int) -> Plan:
        dice = Random(seed)
        transport = TRANSPORTS[seed % len(TRANSPORTS)]
        hosted = transport != "near" and dice.random() < 0.25
        plan = cls(
            seed,
            transport,
            hosted,
            clients=1 if hosted or transport == "near" else dice.choice((1, 2)),
            agents=dice.choice((1, 2, 2)),
            processes=dice.choice((1, 2)),
            tasks=dice.randint(30, 80),
            retries=dice.choice((0, 0, 0, 2)),
            faults=(),
            failpoints=(),
        )
        failpoints = plan._failpoints(dice)
        return cls(**{**vars(plan), "faults": plan._faults(dice), "failpoints": failpoints})

    def __str__(self) -> str:
        told = (
            f"seed {self.seed}: {self.transport}{', hosted' if self.hosted else ''}, {self.clients} clients"
        )
        told += f" of {self.tasks} tasks, {self.retries} retries, {len(self.helpers)} agents"
        lines = [*map(str, self.faults), *(f"{role} at {point}" for role, point in self.failpoints)]
        return "\n  ".join([f"{told} of {self.processes} processes", *lines])

    def _failpoints(self, dice: Random) -> tuple[tuple[str, Failpoint], ...]:
        """Rising seeds use every point of every role in turn."""
        turn = self.seed // len(TRANSPORTS)
        if self.near:
            places = [("client1", point) for point in OF_WORKER]
        else:
            places = [("agent1", point) for point in (*OF_AGENT, *OF_WORKER)]
        if self.centre == HOST:
            places += [(HOST, point) for point in OF_COORDINATOR] + [
                ("client1", point) for point in OF_CLIENT
            ]
        role, point = places[turn % len(places)]
        once = point.endswith(("hello", "bye", "welcome-sent", "came-sent", "worker-came", "departed"))
        nth = 1 if once else dice.choice((1, 2, 5, 9))
        return ((role, Failpoint(point, "stop" if dice.random() < 0.3 else "kill", nth)),)

    def _faults(self, dice: Random) -> tuple[Fault, ...]:
        found = []
        mortal = [*self.helpers, *([] if self.near or self.hosted else [HOST])]
        for _ in range(dice.randint(0, 3)):
            at = dice.uniform(0.05, 1.2)
            what = dice.random()
            if self.transport == "net" and what < 0.6:
                found.append(network_fault(at, dice, [*self.helpers, *self.callers]))
            elif self.transport == "proxy" and what < 0.6:
                found.append(proxy_fault(at, dice))
            elif self.near or what < 0.75:
                owner = dice.choice(self.callers if self.near else self.helpers)
                kind = dice.choice(("kill below", "kill below", "stop below"))
                found.append(Fault(at, kind, owner, either(dice)))
            elif what < 0.9:
                found.append(Fault(at, "kill", dice.choice(mortal), dice.uniform(0.0, 0.3)))
            else:
                found.append(Fault(at, "stop", dice.choice([*mortal, *self.callers]), either(dice)))
        return tuple(sorted(found, key=lambda fault: fault.at))
