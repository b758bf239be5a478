"""The demo's two tables: what the runs took, and what each queue promises."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

from nearfar import Queue
from nearfar.demo.runs import Run

MEANINGS = {
    "bounded": "the bound is exact, over all processes",
    "fifo": "each producer's items come out in their order",
    "crosses_machines": "reaches other machines",
    "redelivers": "what a killed consumer held goes to another",
    "survives_killed_consumer": "a killed consumer never stalls the others",
    "survives_killed_host": "a restarted host loses nothing of live producers",
    "counts_end": "iteration ends by itself when all is done",
    "dead_letters": "an item that keeps failing is put aside",
}
"""The fields of `Promises`, in words."""

Rows = Sequence[Sequence[str]]


def contrast(runs: Sequence[Run]) -> Rows:
    """A row for each run, below a row of headings."""
    rows = [("", "processes", "files", "failed", "seconds", "files/s", "MB/s")]
    for run in runs:
        files = len(run.checked.sizes)
        rows.append(
            (
                run.name,
                run.processes,
                f"{files}",
                f"{len(run.failed)}",
                f"{run.seconds:.1f}",
                f"{files / run.seconds:.0f}",
                f"{sum(run.checked.sizes.values()) / run.seconds / 1e6:.1f}",
            )
        )
    return rows


def promised() -> Rows:
    """A row for each promise, below a row of headings: as the queues themselves say."""
    near = Queue()
    near.close()
    queues = (near, Queue.connect("tcp://192.0.2.1:5555", insecure=True))  # nothing is sent
    answers = [queue.promises() for queue in queues]
    rows: list[Sequence[str]] = [("", "near", "far")]
    for name, meaning in MEANINGS.items():
        rows.append((meaning, *("yes" if getattr(each, name) else "no" for each in answers)))
    return rows


def show(rows: Rows) -> None:
    """Print a table: drawn by rich where it is installed, in plain columns elsewhere."""
    if importlib.util.find_spec("rich"):
        show_drawn(rows)
    else:
        show_plain(rows)


def show_drawn(rows: Rows) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for index, heading in enumerate(rows[0]):
        table.add_column(heading, justify="right" if index else "left", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*row)
    Console(file=sys.stdout, highlight=False, emoji=False, markup=False).print(table)


def show_plain(rows: Rows) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(["", row[0].ljust(widths[0]), *cells]))
