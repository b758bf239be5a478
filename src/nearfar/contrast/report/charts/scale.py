"""From values to places, and where the ticks are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """Values from `least` to `most` lie between `start` and `end` (which may be the smaller one)."""

    least: float
    most: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of `value`; of one beyond an end, that end."""
        inside = min(max(value, self.least), self.most)
        if self.log:
            part = math.log(inside / self.least) / math.log(self.most / self.least)
        else:
            part = (inside - self.least) / (self.most - self.least)
        return self.start + part * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values, at most so many."""
        return (
            log_ticks(self.least, self.most, most) if self.log else linear_ticks(self.least, self.most, most)
        )


def linear_ticks(least: float, most: float, count: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    rough = (most - least) / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(each * power for each in (1, 2, 5, 10) if each * power >= rough * 0.999)
    first = math.ceil(least / step - 1e-9)
    last = math.floor(most / step + 1e-9)
    return [float(f"{number * step:.10g}") for number in range(first, last + 1)]


def log_ticks(least: float, most: float, count: int) -> list[float]:
    """Powers of ten; with 2 and 5 between them where there is room, and fewer where there are too many."""
    powers = range(math.floor(math.log10(least)) - 1, math.ceil(math.log10(most)) + 2)
    choices = [
        [factor * 10.0**power for power in powers for factor in factors]
        for factors in ((1, 2, 5), (1, 3), (1,))
    ]
    choices += [[10.0**power for power in powers if power % step == 0] for step in (2, 3, 4, 6)]
    for choice in choices:
        inside = [float(f"{each:.10g}") for each in choice if least * 0.999 <= each <= most * 1.001]
        if len(inside) <= count:
            return inside
    return []


def around(values: Sequence[float], *, log: bool, origin: float = 0.0) -> tuple[float, float]:
    """Ends of an axis that has room for all `values` and the `origin`."""
    if not log:
        return min(origin, *values, origin), max(max(values, default=1.0), origin) * 1.04 or 1.0
    positive = [value for value in (*values, origin) if value > 0] or [1.0]
    least, most = min(positive), max(positive)
    if most / least < 4:
        middle = math.sqrt(least * most)
        least, most = min(least, middle / 2), max(most, middle * 2)
    margin = (most / least) ** 0.04
    return least / margin, most * margin
