"""The small tables at the top: everybody's main figures, side by side."""

from __future__ import annotations

from functools import partial

from nearfar.contrast.faults.stories import STORIES
from nearfar.contrast.names import POOLS, QUEUES
from nearfar.contrast.pools.deaths import DEATHS
from nearfar.contrast.report import numbers
from nearfar.contrast.report.faults import BAD, trials_of
from nearfar.contrast.report.gather import Gathered, Pick, entry
from nearfar.contrast.report.model import Say, Table
from nearfar.contrast.report.queue import pick_rate, sizes_of
from nearfar.contrast.report.shared import worst

Column = tuple[str, list[str]]


def glances(gathered: Gathered) -> list[tuple[str, Table]]:
    tables = [
        ("Queues", table(QUEUES, queue_columns(gathered))),
        ("Pools", table(POOLS, pool_columns(gathered))),
    ]
    return [(title, each) for title, each in tables if len(each.heads) > 1]


def table(names: tuple[str, ...], columns: list[Column]) -> Table:
    """The columns that say anything."""
    shown = [column for column in columns if any(cell != "-" for cell in column[1])]
    cells = zip(*(column for _, column in shown), strict=True) if shown else ()
    return Table(
        ["", *(head for head, _ in shown)], [[name, *row] for name, row in zip(names, cells, strict=False)]
    )


def queue_columns(gathered: Gathered) -> list[Column]:
    sizes = sizes_of(gathered, "singly")
    columns = [
        (title, [fault_cell(gathered, name, what) for name in QUEUES])
        for title, what in (("lost", "lost"), ("stuck", "stuck"), ("twice", "duplicated"))
    ]
    for size in [sizes[0], sizes[-1]] if sizes else []:
        pick = partial(pick_rate, "singly", size)
        columns.append(
            column(
                gathered,
                numbers.bytes_of(size).replace(" ", "\N{NO-BREAK SPACE}"),
                QUEUES,
                ("queue", "throughput"),
                pick,
                numbers.rate,
            )
        )
    trips = ("queue", "latency")
    columns += [
        column(gathered, f"round trip p{point}", QUEUES, trips, percentile(point), numbers.time)
        for point in ("50", "99")
    ]
    columns.append(
        column(
            gathered,
            "memory/item",
            QUEUES,
            ("queue", "memory"),
            lambda r: float(sum(r.values())),
            numbers.bytes_of,
        )
    )
    columns.append(
        column(
            gathered, "start", QUEUES, ("queue", "start-up"), lambda r: r["milliseconds"] * 1e3, numbers.time
        )
    )
    columns.append(column(gathered, "download", QUEUES, ("download", "getfile"), entry("rate"), numbers.rate))
    return columns


def pool_columns(gathered: Gathered) -> list[Column]:
    columns = [
        (title, [death_cell(gathered, name, what) for name in POOLS])
        for title, what in (("failed", "failed"), ("never answered", "hung"))
    ]
    speed = ("pool", "speed")
    columns += [
        column(gathered, "tasks", POOLS, speed, entry("singly"), numbers.rate),
        column(gathered, "map", POOLS, speed, entry("map"), numbers.rate),
        column(gathered, "call p50", POOLS, speed, percentile("50"), numbers.time),
        column(gathered, "call p99", POOLS, speed, percentile("99"), numbers.time),
        column(gathered, "start", POOLS, speed, lambda r: r["start"] * 1e3, numbers.time),
    ]
    return columns


def percentile(point: str) -> Pick:
    return lambda result: float(result["microseconds"][point])


def column(
    gathered: Gathered, title: str, names: tuple[str, ...], where: tuple[str, str], pick: Pick, say: Say
) -> Column:
    """The medians."""
    found = [gathered.spread(*where, name, pick) for name in names]
    return title, [say(each.median) if each else "-" for each in found]


def fault_cell(gathered: Gathered, name: str, what: str) -> str:
    """Over all stories, in their worst trials."""
    found = [trials for story in STORIES if (trials := trials_of(gathered, story, name))]
    if not found:
        return "-"
    if what in BAD:
        return f"{sum(worst(trials, BAD)[what] for trials in found):,}"
    return f"{sum(max(trial[what] for trial in trials) for trials in found):,}"


def death_cell(gathered: Gathered, name: str, what: str) -> str:
    found = [trials for death in DEATHS if (trials := list(gathered.of("pool", death, name).values()))]
    return f"{sum(max(trial[what] for trial in trials) for trials in found):,}" if found else "-"
