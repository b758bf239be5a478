"""A run of the queue, drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from tests.chaos.faults.failpoints import Failpoint
from tests.chaos.faults.faults import Fault, either, network_fault, proxy_fault
from tests.chaos.queue.points import OF_CONSUMER, OF_HOST, OF_PRODUCER

TRANSPORTS = ("ipc", "tcp", "proxy", "net")
HOST = "host"


@dataclass(frozen=True)
class Plan:
    """`stay`: producers wait until all is done, so that nothing may be lost with the host."""

    seed: int
    transport: str
    producers: int
    consumers: int
    items: int
    """Of each producer."""
    batch: int
    maxsize: int
    stay: bool
    faults: tuple[Fault, ...]
    failpoints: tuple[tuple[str, Failpoint], ...]

    @property
    def roles(self) -> list[str]:
        """The producers and consumers."""
        putting = [f"producer{number}" for number in range(1, self.producers + 1)]
        return putting + [f"consumer{number}" for number in range(1, self.consumers + 1)]

    @classmethod
    def draw(cls, seed: int) -> Plan:
        dice = Random(seed)
        transport = TRANSPORTS[seed % len(TRANSPORTS)]
        plan = cls(
            seed,
            transport,
            producers=dice.choice((1, 2, 2)),
            consumers=dice.choice((1, 2, 3)),
            items=dice.randint(40, 120),
            batch=dice.choice((1, 1, 7)),
            maxsize=dice.choice((0, 0, 3, 20)),
            stay=dice.random() < 0.6,
            faults=(),
            failpoints=(),
        )
        failpoints = plan._failpoints(dice)
        return cls(**{**vars(plan), "faults": plan._faults(dice), "failpoints": failpoints})

    def __str__(self) -> str:
        told = f"seed {self.seed}: {self.transport}, {self.producers} producers of {self.items} items"
        told += f" ({self.batch} together), {self.consumers} consumers, maxsize {self.maxsize}"
        told += ", producers stay" if self.stay else ""
        lines = [*map(str, self.faults), *(f"{role} at {point}" for role, point in self.failpoints)]
        return "\n  ".join([told, *lines])

    def _failpoints(self, dice: Random) -> tuple[tuple[str, Failpoint], ...]:
        """Rising seeds use every point of every role in turn."""
        turn = self.seed // len(TRANSPORTS)
        places = [
            *((HOST, point) for point in OF_HOST),
            *(("producer1", point) for point in OF_PRODUCER),
            *(("consumer1", point) for point in OF_CONSUMER),
        ]
        role, point = places[turn % len(places)]
        action = "kill" if role != HOST or self.stay else "stop"
        if dice.random() < 0.3:
            action = "stop"
        once = point in ("welcome-sent", "hello-sent", "joined", "bye-sent", "ended")
        return ((role, Failpoint(point, action, 1 if once else dice.choice((1, 2, 5, 17)))),)

    def _faults(self, dice: Random) -> tuple[Fault, ...]:
        found = []
        for _ in range(dice.randint(0, 3)):
            at = dice.uniform(0.05, 1.2)
            if self.transport == "net" and dice.random() < 0.7:
                machines = [*self.roles, *([HOST] if self.stay else [])]
                found.append(network_fault(at, dice, machines))
            elif self.transport == "proxy" and dice.random() < 0.7:
                found.append(proxy_fault(at, dice))
            elif dice.random() < 0.5:
                target = dice.choice([*self.roles, *([HOST] if self.stay else [])])
                found.append(Fault(at, "kill", target, dice.uniform(0.0, 0.3)))
            else:
                found.append(Fault(at, "stop", dice.choice([*self.roles, HOST]), either(dice)))
        return tuple(sorted(found, key=lambda fault: fault.at))
