"""A report for a terminal: plain lines."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import fill

from nearfar.contrast.report.model import Report, Table

WIDTH = 100


def terminal(report: Report) -> str:
    return "\n".join(lines(report)) + "\n"


def lines(report: Report) -> Iterator[str]:
    for title, table in report.glance:
        yield from ("", f"{title} at a glance", "", *columns(table))
    for section in report.sections:
        for figure in section.figures:
            yield from ("", f"{section.title}: {figure.title}", "", *columns(figure.table))
    yield ""
    for finding in report.findings:
        yield fill(finding, WIDTH, initial_indent="* ", subsequent_indent="  ")
    for trouble in report.troubles:
        yield fill(f"no result: {trouble}", WIDTH, initial_indent="! ", subsequent_indent="  ")
    yield ""
    for what, value in report.setting:
        yield f"{what + ':':<18} {value}"


def columns(table: Table) -> list[str]:
    """Names to the left, values to the right; no line ends in spaces."""
    rows = [table.heads, *table.rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for row in rows
    ]
