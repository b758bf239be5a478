"""Lying bars in groups. On a wide sheet a row is name, bar, words; on a narrow one, name and words stand
above the bar."""

from __future__ import annotations

from dataclasses import dataclass

from nearfar.contrast.report.charts.scale import Scale, around
from nearfar.contrast.report.charts.sheet import Sheet, width_of
from nearfar.contrast.report.model import Bars, Group, Row

NARROW = 480.0
"""A sheet below this width is narrow."""
BAR = 13.0
LINE = 17.0
GAP = 14.0
LEAST = 3.0
"""Of a piece that is more than nothing."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a sheet, and the height of a row."""

    left: float
    right: float
    row: float
    stacked: bool


def draw_bars(bars: Bars, width: float) -> Sheet:
    sheet = Sheet(width)
    layout = lay_out(bars, width)
    scale = scale_of(bars, layout)
    top = 4.0
    for group in bars.groups:
        top = draw_group(sheet, bars, group, layout, scale, top)
    draw_axis(sheet, bars, scale, layout, top)
    return sheet


def lay_out(bars: Bars, width: float) -> Layout:
    rows = [row for group in bars.groups for row in group.rows]
    if width < NARROW:
        return Layout(8.0, width - 14.0, 38.0, stacked=True)
    names = max((width_of(row.name, 13.0) for row in rows), default=0.0)
    words = max((width_of(row.said, 13.0) for row in rows), default=0.0)
    return Layout(names + 10.0, width - words - 14.0, 22.0, stacked=False)


def scale_of(bars: Bars, layout: Layout) -> Scale:
    rows = [row for group in bars.groups for row in group.rows]
    lengths = [sum(piece.value for piece in row.pieces) for row in rows if row.pieces]
    ends = [end for row in rows for end in (row.low, row.high) if end is not None]
    least, most = around([*lengths, *ends], log=bars.log, origin=bars.origin)
    return Scale(least, bars.most or most, layout.left, layout.right, bars.log)


def draw_group(sheet: Sheet, bars: Bars, group: Group, layout: Layout, scale: Scale, top: float) -> float:
    """Returns where the next one may begin."""
    for words, kind in ((group.title, "group"), (group.text, "soft")):
        for line in wrapped(words, sheet.width, 13.0) if words else ():
            sheet.text(0, top + 8, line, kind)
            top += LINE
    top += GAP / 2
    origin = scale(bars.origin)
    for row in group.rows:
        draw_row(sheet, bars, row, layout, scale, top)
        bar = top + bar_offset(layout)
        # From bar to bar where nothing stands between them: words would be struck through.
        beyond = 2.0 if layout.stacked else 5.0
        sheet.line((origin, bar - beyond), (origin, bar + BAR + beyond), "origin")
        top += layout.row
    return top + GAP


def bar_offset(layout: Layout) -> float:
    """From the top of a row to its bar."""
    return 17.0 if layout.stacked else 2.0


def draw_row(sheet: Sheet, bars: Bars, row: Row, layout: Layout, scale: Scale, top: float) -> None:
    bar = top + bar_offset(layout)
    middle = bar + BAR / 2
    if layout.stacked:
        sheet.text(layout.left, top + 8, row.name, size=12.5)
        sheet.text(layout.right, top + 8, row.said, "value", size=12.5, anchor="end")
    else:
        sheet.text(layout.left - 10, middle, row.name, anchor="end")
        sheet.text(layout.right + 12, middle, row.said, "value")
    if bars.log:
        draw_ratio(sheet, bars, row, scale, bar)
    else:
        draw_pieces(sheet, bars, row, scale, bar)
    if row.low is not None and row.high is not None and row.high > row.low:
        sheet.line((scale(row.low), middle), (scale(row.high), middle), "whisker")
        for end in (row.low, row.high):
            sheet.line((scale(end), middle - 3), (scale(end), middle + 3), "whisker")


def draw_ratio(sheet: Sheet, bars: Bars, row: Row, scale: Scale, top: float) -> None:
    for piece in row.pieces:
        ends = sorted((scale(bars.origin), scale(piece.value)))
        length = max(ends[1] - ends[0], LEAST)
        sheet.rect(ends[0], top, length, BAR, piece.kind, hint=f"{row.name}: {row.said}")


def draw_pieces(sheet: Sheet, bars: Bars, row: Row, scale: Scale, top: float) -> None:
    """One after the other; what is more than nothing can be seen, and takes that from the longest."""
    lengths = [
        max(scale(piece.value) - scale(0.0), LEAST) if piece.value > 0 else 0.0 for piece in row.pieces
    ]
    room = scale(sum(piece.value for piece in row.pieces)) - scale(0.0)
    if (excess := sum(lengths) - room) > 0 and len(lengths) > 1:
        longest = lengths.index(max(lengths))
        lengths[longest] -= excess
    left = scale(0.0)
    for piece, length in zip(row.pieces, lengths, strict=True):
        if length > 0:
            sheet.rect(left, top, length, BAR, piece.kind, hint=f"{row.name}: {row.said}")
            left += length


def draw_axis(sheet: Sheet, bars: Bars, scale: Scale, layout: Layout, top: float) -> None:
    """Below the last group."""
    end = None
    sheet.line((layout.left, top - 4), (layout.right, top - 4), "axis")
    for tick in scale.ticks(4 if layout.stacked else 6):
        x, said = scale(tick), bars.tick(tick)
        sheet.line((x, top - 4), (x, top), "axis")
        half = width_of(said, 11.5) / 2
        place = min(max(x, half), sheet.width - half)
        if end is None or place - half > end + 4:
            sheet.text(place, top + 9, said, "tick", size=11.5, anchor="middle")
            end = place + half


def wrapped(text: str, width: float, size: float) -> list[str]:
    """Lines that fit."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and width_of(longer, size) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
