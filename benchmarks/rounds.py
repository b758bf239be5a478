"""Alternating rounds: each contestant once a round, so that a busy neighbour disturbs all of them alike."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import quantiles
from typing import IO

from nearfar.contrast.machine import processor, sha256
from nearfar.output import write


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run took, in seconds. `cpu` is user and system time of all processes that were waited for."""

    wall: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with its quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.4g} ({self.low:.4g}-{self.high:.4g})"


def spread(values: Sequence[float]) -> Spread:
    if len(values) < 2:
        return Spread(values[0], values[0], values[0])
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return Spread(middle, low, high)


def run(*commands: Sequence[str], folder: Path) -> None:
    """Run `commands` side by side in `folder`. Raises `RuntimeError`, with what it said, if one fails."""
    with (folder / "said").open("w+") as said:
        processes = [_start(command, folder, said) for command in commands]
        codes = [process.wait() for process in processes]
        if any(codes):
            said.seek(0)
            raise RuntimeError(f"exit codes {codes} of {commands}: {said.read()[-500:]}")


def _start(command: Sequence[str], folder: Path, said: IO[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=said, stderr=said)


def timed(work: Callable[[], None]) -> Cost:
    """What `work` took, the processes it started and waited for included, and not this one."""
    before, started = _children(), time.monotonic()
    work()
    return Cost(time.monotonic() - started, _children() - before)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def turns(names: Sequence[str], number: int) -> Sequence[str]:
    """The order of `names` in round `number`: each is begun by another one."""
    shift = number % len(names)
    return (*names[shift:], *names[:shift])


def alternate(contestants: Mapping[str, Callable[[], Cost]], rounds: int) -> dict[str, list[Cost]]:
    """`rounds` rounds, each of one run of every contestant, begun by another one each time.

    One round before them is not counted: it fills caches and compiles.
    """
    names = list(contestants)
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    for number in range(-1, rounds):
        for name in turns(names, number):
            cost = contestants[name]()
            if number >= 0:
                costs[name].append(cost)
    return costs


def compare(costs: Mapping[str, Sequence[Cost]], yardstick: str) -> list[dict[str, object]]:
    """A row for each contestant. Ratios are taken within a round, `yardstick` being 1."""
    ideal = costs[yardstick]
    return [
        {
            "name": name,
            "wall": asdict(spread([cost.wall for cost in each])),
            "cpu": asdict(spread([cost.cpu for cost in each])),
            "wall_ratio": asdict(spread([a.wall / b.wall for a, b in zip(each, ideal, strict=True)])),
            "cpu_ratio": asdict(spread([a.cpu / b.cpu for a, b in zip(each, ideal, strict=True)])),
        }
        for name, each in costs.items()
    ]


def machine() -> dict[str, object]:
    """Where this was measured. The load is that of the last minute, our own included."""
    return {
        "processor": processor(),
        "sha256": sha256(),
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
    }


def write_json(path: Path, result: object) -> None:
    write(path, json.dumps(result, indent=2) + "\n")
