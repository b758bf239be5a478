"""The faults of a run, drawn from its seed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

LEASE = 1.0
"""Seconds of silence after which somebody is declared dead, in every run."""
SEEDS = "NEARFAR_CHAOS_SEEDS"
RUNS = "NEARFAR_CHAOS_RUNS"


@dataclass(frozen=True)
class Fault:
    """A fault of `target`, `at` seconds after the work began, for `length` seconds.

    For a killed process, the time until it is started again.
    """

    at: float
    kind: str
    target: str
    length: float = 0.0
    ways: tuple[str, ...] = ()
    amount: float = 0.0

    def __str__(self) -> str:
        how = "".join(f" {way}" for way in self.ways) + (f" {self.amount:g}" if self.amount else "")
        return f"{self.at:.2f} s: {self.kind}{how} {self.target} for {self.length:.2f} s"


@dataclass
class Undoing:
    """Actions to do later."""

    due: list[tuple[float, Callable[[], None]]] = field(default_factory=list)

    def later(self, when: float, what: Callable[[], None]) -> None:
        self.due.append((when, what))

    def turn(self, now: float) -> None:
        for each in [each for each in self.due if each[0] <= now]:
            self.due.remove(each)
            each[1]()


def short(dice: Random) -> float:
    """A time for which no peer may be declared dead."""
    return dice.uniform(0.1, 0.3) * LEASE


def long(dice: Random) -> float:
    """A time for which a peer is declared dead."""
    return dice.uniform(1.3, 2.2) * LEASE


def either(dice: Random) -> float:
    return dice.choice((short, long))(dice)


def network_fault(at: float, dice: Random, machines: list[str]) -> Fault:
    """A fault of the network between one of these machines and the host."""
    target = dice.choice(machines)
    kind = dice.choice(("partition", "partition", "deaf", "mute", "lossy", "isolate"))
    return Fault(at, kind, target, dice.uniform(0.5, 1.5) if kind == "lossy" else either(dice), amount=0.1)


def proxy_fault(at: float, dice: Random) -> Fault:
    """A fault of connections."""
    ways = dice.choice((("up",), ("down",), ("up", "down")))
    match dice.choice(("reset", "reset", "cut", "half-open", "half-open", "blackhole", "delay", "throttle")):
        case "delay":
            return Fault(at, "delay", "proxy", either(dice), amount=dice.uniform(0.005, 0.05))
        case "throttle":
            return Fault(at, "throttle", "proxy", either(dice), amount=dice.uniform(10e3, 100e3))
        case "blackhole":
            return Fault(at, "blackhole", "proxy", either(dice), ways)
        case "half-open":
            return Fault(at, "half-open", "proxy", 0.0, ways)
        case kind:
            return Fault(at, kind, "proxy", 0.0)


def chosen_seeds(default: str | Sequence[int], seed: int | None = None) -> list[int]:
    """The seeds to run: `seed`, or those of the environment, or `default` (a list, or ``first-last``)."""
    if seed is not None:
        return [seed]
    if SEEDS in os.environ or isinstance(default, str):
        first, _, last = os.environ.get(SEEDS, default).partition("-")
        default = range(int(first), int(last or first) + 1)
    if SEEDS not in os.environ and RUNS in os.environ:
        default = default[: int(os.environ[RUNS])]
    return list(default)


def telling_seeds(draw: Callable[[int], Any], count: int) -> list[int]:
    """So many of the seeds 1 to 200: those whose plans together contain the most different things."""
    kinds = {seed: kinds_of(draw(seed)) for seed in range(1, 201)}
    chosen: list[int] = []
    met: set[object] = set()
    for _ in range(count):
        chosen.append(max(kinds, key=lambda seed: (len(kinds[seed] - met), -seed)))
        met |= kinds[chosen[-1]]
    return sorted(chosen)


def kinds_of(plan: Any) -> set[object]:
    """The contents of a plan of a queue or pool: transport, faults and their targets, failpoints."""
    kinds: set[object] = {plan.transport}
    for fault in plan.faults:
        kinds |= {fault.kind, (fault.kind, fault.target.rstrip("0123456789"))}
    for role, failpoint in plan.failpoints:
        kinds |= {failpoint.point, (failpoint.action, role.rstrip("0123456789"))}
    return kinds
