"""Amounts of a run, names of the contestants, and how repeated values are summarised. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

KIB = 1024

QUEUE = "multiprocessing.Queue"
"""The baseline of the queues."""
RAW = "PUSH/PULL"
NEAR = "near"
FAR_IPC = "far ipc"
FAR_TCP = "far tcp"
REDIS = "redis"
"""Left out where there is no Redis server."""
QUEUES = (QUEUE, RAW, NEAR, FAR_IPC, FAR_TCP, REDIS)
"""In the order in which they are shown."""

POOL = "multiprocessing.Pool"
"""The baseline of the pools."""
EXECUTOR = "ProcessPoolExecutor"
POOLS = (POOL, EXECUTOR, NEAR, FAR_IPC, FAR_TCP)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What is measured, of which contestant, for which time."""

    part: str
    work: str
    contestant: str
    turn: int
    """Round or trial, from 0."""

    def __str__(self) -> str:
        return f"{self.part}: {self.work}, {self.contestant}"


@dataclass(frozen=True, slots=True)
class Settings:
    """The amounts of one run."""

    rounds: int = 5
    """Of everything that is timed."""
    trials: int = 6
    """Of each fault. An even number, so that each of the two consumers is the victim equally often."""
    sizes: tuple[int, ...] = (100, KIB, 10 * KIB, 100 * KIB, KIB * KIB)
    """Bytes of an item."""
    traffic: float = 0.5
    """Seconds for which a producer puts items of one size."""
    volume: int = 64 * KIB * KIB
    """Bytes after which it stops: an unbounded queue holds what its consumer has not taken yet."""
    trips: int = 2000
    waiting: int = 10_000
    """Items of 1 KiB that wait in the queue while memory is measured."""
    items: int = 2000
    """Items sent in each trial of a fault."""
    quiet: float = 4.0
    """Seconds without any event after which a trial is over. Longer than the lease of the far queue."""
    pictures: int = 120
    tasks: int = 5000
    ints: int = 50_000
    calls: int = 1000
    doomed: int = 60
    """Tasks of a pool, one of which kills its worker."""
    patience: float = 8.0
    """Seconds that a pool has to answer after a fault."""
    limit: float = 60.0
    """Seconds after which a measurement counts as stuck, and is killed."""


FULL = Settings()
QUICK = replace(
    FULL,
    rounds=2,
    trials=2,
    sizes=(100, 10 * KIB, KIB * KIB),
    traffic=0.06,
    volume=16 * KIB * KIB,
    trips=300,
    waiting=5000,
    quiet=2.5,
    pictures=40,
    tasks=2000,
    ints=20_000,
    calls=300,
    patience=4.0,
    limit=40.0,
)
LEASE = 1.0
"""Seconds of silence after which the host of the far queue gives up a client. The default is 10."""

POINTS = (1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9)
"""The percentiles that are recorded."""


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The nearest-rank percentile for each of `POINTS`, under its number as text."""
    ordered = sorted(values)
    return {f"{point:g}": round(ordered[_rank(point, len(ordered))], 3) for point in POINTS}


def _rank(point: float, count: int) -> int:
    return min(count - 1, max(0, -int(-point * count // 100) - 1))


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, lowest and highest of several rounds."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Summarise the rounds of one figure."""
    return Spread(median(values), min(values), max(values))


def ratios(values: Mapping[int, float], baseline: Mapping[int, float]) -> Spread | None:
    """`values` divided by `baseline`, within each round; None if they have no round in common."""
    shared = [values[turn] / baseline[turn] for turn in values.keys() & baseline.keys() if baseline[turn]]
    return spread(shared) if shared else None
