"""Plain tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from nearfar.readable import readable


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The heads and the rows in columns, numbers to the right; no line ends in spaces."""
    lines = [heads, *([readable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    right = [all(_is_number(row[column]) for row in rows) for column in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def _is_number(cell: str) -> bool:
    return cell.replace(",", "").replace(".", "").isdigit()
