"""What a pool costs, and what a killed worker costs it."""

from __future__ import annotations

from collections.abc import Iterator

from nearfar.contrast.names import POOL, POOLS
from nearfar.contrast.pools.deaths import DEATHS
from nearfar.contrast.report import numbers
from nearfar.contrast.report.gather import Gathered, entry
from nearfar.contrast.report.model import Bars, Curves, Figure, Group, Piece, Row, Section, Table
from nearfar.contrast.report.queue import percentile_table
from nearfar.contrast.report.shared import RATIO_TEXT, curves_of, milliseconds, ratio_row, value_cell

RATES = {"singly": "tasks submitted one by one", "map": "map over a list of numbers, default chunks"}
FATES = {"answered": "answered", "failed": "failed with an error", "hung": "never answered"}
BAD = ("failed", "hung")


def section(gathered: Gathered) -> Section | None:
    figures = [*deaths(gathered), *rates(gathered), *latency(gathered), *start(gathered)]
    text = (
        "Two workers and the same calls. The far pools' coordinator is in the process that submits; all of"
        " their workers are behind its address, as they would be on another machine."
    )
    return Section("What a pool costs", text, figures) if figures else None


def deaths(gathered: Gathered) -> Iterator[Figure]:
    names = [name for name in DEATHS if gathered.has("pool", name)]
    groups, table = [], []
    for name in names:
        rows = []
        for pool in POOLS:
            trials = list(gathered.of("pool", name, pool).values())
            if not trials:
                rows.append(Row(pool, [], "no result"))
                continue
            # Hung is worse than failed, however few they are: nobody ever learns of it.
            bad = max(trials, key=lambda trial: (trial["hung"], trial["failed"]))
            said = [f"{bad['hung']:,} never answered"] if bad["hung"] else []
            said += [f"{bad['failed']:,} {bad['error']}"] if bad["failed"] else []
            pieces = [Piece(bad[fate] / bad["tasks"], fate) for fate in FATES]
            rows.append(Row(pool, pieces, " · ".join(said) or f"all {bad['tasks']:,} answered"))
            often = sum(bool(trial["hung"] or trial["failed"]) for trial in trials)
            counts = [f"{bad[each]:,}" for each in ("tasks", *FATES)]
            table.append([f"{name}: {pool}", *counts, bad["error"] or "-", f"{often} of {len(trials)}"])
        groups.append(Group(name, rows, DEATHS[name][0]))
    if groups:
        yield Figure(
            "What becomes of the tasks when a worker is killed",
            "Each one's worst trial. One task that killed its own worker has to fail, and an error that says"
            " so is the best answer; every other task could have been answered.",
            Bars(groups, numbers.share, most=1.0),
            Table(["", "tasks", *FATES.values(), "error", "trials with trouble"], table),
            list(FATES.items()),
        )


def rates(gathered: Gathered) -> Iterator[Figure]:
    groups, table = [], []
    for key, title in RATES.items():
        found = {name: gathered.spread("pool", "speed", name, entry(key)) for name in POOLS}
        ideal = found[POOL]
        if any(found.values()):
            head = f"{POOL}: {numbers.rate(ideal.median)}" if ideal else ""
            rows = [
                ratio_row(
                    name,
                    gathered.ratio("pool", "speed", (name, POOL), entry(key)),
                    found[name],
                    numbers.rate,
                )
                for name in POOLS[1:]
            ]
            groups.append(Group(title, rows, head))
            table.append([title, *(value_cell(found[name], numbers.scaled) for name in POOLS)])
    if groups:
        yield Figure(
            "Tasks a second",
            f"Tasks that do nothing: what is left is the pool. {RATIO_TEXT}",
            Bars(groups, numbers.ratio, log=True, origin=1.0),
            Table(["tasks a second", *POOLS], table),
        )


def latency(gathered: Gathered) -> Iterator[Figure]:
    curves = curves_of(gathered, "pool", "speed", POOLS)
    if curves:
        yield Figure(
            "One blocking call",
            "Submit one task that does nothing and wait for its answer, again and again.",
            Curves(curves, numbers.time),
            percentile_table(curves),
        )


def start(gathered: Gathered) -> Iterator[Figure]:
    rows, table = milliseconds(
        {name: gathered.spread("pool", "speed", name, entry("start")) for name in POOLS}
    )
    if rows:
        yield Figure(
            "Opening to first answer",
            "In an interpreter that has imported everything. The far ones start their workers as a program"
            " of its own, with an interpreter and imports of its own.",
            Bars([Group("", rows)], lambda value: f"{value:,.0f} ms"),
            Table(["", "median", "rounds from-to"], table),
        )
