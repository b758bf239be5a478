"""What several sections say in the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from nearfar.contrast.quantiles import POINTS, Spread
from nearfar.contrast.report import numbers
from nearfar.contrast.report.gather import Gathered
from nearfar.contrast.report.model import KINDS, Curve, Piece, Row, Say

RATIO_TEXT = (
    "The axis is the standard library's own; right of it is quicker. Thin lines: from the worst to the best"
    " round."
)


def ratio_row(name: str, ratio: Spread | None, value: Spread | None, say: Say) -> Row:
    """A bar from 1, with the value itself at its end."""
    if ratio is None or value is None:
        return Row(name, [], "no result")
    said = f"{numbers.ratio(ratio.median)} · {say(value.median)}"
    return Row(name, [Piece(ratio.median, KINDS[name])], said, ratio.low, ratio.high)


def spread_row(name: str, found: Spread, said: str) -> Row:
    """A bar of the median, with its rounds."""
    return Row(name, [Piece(found.median, KINDS[name])], said, found.low, found.high)


def milliseconds(found: Mapping[str, Spread | None]) -> tuple[list[Row], list[list[str]]]:
    """Bars and lines of a table for whoever has a result."""
    rows, table = [], []
    for name, each in found.items():
        if each:
            said = f"{each.median:,.0f} ms"
            rows.append(spread_row(name, each, said))
            table.append([name, said, f"{each.low:,.0f}-{each.high:,.0f} ms"])
    return rows, table


def value_cell(value: Spread | None, say: Say) -> str:
    """``28.3 k (25.1 k-30.2 k)``."""
    if value is None:
        return "-"
    return f"{say(value.median)} ({say(value.low)}-{say(value.high)})"


def curves_of(gathered: Gathered, part: str, work: str, names: Sequence[str]) -> list[Curve]:
    """Percentiles of microseconds: the median over the rounds, each by itself."""
    curves = []
    for name in names:
        if found := [result["microseconds"] for result in gathered.of(part, work, name).values()]:
            points = [(point, median(each[f"{point:g}"] for each in found)) for point in POINTS]
            curves.append(Curve(name, KINDS[name], points))
    return curves


def worst(trials: Sequence[dict[str, int]], bad: Sequence[str]) -> dict[str, int]:
    """The trial with most of the `bad` counts."""
    return max(trials, key=lambda trial: sum(trial[each] for each in bad))
