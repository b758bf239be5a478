"""What a fault costs, of a queue and of the download over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nearfar.contrast.faults.stories import STORIES
from nearfar.contrast.names import QUEUES
from nearfar.contrast.report import numbers
from nearfar.contrast.report.gather import Gathered
from nearfar.contrast.report.model import Bars, Figure, Group, Piece, Row, Section, Table
from nearfar.contrast.report.shared import worst

BAD = ("lost", "stuck")
STATES = {"received": "arrived in time", "stuck": "stuck", "lost": "lost"}
HEADS = ("", "sent", "lost", "stuck", "twice", "stuck for", "longest pause", "trials with loss or stall")


def section(gathered: Gathered) -> Section | None:
    names = [name for name in STORIES if gathered.has("faults", name)]
    if not names:
        return None
    groups = [Group(name, rows_of(gathered, name), STORIES[name].says) for name in names]
    figure = Figure(
        "Where the items are after a fault",
        "Numbered items from one producer through a queue of at most 1,000 to two consumers that work half a"
        " millisecond on each. Shown is each one's worst trial. Lost: never handled, and nothing is left"
        " that could bring them. Stuck: held by a consumer that does not go on, or by a queue that nobody"
        " can read any more.",
        Bars(groups, numbers.share, most=1.0),
        Table(HEADS, [row for name in names for row in table_of(gathered, name)]),
        list(STATES.items()),
    )
    text = "The same story over every transport, with real processes that are really killed and frozen."
    return Section("What a fault costs", text, [figure])


def trials_of(gathered: Gathered, name: str, contestant: str) -> list[dict[str, Any]]:
    return list(gathered.of("faults", name, contestant).values())


def rows_of(gathered: Gathered, name: str) -> list[Row]:
    rows = []
    for contestant in QUEUES:
        trials = trials_of(gathered, name, contestant)
        if trials:
            bad = worst(trials, BAD)
            pieces = [Piece(bad[state] / max(1, bad["sent"]), state) for state in STATES]
            rows.append(Row(contestant, pieces, describe(bad, trials)))
        elif gathered.stuck("faults", name, contestant):
            rows.append(Row(contestant, [], "no result"))
    return rows


def describe(bad: dict[str, Any], trials: Sequence[dict[str, Any]]) -> str:
    """``889 lost``, ``1,000 stuck (1 of 2 trials)``, ``all arrived``."""
    said = [f"{bad[state]:,} {state}" for state in ("lost", "stuck") if bad[state]]
    often = sum(any(trial[state] for state in BAD) for trial in trials)
    if said and often < len(trials):
        said[-1] += f" ({often} of {len(trials)} trials)"
    twice = max(trial["duplicated"] for trial in trials)
    return " · ".join([*(said or ["all arrived"]), *([f"{twice:,} twice"] if twice else [])])


def table_of(gathered: Gathered, name: str) -> list[list[str]]:
    rows = []
    for contestant in QUEUES:
        trials = trials_of(gathered, name, contestant)
        if trials:
            bad = worst(trials, BAD)
            often = sum(any(trial[state] for state in BAD) for trial in trials)
            rows.append(
                [
                    f"{name}: {contestant}",
                    *(f"{bad[each]:,}" for each in ("sent", "lost", "stuck")),
                    f"{max(trial['duplicated'] for trial in trials):,}",
                    numbers.seconds(bad["stuck_for"]) if bad["stuck"] else "-",
                    numbers.seconds(max(trial["pause"] for trial in trials)),
                    f"{often} of {len(trials)}",
                ]
            )
    return rows
