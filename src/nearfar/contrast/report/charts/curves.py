"""Percentiles across, by how many nines they have; values upwards, on a logarithmic axis; each curve's name
at its end."""

from __future__ import annotations

import math

from nearfar.contrast.report.charts.bars import NARROW
from nearfar.contrast.report.charts.scale import Scale, around
from nearfar.contrast.report.charts.sheet import Sheet, width_of
from nearfar.contrast.report.model import Curve, Curves

HEIGHT = 300.0
LINE = 17.0
"""Between two names."""
SHOWN = (50.0, 90.0, 99.0, 99.9)
"""Percentiles that are named on the axis and have dots."""


def nines(percentile: float) -> float:
    """0 at the least, 1 at 90, 2 at 99, 3 at 99.9."""
    return -math.log10(1.0 - percentile / 100.0)


def draw_curves(curves: Curves, width: float) -> Sheet:
    sheet = Sheet(width)
    stacked = width < NARROW
    words = (
        width_of("99.9%", 11.5) / 2 - 10.0
        if stacked
        else max(width_of(curve.name, 13.0) for curve in curves.curves) + 10.0
    )
    values = [value for curve in curves.curves for _, value in curve.points]
    least, most = around(values, log=True, origin=values[0])
    up = Scale(least, most, HEIGHT, 14.0, log=True)
    ticks = [(tick, curves.tick(tick)) for tick in up.ticks(7)]
    margin = max(width_of(said, 11.5) for _, said in ticks) + 12.0
    across = Scale(0.0, nines(99.9), margin, width - words - 14.0)
    for tick, said in ticks:
        sheet.line((margin, up(tick)), (across.end, up(tick)), "grid")
        sheet.text(margin - 8, up(tick), said, "tick", size=11.5, anchor="end")
    draw_percentiles(sheet, across)
    for curve in curves.curves:
        draw_curve(sheet, curve, curves, across, up)
    if stacked:
        list_names(sheet, curves)
    else:
        draw_names(sheet, curves, across.end, up)
    return sheet


def draw_percentiles(sheet: Sheet, across: Scale) -> None:
    sheet.line((across.start, HEIGHT), (across.end, HEIGHT), "axis")
    for point in SHOWN:
        x = across(nines(point))
        sheet.line((x, HEIGHT), (x, HEIGHT + 4), "axis")
        sheet.text(x, HEIGHT + 14, f"{point:g}%", "tick", size=11.5, anchor="middle")


def draw_curve(sheet: Sheet, curve: Curve, curves: Curves, across: Scale, up: Scale) -> None:
    places = [(across(nines(point)), up(value)) for point, value in curve.points]
    sheet.path(places, curve.kind)
    for (point, value), (x, y) in zip(curve.points, places, strict=True):
        if point in SHOWN:
            sheet.dot(x, y, curve.kind, hint=f"{curve.name}: {point:g}% within {curves.tick(value)}")


def draw_names(sheet: Sheet, curves: Curves, end: float, up: Scale) -> None:
    """At the ends of the curves, moved apart where these are close."""
    ends = [up(curve.points[-1][1]) for curve in curves.curves]
    for curve, at, place in zip(curves.curves, ends, apart(ends, LINE, 8.0, HEIGHT), strict=True):
        sheet.line((end + 4, at), (end + 16, place), f"leader {curve.kind}")
        sheet.text(end + 20, place, curve.name)


def list_names(sheet: Sheet, curves: Curves) -> None:
    """Below the axis, in the order in which the curves end, from above."""
    ordered = sorted(curves.curves, key=lambda curve: -curve.points[-1][1])
    for index, curve in enumerate(ordered):
        y = HEIGHT + 42.0 + index * LINE
        sheet.line((8, y), (28, y), f"curve {curve.kind}")
        sheet.text(36, y, curve.name)


def apart(places: list[float], least: float, top: float, bottom: float) -> list[float]:
    """The same places in the same order, moved so that neighbours are at least so far from each other."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = [places[index] for index in order]
    for index in range(len(moved)):
        floor = moved[index - 1] + least if index else top
        moved[index] = max(moved[index], floor)
    limit = bottom
    for index in reversed(range(len(moved))):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - least
    result = [0.0] * len(places)
    for index, place in zip(order, moved, strict=True):
        result[index] = place
    return result
