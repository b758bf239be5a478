"""The charts: lengths of bars, places of ticks, and distances between names of curves."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from nearfar.contrast import report_model as words
from nearfar.contrast.charts import HEIGHT, LINE, Scale, apart, nines, place_bars, place_curves, scale_for
from nearfar.contrast.report_model import BarChart, BarGroup, BarRow, Curve, CurveChart, Segment

pytestmark = pytest.mark.pure

POSITIVE = st.floats(1e-3, 1e7)


def bars(*rows: BarRow, log: bool = False, most: float | None = None) -> list[tuple[float, float]]:
    """Left end and width of each bar."""
    placed = place_bars(BarChart([BarGroup("", rows)], words.plain, log=log, most=most))
    return [(bar.left, bar.width) for _, _, group in placed.groups for bar in group]


def row(*values: float) -> BarRow:
    return BarRow("a", [Segment(value, "near") for value in values], "")


def test_lengths_are_as_the_values() -> None:
    (left, short), (same, long) = bars(row(10.0), row(40.0))
    assert left == same == 0.0
    assert long == pytest.approx(4 * short)
    assert long < 100.0


def test_ratios_grow_from_one_to_both_sides_by_equal_steps() -> None:
    (left, down), (origin, up) = bars(row(0.1), row(10.0), log=True)
    assert left + down == pytest.approx(origin)
    assert down == pytest.approx(up)


def test_segments_share_a_bar_and_nothing_takes_no_room() -> None:
    chart = BarChart([BarGroup("", [row(0.9995, 0.0005, 0.0)])], words.share, most=1.0)
    [(_, _, [bar])] = place_bars(chart).groups
    assert bar.width == pytest.approx(100.0)
    assert [share for share, _ in bar.segments] == pytest.approx([99.95, 0.05])


@given(st.lists(POSITIVE, min_size=1, max_size=4), st.booleans())
def test_segments_fill_their_bar(values: list[float], log: bool) -> None:
    """I expect 100 percent: shares of less than 1 in all would leave a part of the bar empty."""
    chart = BarChart([BarGroup("", [row(*values[:1] if log else values)])], words.plain, log=log)
    [(_, _, [bar])] = place_bars(chart).groups
    assert sum(share for share, _ in bar.segments) == pytest.approx(100.0)


def test_a_whisker_goes_from_the_lowest_to_the_highest_round() -> None:
    chart = BarChart([BarGroup("", [BarRow("a", [Segment(5.0, "near")], "", 4.0, 10.0)])], words.plain)
    [(_, _, [bar])] = place_bars(chart).groups
    assert bar.whisker is not None
    left, width = bar.whisker
    assert left < bar.width < left + width <= 100.0
    assert left / (left + width) == pytest.approx(0.4)


def test_a_row_without_a_result_has_no_bar() -> None:
    [(_, width)] = bars(BarRow("a", [], "no result"))
    assert width == 0.0


@given(st.lists(POSITIVE, min_size=1, max_size=6), st.booleans())
@example([299083.0, 8736855.91741253], True)
def test_an_axis_has_room_for_all_values_and_a_few_ticks_between_its_ends(
    values: list[float], log: bool
) -> None:
    scale = scale_for(values, log=log)
    places = [scale(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(0.0 <= place <= 100.0 for place in places)
    ticks = [place for place, _ in scale.ticks(words.plain, 6)]
    assert 1 <= len(ticks) <= 7
    assert ticks == sorted(set(ticks))
    assert all(0.0 <= place <= 100.0 for place in ticks)


@given(POSITIVE, POSITIVE)
def test_equal_ratios_are_equally_far_apart_on_a_logarithmic_axis(one: float, other: float) -> None:
    assume(abs(math.log(one / other)) > 1e-6)
    scale = Scale(1e-4, 1e8, log=True)
    assert scale(2 * one) - scale(one) == pytest.approx(scale(2 * other) - scale(other), abs=1e-6)


@given(st.lists(st.floats(20.0, 280.0), min_size=1, max_size=6))
def test_names_that_would_meet_move_apart_and_keep_their_order(places: list[float]) -> None:
    moved = apart(sorted(places), LINE, HEIGHT)
    assert all(after - before >= LINE - 1e-6 for before, after in pairwise(moved))
    assert all(-1e-6 <= place <= HEIGHT + 1e-6 for place in moved)


def test_each_nine_is_as_far_as_the_one_before() -> None:
    assert [round(nines(point), 9) for point in (0.0, 90.0, 99.0, 99.9)] == [0, 1, 2, 3]


def test_a_slower_curve_is_above_a_quicker_one_and_listed_first() -> None:
    points = [(50.0, 100.0), (90.0, 100.0), (99.9, 100.0)]
    slow = Curve("slow", "tcp", [(point, 10 * value) for point, value in points])
    placed = place_curves(CurveChart([Curve("quick", "near", points), slow], words.time))
    slower, quick = placed.curves
    assert (slower.name, quick.name) == ("slow", "quick")
    assert all(low[1] < high[1] for low, high in zip(slower.points, quick.points, strict=True))
    assert [text for _, _, text in slower.dots] == [f"slow: {point:g}% within 1 ms" for point, _ in points]
