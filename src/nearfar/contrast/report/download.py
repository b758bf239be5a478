"""The tutorial's download and getfile, and what becomes of its files when a getfile is killed."""

from __future__ import annotations

from collections.abc import Iterator

from nearfar.contrast.names import QUEUES
from nearfar.contrast.report import numbers
from nearfar.contrast.report.gather import Gathered, entry
from nearfar.contrast.report.model import Bars, Figure, Group, Piece, Row, Section, Table
from nearfar.contrast.report.shared import spread_row, value_cell, worst

FATES = {"good": "saved, and right", "torn": "cut short under its final name", "missing": "not there"}
BAD = ("torn", "missing")


def section(gathered: Gathered) -> Section | None:
    figures = [*speed(gathered), *killed(gathered)]
    text = (
        "One download fetches pictures from a server on this machine and puts them; two getfile get and save"
        " them. What was saved is compared, byte by byte, with the pictures drawn anew. This is the"
        " tutorial's own loop, which saves straight under the final name; nearfar's producer and consumer do"
        " more, and are not measured here."
    )
    return Section("The download over each queue", text, figures) if figures else None


def speed(gathered: Gathered) -> Iterator[Figure]:
    rows, table = [], []
    for name in QUEUES:
        found = gathered.spread("download", "getfile", name, entry("rate"))
        if found:
            said = f"{numbers.plain(found.median)} files/s"
            rows.append(spread_row(name, found, said))
            good = [result["good"] for result in gathered.of("download", "getfile", name).values()]
            table.append([name, value_cell(found, numbers.plain), f"{min(good):,}"])
    if rows:
        yield Figure(
            "Files a second",
            "The median of all rounds, and from the slowest to the quickest.",
            Bars([Group("", rows)], numbers.count),
            Table(["", "files/s", "files saved, and right"], table),
        )


def killed(gathered: Gathered) -> Iterator[Figure]:
    rows, table = [], []
    for name in QUEUES:
        trials = list(gathered.of("download", "getfile killed", name).values())
        if trials:
            bad = worst(trials, BAD)
            pieces = [Piece(bad[fate] / bad["wanted"], fate) for fate in FATES]
            said = [f"{bad[fate]:,} {fate}" for fate in BAD if bad[fate]]
            rows.append(Row(name, pieces, " · ".join(said) or f"all {bad['wanted']:,} saved"))
            whole = sum(trial["good"] == trial["wanted"] for trial in trials)
            table.append([name, *(f"{bad[fate]:,}" for fate in FATES), f"{whole} of {len(trials)}"])
    if rows:
        yield Figure(
            "kill -9 one of two getfile in the middle",
            "Each one's worst trial. Saving takes three milliseconds more here, as on a slow disk, so that"
            " files wait.",
            Bars([Group("", rows)], numbers.share, most=1.0),
            Table(["", *FATES.values(), "trials with all files"], table),
            list(FATES.items()),
        )
