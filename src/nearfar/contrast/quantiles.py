"""How values are summed up: percentiles of many, and median, lowest and highest of a few rounds. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

POINTS = (1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9)


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The value that so many of a hundred are at or below (nearest rank), by the name of each of `POINTS`."""
    ordered = sorted(values)
    return {f"{point:g}": round(ordered[_rank(point, len(ordered))], 3) for point in POINTS}


def _rank(point: float, count: int) -> int:
    return min(count - 1, max(0, -int(-point * count // 100) - 1))


@dataclass(frozen=True, slots=True)
class Spread:
    """A few rounds of one figure."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    return Spread(median(values), min(values), max(values))


def ratios(values: Mapping[int, float], ideal: Mapping[int, float]) -> Spread | None:
    """Of `values` to the yardstick's, within each round; None if they share no round."""
    shared = [values[turn] / ideal[turn] for turn in values.keys() & ideal.keys() if ideal[turn]]
    return spread(shared) if shared else None
