"""The charts: what a bar's length says, where the ticks are, and that no text lies on another."""

from __future__ import annotations

import math
from itertools import combinations, pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nearfar.contrast.report import numbers
from nearfar.contrast.report.build import build
from nearfar.contrast.report.charts.bars import LEAST, draw_bars
from nearfar.contrast.report.charts.curves import apart, nines
from nearfar.contrast.report.charts.scale import Scale, around
from nearfar.contrast.report.charts.sheet import Sheet
from nearfar.contrast.report.model import Bars, Curve, Curves, Figure, Group, Piece, Row
from nearfar.contrast.report.page import WIDTHS, draw
from tests.contrast.sample import sample

pytestmark = pytest.mark.pure

SVG = "{http://www.w3.org/2000/svg}"
FIGURES = [figure for section in build(sample()).sections for figure in section.figures]
POSITIVE = st.floats(1e-3, 1e7)


def rects(sheet: Sheet) -> list[tuple[str, float, float]]:
    """Kind, left and width of every filled piece."""
    root = ElementTree.fromstring(sheet.svg("x", "title", "words"))
    return [
        (each.get("class", ""), float(each.get("x", "")), float(each.get("width", "")))
        for each in root.iter(f"{SVG}rect")
    ]


def bars(*rows: Row, log: bool = False, most: float | None = None) -> Sheet:
    drawn = Bars([Group("", rows)], numbers.plain, log=log, origin=1.0 if log else 0.0, most=most)
    return draw_bars(drawn, 800.0)


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("figure", FIGURES, ids=[figure.title for figure in FIGURES])
def test_texts_lie_on_the_sheet_and_not_on_each_other(figure: Figure, width: float) -> None:
    sheet = draw(figure, width)
    for box in sheet.boxes:
        assert box.left >= -0.5, box
        assert box.right <= sheet.width + 0.5, box
        assert 0 <= box.top < box.bottom <= sheet.height + 1, box
    assert [pair for pair in combinations(sheet.boxes, 2) if pair[0].overlaps(pair[1])] == []


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("figure", FIGURES, ids=[figure.title for figure in FIGURES])
def test_a_drawing_is_well_formed_and_says_in_words_what_it_shows(figure: Figure, width: float) -> None:
    root = ElementTree.fromstring(draw(figure, width).svg("name", figure.title, "words & <words>"))
    assert root.get("role") == "img"
    labels = root.get("aria-labelledby", "").split()
    said = {each.get("id"): each.text for each in root if each.get("id")}
    assert [said[label] for label in labels] == [figure.title, "words & <words>"]


def test_lengths_are_as_the_values() -> None:
    sheet = bars(Row("a", [Piece(10.0, "near")], ""), Row("b", [Piece(40.0, "ipc")], ""))
    (_, left, short), (_, same, long) = rects(sheet)
    assert left == same
    assert long == pytest.approx(4 * short, abs=0.5)


def test_ratios_grow_from_one_to_both_sides_by_equal_steps() -> None:
    sheet = bars(Row("a", [Piece(0.1, "near")], ""), Row("b", [Piece(10.0, "ipc")], ""), log=True)
    (_, left, down), (_, origin, up) = rects(sheet)
    assert left + down == pytest.approx(origin, abs=0.2)
    assert down == pytest.approx(up, abs=0.2)


def test_a_single_lost_item_of_many_can_be_seen_and_the_bar_is_no_longer_for_it() -> None:
    whole = rects(bars(Row("a", [Piece(1.0, "received")], ""), most=1.0))[0][2]
    pieces = rects(bars(Row("a", [Piece(0.9995, "received"), Piece(0.0005, "lost")], ""), most=1.0))
    assert [kind for kind, _, _ in pieces] == ["fill received", "fill lost"]
    assert pieces[1][2] == LEAST
    assert sum(width for _, _, width in pieces) == pytest.approx(whole, abs=0.2)


def test_nothing_takes_no_room() -> None:
    assert len(rects(bars(Row("a", [Piece(1.0, "received"), Piece(0.0, "lost")], ""), most=1.0))) == 1


@given(st.lists(POSITIVE, min_size=1, max_size=6), st.booleans())
def test_an_axis_has_room_for_all_values_and_a_few_ticks_between_its_ends(
    values: list[float], log: bool
) -> None:
    scale = Scale(*around(values, log=log, origin=1.0 if log else 0.0), 100.0, 500.0, log)
    places = [scale(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(100.0 <= place <= 500.0 for place in places)
    ticks = scale.ticks(6)
    assert 1 <= len(ticks) <= 7
    assert ticks == sorted(set(ticks))
    assert all(scale.least * 0.999 <= tick <= scale.most * 1.001 for tick in ticks)


@given(POSITIVE, POSITIVE)
def test_equal_ratios_are_equally_far_apart_on_a_logarithmic_axis(one: float, other: float) -> None:
    assume(abs(math.log(one / other)) > 1e-6)
    scale = Scale(1e-4, 1e8, 0.0, 100.0, log=True)
    assert scale(2 * one) - scale(one) == pytest.approx(scale(2 * other) - scale(other), abs=1e-6)


@given(st.lists(st.floats(20.0, 280.0), min_size=1, max_size=6))
def test_names_that_would_meet_move_apart_and_keep_their_order(places: list[float]) -> None:
    moved = apart(places, 17.0, 8.0, 300.0)
    pairs = sorted(zip(places, moved, strict=True))
    assert all(b - a >= 17.0 - 1e-6 for (_, a), (_, b) in pairwise(pairs)) or len(set(places)) < len(places)
    ordered = sorted(moved)
    assert all(b - a >= 17.0 - 1e-6 for a, b in pairwise(ordered))
    assert all(0.0 <= place <= 300.0 + 1e-6 for place in moved)


def test_each_nine_is_as_far_as_the_one_before() -> None:
    assert [round(nines(point), 9) for point in (0.0, 90.0, 99.0, 99.9)] == [0, 1, 2, 3]


def test_a_slower_curve_is_above_a_quicker_one() -> None:
    points = [(50.0, 100.0), (90.0, 100.0), (99.9, 100.0)]
    slow = Curve("slow", "tcp", [(point, 10 * value) for point, value in points])
    figure = Curves([Curve("quick", "near", points), slow], numbers.time)
    root = ElementTree.fromstring(draw(Figure("t", "", figure, FIGURES[0].table), 800.0).svg("x", "t", "d"))
    quick, slower = (each.get("points", "").split() for each in root.iter(f"{SVG}polyline"))
    assert all(
        float(low.split(",")[1]) < float(high.split(",")[1]) for low, high in zip(slower, quick, strict=True)
    )
