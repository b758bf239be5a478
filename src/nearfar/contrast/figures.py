"""The figures of a report: kinds of figures, and which are shown in each section. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from nearfar.contrast import report_model as words
from nearfar.contrast.charts import NAMED
from nearfar.contrast.faults import FAULTS
from nearfar.contrast.pools import WORKER_DEATHS
from nearfar.contrast.report_model import (
    KINDS,
    BarChart,
    BarGroup,
    BarRow,
    Curve,
    CurveChart,
    Figure,
    Format,
    Pick,
    Results,
    Section,
    Segment,
    Table,
)
from nearfar.contrast.settings import POINTS, POOLS, QUEUES, Spread

MODES = {"singly": "one by one", "batched": "in batches", "bounded": "one by one into a bounded queue"}
ROLES = {"producer": "in the producer", "host": "in the host", "consumer": "in the consumer"}


@dataclass(frozen=True, slots=True)
class Fates:
    """What may become of an item, a file or a task; `good` first."""

    total: str
    good: str
    all_good: str
    bad: Mapping[str, str]
    """The bad ones, the worst last, and how each is counted: ``12 lost``."""
    legend: Mapping[str, str]
    severity: Callable[[Mapping[str, Any]], Any]

    def worst(self, trials: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The trial that is shown."""
        return max(trials, key=self.severity)

    def harmed(self, trials: Sequence[dict[str, Any]]) -> int:
        """How many trials did not end well."""
        return sum(any(trial[each] for each in self.bad) for trial in trials)


ITEMS = Fates(
    "sent",
    "received",
    "all arrived",
    {"stuck": "stuck", "lost": "lost"},
    {"received": "arrived in time", "stuck": "stuck", "lost": "lost"},
    lambda trial: trial["stuck"] + trial["lost"],
)
FILES = Fates(
    "wanted",
    "good",
    "all saved",
    {"torn": "incomplete", "missing": "missing"},
    {"good": "saved correctly", "torn": "incomplete under its final name", "missing": "missing"},
    lambda trial: trial["torn"] + trial["missing"],
)
TASKS = Fates(
    "tasks",
    "answered",
    "all answered",
    {"failed": "failed", "hung": "never answered"},
    {"answered": "answered", "failed": "failed with an error", "hung": "never answered"},
    # However few: the caller of a task that is never answered does not even learn that it failed.
    lambda trial: (trial["hung"], trial["failed"]),
)


# -- picks and cells -------------------------------------------------------------------------------


def entry(key: str, factor: float = 1.0) -> Pick:
    """Pick the value of that name."""
    return lambda result: float(result[key]) * factor


def percentile(point: str) -> Pick:
    """Pick a percentile, in microseconds."""
    return lambda result: float(result["microseconds"][point])


def rate_of(mode: str, size: int) -> Pick:
    """Pick the rate from the rows of a throughput measurement."""

    def pick(rows: Any) -> float | None:
        return next((row["rate"] for row in rows if (row["mode"], row["size"]) == (mode, size)), None)

    return pick


def sizes_of(results: Results, mode: str) -> list[int]:
    """The sizes that were measured."""
    found = [rows for name in QUEUES for rows in results.of("queue", "throughput", name).values()]
    return sorted({row["size"] for rows in found for row in rows if row["mode"] == mode})


def trials_of(results: Results, part: str, work: str, name: str) -> list[dict[str, Any]]:
    """The results of all trials."""
    return list(results.of(part, work, name).values())


def median_cell(found: Spread | None, form: Format) -> str:
    return form(found.median) if found else "-"


def spread_cell(value: Spread | None, form: Format) -> str:
    """``28.3 k (25.1 k-30.2 k)``."""
    return f"{form(value.median)} ({form(value.low)}-{form(value.high)})" if value else "-"


# -- kinds of figures: their texts are in texts.toml ------------------------------------------------

Extra = Mapping[str, Callable[[list[dict[str, Any]]], str]]
"""Further columns of a table: heads, and cells from the trials of a contestant."""


def fate_figure(
    results: Results,
    title: str,
    part: str,
    works: Mapping[str, str],
    contestants: Sequence[str],
    fates: Fates,
    extra: Extra,
) -> Iterator[Figure]:
    """What became of things in each contestant's worst trial. `works`: what was done, with a sentence."""
    groups, table = [], []
    for work, text in works.items():
        rows = []
        for name in contestants:
            if trials := trials_of(results, part, work, name):
                rows.append(fate_row(name, fates, trials))
                worst = fates.worst(trials)
                counts = [f"{worst[key]:,}" for key in (fates.total, fates.good, *fates.bad)]
                cells = [*counts, *(cell(trials) for cell in extra.values())]
                label = f"{work}: {name}" if len(works) > 1 else name
                table.append([label, *cells, f"{fates.harmed(trials)} of {len(trials)}"])
            elif results.has(part, work, name):
                rows.append(BarRow(name, [], "no result"))
        if rows:
            groups.append(BarGroup(work if len(works) > 1 else "", rows, text))
    if groups:
        heads = ["", fates.total, *fates.legend.values(), *extra, "trials with harm"]
        chart = BarChart(groups, words.share, most=1.0)
        yield Figure(title, chart, Table(heads, table), list(fates.legend.items()))


def fate_row(name: str, fates: Fates, trials: list[dict[str, Any]]) -> BarRow:
    """A bar, and its text: ``889 lost (1 of 2 trials)``, ``all arrived, 1 handled twice``."""
    worst = fates.worst(trials)
    segments = [Segment(worst[key] / max(1, worst[fates.total]), key) for key in (fates.good, *fates.bad)]
    parts = [f"{worst[key]:,} {text}" for key, text in [*fates.bad.items()][::-1] if worst[key]]
    if worst.get("error"):
        parts[-1] += f": {worst['error']}"
    if parts and (harmed := fates.harmed(trials)) < len(trials):
        parts[-1] += f" ({harmed} of {len(trials)} trials)"
    if twice := max(trial.get("duplicated", 0) for trial in trials):
        return BarRow(name, segments, ", ".join([*(parts or [fates.all_good]), f"{twice:,} handled twice"]))
    return BarRow(name, segments, ", ".join(parts) or fates.all_good)


def ratio_figure(
    results: Results,
    title: str,
    where: tuple[str, str],
    lines: Mapping[str, Pick],
    contestants: Sequence[str],
    head: str,
) -> Iterator[Figure]:
    """Rates relative to the first contestant, a group of bars for each of `lines`."""
    baseline, *others = contestants
    groups, table = [], []
    for line, pick in lines.items():
        found = {name: results.spread(*where, name, pick) for name in contestants}
        base = found[baseline]
        rows = []
        for name in others:
            ratio, value = results.ratio(*where, name, baseline, pick), found[name]
            if ratio and value:
                text = f"{words.times(ratio.median)} \N{MIDDLE DOT} {words.rate(value.median)}"
                rows.append(BarRow(name, [Segment(ratio.median, KINDS[name])], text, ratio.low, ratio.high))
            elif results.has(*where, name):
                rows.append(BarRow(name, [], "no result"))
        if any(found.values()):
            groups.append(BarGroup(line, rows, f"{baseline}: {words.rate(base.median)}" if base else ""))
            table.append([line, *(spread_cell(found[name], words.scaled) for name in contestants)])
    if groups:
        yield Figure(title, BarChart(groups, words.times, log=True), Table([head, *contestants], table))


def spread_figure(
    results: Results,
    title: str,
    where: tuple[str, str],
    pick: Pick,
    contestants: Sequence[str],
    form: Format,
    extra: Extra,
) -> Iterator[Figure]:
    """Medians, with the slowest and the fastest round."""
    rows, table = [], []
    for name in contestants:
        if found := results.spread(*where, name, pick):
            text = form(found.median)
            rows.append(BarRow(name, [Segment(found.median, KINDS[name])], text, found.low, found.high))
            cells = [cell(trials_of(results, *where, name)) for cell in extra.values()]
            table.append([name, text, f"{form(found.low)} to {form(found.high)}", *cells])
    if rows:
        heads = ["", "median", "all rounds", *extra]
        yield Figure(title, BarChart([BarGroup("", rows)], form), Table(heads, table))


def curve_figure(
    results: Results, title: str, where: tuple[str, str], contestants: Sequence[str]
) -> Iterator[Figure]:
    """Percentiles: the median over the rounds, for each percentile by itself."""
    curves = []
    for name in contestants:
        if found := [trial["microseconds"] for trial in trials_of(results, *where, name)]:
            points = [(point, median(each[f"{point:g}"] for each in found)) for point in POINTS]
            curves.append(Curve(name, KINDS[name], points))
    rows = [[curve.name, *(words.time(dict(curve.points)[point]) for point in NAMED)] for curve in curves]
    if curves:
        table = Table(["", *(f"p{point:g}" for point in NAMED)], rows)
        yield Figure(title, CurveChart(curves, words.time), table)


def memory_figure(results: Results) -> Iterator[Figure]:
    """Bytes for each item, by the process that holds them."""
    rows, table = [], []
    for name in QUEUES:
        for result in trials_of(results, "queue", "memory", name):
            whole = f"{sum(result.values()):,.0f}"
            segments = [Segment(result[role], role) for role in ROLES if role in result]
            rows.append(BarRow(name, segments, f"{whole} bytes"))
            table.append([name, *(f"{result[r]:,.0f}" if r in result else "-" for r in ROLES), whole])
    if rows:
        heads = ["bytes for each item of 1 KiB", *ROLES.values(), "together"]
        chart = BarChart([BarGroup("", rows)], lambda value: f"{value:,.0f}")
        yield Figure("Memory for each waiting item", chart, Table(heads, table), list(ROLES.items()))


# -- the sections ----------------------------------------------------------------------------------


def sections(results: Results) -> list[Section]:
    """All sections with figures. What was not measured is left out."""
    found = [
        Section("What a fault costs", [*fault_figures(results)]),
        Section("What a queue costs", [*queue_figures(results)]),
        Section("The download over each queue", [*download_figures(results)]),
        Section("What a pool costs", [*pool_figures(results)]),
    ]
    return [section for section in found if section.figures]


def fault_figures(results: Results) -> Iterator[Figure]:
    extra: Extra = {
        "handled twice": lambda trials: f"{max(trial['duplicated'] for trial in trials):,}",
        "stuck for": lambda trials: stuck_for(ITEMS.worst(trials)),
        "longest pause": lambda trials: words.time(max(trial["pause"] for trial in trials) * 1e6),
    }
    works = {name: fault.text for name, fault in FAULTS.items()}
    yield from fate_figure(
        results, "Where the items are after a fault", "faults", works, QUEUES, ITEMS, extra
    )


def stuck_for(trial: dict[str, Any]) -> str:
    return words.time(trial["stuck_for"] * 1e6) if trial["stuck"] else "-"


def queue_figures(results: Results) -> Iterator[Figure]:
    for mode, title in MODES.items():
        lines = {words.bytes_of(size): rate_of(mode, size) for size in sizes_of(results, mode)}
        where, head = ("queue", "throughput"), f"items per second, {title}"
        yield from ratio_figure(results, f"Throughput, {title}", where, lines, QUEUES, head)
    yield from curve_figure(results, "Round trips", ("queue", "latency"), QUEUES)
    yield from memory_figure(results)
    extra: Extra = {
        "of it, the interpreter alone": lambda trials: words.milliseconds(
            median(trial["interpreter"] for trial in trials)
        )
    }
    title, where, pick = "From start to the first item", ("queue", "start-up"), entry("milliseconds")
    yield from spread_figure(results, title, where, pick, QUEUES, words.milliseconds, extra)


def download_figures(results: Results) -> Iterator[Figure]:
    extra: Extra = {"files saved correctly": lambda trials: f"{min(trial['good'] for trial in trials):,}"}
    where, pick = ("download", "getfile"), entry("rate")
    yield from spread_figure(results, "Files per second", where, pick, QUEUES, words.rate, extra)
    title, works = "One of two saving processes is killed", {"getfile killed": ""}
    yield from fate_figure(results, title, "download", works, QUEUES, FILES, {})


def pool_figures(results: Results) -> Iterator[Figure]:
    title = "What becomes of the tasks when a worker is killed"
    works = {name: text for name, (text, _) in WORKER_DEATHS.items()}
    extra: Extra = {"error": lambda trials: TASKS.worst(trials)["error"] or "-"}
    yield from fate_figure(results, title, "pool", works, POOLS, TASKS, extra)
    speed = ("pool", "speed")
    lines = {
        "submitted one by one": entry("singly"),
        "map over a list of numbers, default chunks": entry("map"),
    }
    yield from ratio_figure(results, "Tasks per second", speed, lines, POOLS, "tasks per second")
    yield from curve_figure(results, "One blocking call", speed, POOLS)
    title = "From opening to the first result"
    yield from spread_figure(results, title, speed, entry("start"), POOLS, words.milliseconds, {})
