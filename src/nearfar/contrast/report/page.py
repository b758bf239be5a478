"""A report as one HTML file that needs nothing else: no network, no script."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

from nearfar.contrast.report.charts.bars import draw_bars
from nearfar.contrast.report.charts.curves import draw_curves
from nearfar.contrast.report.charts.sheet import Sheet
from nearfar.contrast.report.model import Bars, Figure, Report, Section, Table

WIDTHS = {"wide": 860.0, "narrow": 340.0}
"""Every chart is there twice; the style sheet shows the one that fits."""
STYLE = Path(__file__).with_name("style.css")
HATCHES = """<svg width="0" height="0" aria-hidden="true" class="hatches"><defs>
<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
<rect width="6" height="6" class="hatch-ground"/><rect width="2.5" height="6" class="hatch-line"/></pattern>
</defs></svg>"""


def page(report: Report) -> str:
    """The whole file."""
    sections = (part for number, each in enumerate(report.sections) for part in section(each, number))
    body = "\n".join([*head(report), *sections, *foot(report)])
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        '<meta name="color-scheme" content="light dark"/>\n'
        f"<title>nearfar: the"
        f" contrast</title>\n<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n"
        f"<body>\n{HATCHES}\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def head(report: Report) -> Iterator[str]:
    shown = {
        what: value for what, value in report.setting if what in ("machine", "Python", "rounds and trials")
    }
    machine = f"{shown['machine']} · {shown['Python']} · rounds and trials: {shown['rounds and trials']}"
    yield (
        "<header><p class='eyebrow'>nearfar contrast</p><h1>What a queue or a pool costs, near and far,"
        f" and what a fault costs</h1><p class='setting'>{escape(machine)}</p></header>"
    )
    if report.findings:
        items = "".join(f"<li>{escape(finding)}</li>" for finding in report.findings)
        yield f"<section class='findings'><h2>In short</h2><ul>{items}</ul></section>"
    if report.glance:
        tables = "".join(f"<h3>{escape(title)}</h3>{table(each)}" for title, each in report.glance)
        yield (
            f"<section><h2>At a glance</h2>{tables}<p class='note'>Lost, stuck, twice, failed, never"
            " answered: over all faults, each in its worst trial. Everything else: medians.</p></section>"
        )


def section(each: Section, number: int) -> Iterator[str]:
    yield f"<section><h2>{escape(each.title)}</h2><p>{escape(each.text)}</p>"
    for index, one in enumerate(each.figures):
        yield figure(one, f"f{number}-{index}")
    yield "</section>"


def figure(each: Figure, name: str) -> str:
    """Both drawings, the legend, and the table for whoever wants the numbers."""
    legend = "".join(
        f'<li><svg width="14" height="14" aria-hidden="true"><rect class="fill {kind}" width="14" height="14"'
        f' rx="2"/></svg>{escape(said)}</li>'
        for kind, said in each.legend
    )
    charts = "".join(
        f'<div class="{which}">{draw(each, width).svg(f"{name}-{which}", each.title, describe(each))}</div>'
        for which, width in WIDTHS.items()
    )
    return (
        f"<figure><h3>{escape(each.title)}</h3><figcaption>{escape(each.text)}</figcaption>"
        + (f"<ul class='legend'>{legend}</ul>" if legend else "")
        + charts
        + f"<details><summary>The same as a table</summary>{table(each.table)}</details></figure>"
    )


def draw(each: Figure, width: float) -> Sheet:
    return (
        draw_bars(each.drawing, width) if isinstance(each.drawing, Bars) else draw_curves(each.drawing, width)
    )


def describe(each: Figure) -> str:
    """What the drawing shows, for those who hear it."""
    if isinstance(each.drawing, Bars):
        return " ".join(
            f"{group.title} {'; '.join(f'{row.name}: {row.said}' for row in group.rows)}.".strip()
            for group in each.drawing.groups
        )
    return "; ".join(" ".join(filter(None, row)) for row in each.table.rows)


def table(each: Table) -> str:
    """Its own scroller, so that a wide one does not widen the page."""
    heads = "".join(f"<th scope='col'>{escape(text)}</th>" for text in each.heads)
    rows = "".join(
        f"<tr><th scope='row'>{escape(first)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in each.rows
    )
    return (
        "<div class='scroll' tabindex='0' role='region' aria-label='table'>"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def foot(report: Report) -> Iterator[str]:
    if report.troubles:
        lines = "".join(f"<li>{escape(trouble)}</li>" for trouble in report.troubles)
        yield f"<section><h2>Without a result</h2><ul>{lines}</ul></section>"
    for title, texts in (("How it was measured", report.methods), ("What is not measured", report.gaps)):
        items = "".join(f"<li>{escape(text)}</li>" for text in texts)
        yield f"<section class='notes'><h2>{title}</h2><ul>{items}</ul></section>"
    values = "".join(f"<dt>{escape(what)}</dt><dd>{escape(value)}</dd>" for what, value in report.setting)
    yield f"<footer><dl>{values}</dl></footer>"
