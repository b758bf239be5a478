"""How much of everything: sizes, counts, seconds, rounds."""

from __future__ import annotations

from dataclasses import dataclass, replace

KIB = 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """The amounts of one run; the stage processes are told them as JSON."""

    rounds: int = 5
    """Of everything that is timed."""
    trials: int = 6
    """Of each fault: even, so that each of the two consumers is the victim as often."""
    sizes: tuple[int, ...] = (100, KIB, 10 * KIB, 100 * KIB, KIB * KIB)
    """Bytes of an item."""
    traffic: float = 0.5
    """Seconds that a producer puts, for each size."""
    volume: int = 64 * KIB * KIB
    """Bytes after which it puts no more: an unbounded queue holds what the consumer has not taken."""
    trips: int = 2000
    lying: int = 10_000
    """Items of 1 KiB that lie in the queue while memory is measured."""
    items: int = 2000
    """Sent in the course of a fault."""
    quiet: float = 4.0
    """Seconds without news after which a fault's story is over. Longer than the far queue's lease."""
    pictures: int = 120
    tasks: int = 5000
    ints: int = 50_000
    calls: int = 1000
    doomed: int = 60
    """Tasks of a pool, one of which kills its worker."""
    patience: float = 8.0
    """Seconds that a pool has for the answers after a fault."""
    limit: float = 60.0
    """Seconds after which a stage is stuck."""


FULL = Settings()
QUICK = replace(
    FULL,
    rounds=2,
    trials=2,
    sizes=(100, 10 * KIB, KIB * KIB),
    traffic=0.06,
    volume=16 * KIB * KIB,
    trips=300,
    lying=5000,
    quiet=2.5,
    pictures=40,
    tasks=2000,
    ints=20_000,
    calls=300,
    patience=4.0,
    limit=40.0,
)
LEASE = 1.0
"""Seconds of silence after which the far queue's host gives up on an end; the default is 10."""
