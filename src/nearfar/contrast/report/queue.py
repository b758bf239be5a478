"""What a queue costs while nothing goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from nearfar.contrast.names import QUEUE, QUEUES
from nearfar.contrast.report import numbers
from nearfar.contrast.report.gather import Gathered, entry
from nearfar.contrast.report.model import (
    Bars,
    Curve,
    Curves,
    Figure,
    Group,
    Piece,
    Row,
    Section,
    Table,
)
from nearfar.contrast.report.shared import RATIO_TEXT, curves_of, milliseconds, ratio_row, value_cell

TITLES = {
    "singly": "Items put one by one",
    "batched": "Items put in batches",
    "bounded": "Items put one by one into a bounded queue",
}
TEXTS = {
    "singly": "One producer, one consumer, no bound.",
    "batched": "Up to 64 items or 1 MiB together: put_many and get_many on nearfar's queues; a list as one"
    " item on multiprocessing.Queue, and as one message on PUSH/PULL. Against multiprocessing.Queue with"
    " lists.",
    "bounded": "At most 1,000 items or 8 MiB may wait. A far put then asks the host for room, and that bound"
    " is exact over all producers; PUSH/PULL has a high-water mark for each peer instead.",
}
ROLES = {"producer": "in the producer", "host": "in the host", "consumer": "in the consumer"}


def section(gathered: Gathered) -> Section | None:
    figures = [*throughputs(gathered), *latency(gathered), *memory(gathered), *startup(gathered)]
    text = "A queue at work, from one process to another on this machine."
    return Section("What a queue costs", text, figures) if figures else None


def pick_rate(way: str, size: int, result: Any) -> float | None:
    """Of the rows of one throughput stage."""
    return next((row["rate"] for row in result if (row["way"], row["size"]) == (way, size)), None)


def sizes_of(gathered: Gathered, way: str) -> list[int]:
    results = [result for name in QUEUES for result in gathered.of("queue", "throughput", name).values()]
    return sorted({row["size"] for result in results for row in result if row["way"] == way})


def throughputs(gathered: Gathered) -> Iterator[Figure]:
    for way, title in TITLES.items():
        if sizes := sizes_of(gathered, way):
            groups = [group(gathered, way, size) for size in sizes]
            yield Figure(
                f"{title}: throughput",
                f"{TEXTS[way]} {RATIO_TEXT}",
                Bars(groups, numbers.ratio, log=True, origin=1.0),
                Table(
                    ["items a second", *QUEUES],
                    [
                        [numbers.bytes_of(size), *(cell(gathered, way, size, name) for name in QUEUES)]
                        for size in sizes
                    ],
                ),
            )


def group(gathered: Gathered, way: str, size: int) -> Group:
    """All but the yardstick, which is the axis."""
    pick = partial(pick_rate, way, size)
    ideal = gathered.spread("queue", "throughput", QUEUE, pick)
    text = f"{QUEUE}: {numbers.rate(ideal.median)}" if ideal else ""
    rows = [
        ratio_row(
            name,
            gathered.ratio("queue", "throughput", (name, QUEUE), pick),
            gathered.spread("queue", "throughput", name, pick),
            numbers.rate,
        )
        for name in QUEUES[1:]
    ]
    return Group(numbers.bytes_of(size), rows, text)


def cell(gathered: Gathered, way: str, size: int, name: str) -> str:
    pick = partial(pick_rate, way, size)
    return value_cell(gathered.spread("queue", "throughput", name, pick), numbers.scaled)


def latency(gathered: Gathered) -> Iterator[Figure]:
    curves = curves_of(gathered, "queue", "latency", QUEUES)
    if curves:
        yield Figure(
            "Round trips",
            "100 bytes go to another process through one queue and come back through a second. The line says"
            " how many of a hundred round trips take at most so long: flat is even, a rise at the right end"
            " is a tail.",
            Curves(curves, numbers.time),
            percentile_table(curves),
        )


def percentile_table(curves: list[Curve]) -> Table:
    shown = (50.0, 90.0, 99.0, 99.9)
    return Table(
        ["", *(f"p{point:g}" for point in shown)],
        [[curve.name, *(numbers.time(dict(curve.points)[point]) for point in shown)] for curve in curves],
    )


def memory(gathered: Gathered) -> Iterator[Figure]:
    rows, table = [], []
    for name in QUEUES:
        for result in gathered.of("queue", "memory", name).values():
            whole = sum(result.values())
            pieces = [Piece(result[role], role) for role in ROLES if role in result]
            rows.append(Row(name, pieces, f"{whole:,.0f} bytes"))
            shares = [f"{result[role]:,.0f}" if role in result else "-" for role in ROLES]
            table.append([name, *shares, f"{whole:,.0f}"])
    if rows:
        yield Figure(
            "Memory for each waiting item",
            "Items of 1 KiB lie in an unbounded queue whose consumer is connected and does not get. A far"
            " queue holds them twice, in the host and in their producer, which is why a restarted host loses"
            " nothing.",
            Bars([Group("", rows)], lambda value: f"{value:,.0f}"),
            Table(["bytes for each item of 1 KiB", *ROLES.values(), "together"], table),
            list(ROLES.items()),
        )


def startup(gathered: Gathered) -> Iterator[Figure]:
    where = ("queue", "start-up")
    rows, table = milliseconds(
        {name: gathered.spread(*where, name, entry("milliseconds")) for name in QUEUES}
    )
    for line in table:
        bare = gathered.spread(*where, line[0], entry("interpreter"))
        line.append(f"{bare.median:,.0f} ms" if bare else "-")
    if rows:
        yield Figure(
            "Start to first item",
            "From starting an interpreter on the shortest program that does it, imports and all, to the first"
            " item in another process.",
            Bars([Group("", rows)], lambda value: f"{value:,.0f} ms"),
            Table(["", "median", "rounds from-to", "of it, the bare interpreter"], table),
        )
