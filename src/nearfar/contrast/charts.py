"""Where the parts of a chart lie, as percentages for the style sheet: bars, curves, and the ticks of their
axes. Pure.

The page lays bars and texts out by CSS, so that one chart fits every width, and texts wrap by themselves;
only curves are SVG.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nearfar.contrast.report_model import BarChart, CurveChart, Format

HEIGHT = 300.0
"""Pixels of a chart of curves, as in the style sheet."""
LINE = 19.0
"""Pixels from one name of a curve to the next."""
NAMED = (50.0, 90.0, 99.0, 99.9)
"""Percentiles that are named on the axis and have dots."""

Ticks = list[tuple[float, str]]
"""Place in percent, and text."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Values from `least` to `most` lie between 0 and 100 percent."""

    least: float
    most: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of `value`; of one beyond an end, that end."""
        inside = min(max(value, self.least), self.most)
        if self.log:
            return 100 * math.log(inside / self.least) / math.log(self.most / self.least)
        return 100 * (inside - self.least) / (self.most - self.least)

    def ticks(self, text: Format, most: int = 6) -> Ticks:
        """At most so many round values."""
        choose = _log_ticks if self.log else _linear_ticks
        return [(self(tick), text(tick)) for tick in choose(self.least, self.most, most)]


def scale_for(values: Sequence[float], *, log: bool) -> Scale:
    """A scale with room for all `values`, and for 0 or, on a logarithmic axis, 1."""
    if not log:
        return Scale(0.0, max(values, default=0.0) * 1.04 or 1.0)
    positive = [value for value in values if value > 0] or [1.0]
    least, most = min(positive), max(positive)
    if most / least < 4:
        middle = math.sqrt(least * most)
        least, most = min(least, middle / 2), max(most, middle * 2)
    margin = (most / least) ** 0.04
    return Scale(least / margin, most * margin, log=True)


def _linear_ticks(least: float, most: float, count: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    rough = (most - least) / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(each * power for each in (1, 2, 5, 10) if each * power >= rough * 0.999)
    first, last = math.ceil(least / step - 1e-9), math.floor(most / step + 1e-9)
    return [float(f"{number * step:.10g}") for number in range(first, last + 1)]


def _log_ticks(least: float, most: float, count: int) -> list[float]:
    """Powers of ten; more between them where there is room, and fewer where there are too many."""
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


@dataclass(frozen=True, slots=True)
class PlacedBar:
    """A bar, which its segments share."""

    name: str
    text: str
    left: float
    width: float
    segments: list[tuple[float, str]]
    """Percent of the bar, and kind, of each that is more than nothing."""
    whisker: tuple[float, float] | None
    """Left end and width."""


@dataclass(frozen=True, slots=True)
class PlacedBars:
    """A chart of bars: a title, a text and bars for each group."""

    groups: list[tuple[str, str, list[PlacedBar]]]
    origin: float
    ticks: Ticks


def place_bars(chart: BarChart) -> PlacedBars:
    """Lay out a chart of bars."""
    rows = [row for group in chart.groups for row in group.rows]
    lengths = [sum(segment.value for segment in row.segments) for row in rows if row.segments]
    ends = [end for row in rows for end in (row.low, row.high) if end is not None]
    scale = scale_for([*lengths, *ends, *([1.0] if chart.log else [])], log=chart.log)
    if chart.most is not None:
        scale = Scale(0.0, chart.most)
    origin = scale(1.0 if chart.log else 0.0)
    groups = []
    for group in chart.groups:
        bars = []
        for row in group.rows:
            total = sum(segment.value for segment in row.segments)
            end = scale(total) if row.segments else origin
            whisker = None
            if row.low is not None and row.high is not None and row.high > row.low:
                whisker = scale(row.low), scale(row.high) - scale(row.low)
            segments = [(100 * each.value / total, each.kind) for each in row.segments if each.value > 0]
            left, width = min(origin, end), abs(end - origin)
            bars.append(PlacedBar(row.name, row.text, left, width, segments, whisker))
        groups.append((group.title, group.text, bars))
    return PlacedBars(groups, origin, scale.ticks(chart.tick))


@dataclass(frozen=True, slots=True)
class PlacedCurve:
    """A curve, in percent of the chart's width and, downwards, of its height."""

    name: str
    kind: str
    points: list[tuple[float, float]]
    dots: list[tuple[float, float, str]]
    """With the text that is shown when it is pointed at."""
    label: float
    """Where the name stands, in pixels from the top."""


@dataclass(frozen=True, slots=True)
class PlacedCurves:
    """A chart of curves, the one with the highest end first."""

    curves: list[PlacedCurve]
    up: Ticks
    across: Ticks


def place_curves(chart: CurveChart) -> PlacedCurves:
    """Lay out a chart of curves."""
    scale = scale_for([value for curve in chart.curves for _, value in curve.points], log=True)
    across = Scale(0.0, nines(99.9))
    ordered = sorted(chart.curves, key=lambda curve: -curve.points[-1][1])
    ends = [(100 - scale(curve.points[-1][1])) * HEIGHT / 100 for curve in ordered]
    curves = []
    for curve, label in zip(ordered, apart(ends, LINE, HEIGHT), strict=True):
        points = [(across(nines(point)), 100 - scale(value)) for point, value in curve.points]
        dots = [
            (x, y, f"{curve.name}: {point:g}% within {chart.tick(value)}")
            for (point, value), (x, y) in zip(curve.points, points, strict=True)
            if point in NAMED
        ]
        curves.append(PlacedCurve(curve.name, curve.kind, points, dots, label))
    up = [(100 - place, text) for place, text in scale.ticks(chart.tick, 7)]
    return PlacedCurves(curves, up, [(across(nines(point)), f"{point:g}%") for point in NAMED])


def nines(percentile: float) -> float:
    """0 at 0, 1 at 90, 2 at 99, 3 at 99.9: each nine is as wide as the one before."""
    return -math.log10(1.0 - percentile / 100.0)


def apart(places: Sequence[float], least: float, bottom: float) -> list[float]:
    """Ascending places, moved so that neighbours are `least` apart and all lie between 0 and `bottom`."""
    moved = list(places)
    for index in range(len(moved)):
        moved[index] = max(moved[index], moved[index - 1] + least if index else 0.0)
    limit = bottom
    for index in reversed(range(len(moved))):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - least
    return moved
