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

MODES = {
    "singly": ("one by one", "One producer, one consumer, no bound."),
    "batched": ("in batches", "One producer, one consumer, no bound."),
    "bounded": (
        "one by one into a bounded queue",
        "The bound of a far queue is exact over all producers: a put asks the host for room. PUSH/PULL has"
        " a high-water mark for each socket instead.",
    ),
}
RATIO_TEXT = " The vertical line is {}; bars to the right are faster."
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
    return list(results.of(part, work, name).values())


def spread_cell(value: Spread | None, form: Format) -> str:
    """``28.3 k (25.1 k-30.2 k)``."""
    return f"{form(value.median)} ({form(value.low)}-{form(value.high)})" if value else "-"


# -- kinds of figures ------------------------------------------------------------------------------


def fate_figure(
    results: Results,
    title: str,
    text: str,
    works: Sequence[tuple[str, str, str]],
    contestants: Sequence[str],
    fates: Fates,
    more: Mapping[str, Callable[[Sequence[dict[str, Any]]], str]] | None = None,
) -> Iterator[Figure]:
    """What became of things in each contestant's worst trial. `works`: part, work, and a sentence about
    it."""
    groups, table, extra = [], [], more or {}
    for part, work, said in works:
        if not results.has(part, work):
            continue
        rows = []
        for name in contestants:
            trials = trials_of(results, part, work, name)
            if trials:
                worst = fates.worst(trials)
                rows.append(BarRow(name, *fate_bar(fates, worst, trials)))
                counts = [f"{worst[each]:,}" for each in (fates.total, fates.good, *fates.bad)]
                cells = [*counts, *(cell(trials) for cell in extra.values())]
                label = f"{work}: {name}" if len(works) > 1 else name
                table.append([label, *cells, f"{fates.harmed(trials)} of {len(trials)}"])
            elif results.has(part, work, name):
                rows.append(BarRow(name, [], "no result"))
        groups.append(BarGroup(work if len(works) > 1 else "", rows, said))
    if groups:
        heads = ["", fates.total, *fates.legend.values(), *extra, "trials with harm"]
        yield Figure(
            title,
            text,
            BarChart(groups, words.share, most=1.0),
            Table(heads, table),
            list(fates.legend.items()),
        )


def fate_bar(
    fates: Fates, worst: dict[str, Any], trials: Sequence[dict[str, Any]]
) -> tuple[list[Segment], str]:
    """A bar, and its text: ``889 lost (1 of 2 trials)``, ``all arrived, 1 handled twice``."""
    total = max(1, worst[fates.total])
    segments = [Segment(worst[each] / total, each) for each in (fates.good, *fates.bad)]
    parts = [f"{worst[each]:,} {said}" for each, said in reversed([*fates.bad.items()]) if worst[each]]
    if worst.get("error"):
        parts[-1] += f": {worst['error']}"
    if parts and (harmed := fates.harmed(trials)) < len(trials):
        parts[-1] += f" ({harmed} of {len(trials)} trials)"
    twice = max(trial.get("duplicated", 0) for trial in trials)
    parts = parts or [fates.all_good]
    return segments, ", ".join([*parts, *([f"{twice:,} handled twice"] if twice else [])])


def ratio_figure(
    results: Results,
    title: str,
    text: str,
    lines: Sequence[tuple[str, str, str, Pick]],
    contestants: Sequence[str],
    head: str,
) -> Iterator[Figure]:
    """Rates relative to the first contestant. `lines`: title, part, work, and the figure."""
    baseline, *others = contestants
    groups, table = [], []
    for name_of_line, part, work, pick in lines:
        found = {name: results.spread(part, work, name, pick) for name in contestants}
        if not any(found.values()):
            continue
        base = found[baseline]
        rows = []
        for name in others:
            ratio, value = results.ratio(part, work, name, baseline, pick), found[name]
            if ratio and value:
                said = f"{words.times(ratio.median)} \N{MIDDLE DOT} {words.rate(value.median)}"
                rows.append(BarRow(name, [Segment(ratio.median, KINDS[name])], said, ratio.low, ratio.high))
            elif results.has(part, work, name):
                rows.append(BarRow(name, [], "no result"))
        groups.append(BarGroup(name_of_line, rows, f"{baseline}: {words.rate(base.median)}" if base else ""))
        table.append([name_of_line, *(spread_cell(found[name], words.scaled) for name in contestants)])
    if groups:
        chart = BarChart(groups, words.times, log=True)
        yield Figure(title, text + RATIO_TEXT.format(baseline), chart, Table([head, *contestants], table))


def spread_figure(
    title: str,
    text: str,
    found: Mapping[str, Spread | None],
    form: Format,
    more: Callable[[str], list[str]] = lambda name: [],
    heads: Sequence[str] = (),
) -> Iterator[Figure]:
    """Medians, with the slowest and the fastest round."""
    there = {name: each for name, each in found.items() if each}
    rows = [
        BarRow(name, [Segment(each.median, KINDS[name])], form(each.median), each.low, each.high)
        for name, each in there.items()
    ]
    table = [
        [name, form(each.median), f"{form(each.low)} to {form(each.high)}", *more(name)]
        for name, each in there.items()
    ]
    if rows:
        chart = BarChart([BarGroup("", rows)], form)
        yield Figure(title, text, chart, Table(["", "median", "all rounds", *heads], table))


def curve_figure(
    results: Results, title: str, text: str, part: str, work: str, names: Sequence[str]
) -> Iterator[Figure]:
    """Percentiles: the median over the rounds, for each percentile by itself."""
    curves = []
    for name in names:
        if found := [result["microseconds"] for result in results.of(part, work, name).values()]:
            points = [(point, median(each[f"{point:g}"] for each in found)) for point in POINTS]
            curves.append(Curve(name, KINDS[name], points))
    rows = [[curve.name, *(words.time(dict(curve.points)[point]) for point in NAMED)] for curve in curves]
    if curves:
        how = "A curve shows how many of 100 take at most so long: a rise at the right end means that a few"
        " are slow."
        table = Table(["", *(f"p{point:g}" for point in NAMED)], rows)
        yield Figure(title, f"{text} {how}".strip(), CurveChart(curves, words.time), table)


# -- the sections ----------------------------------------------------------------------------------


def sections(results: Results) -> list[Section]:
    """All sections with figures. What was not measured is left out."""
    found = [
        Section(
            "What a fault costs",
            "The same fault on every queue, with real processes. Shown is the worst trial of each"
            " contestant.",
            [*fault_figures(results)],
        ),
        Section(
            "What a queue costs", "From one process to another on this machine.", [*queue_figures(results)]
        ),
        Section(
            "The download over each queue",
            "Pictures are fetched from a server on this machine, and every saved file is compared with its"
            " picture. This is the loop of a tutorial, which writes straight under the final name;"
            " nearfar's own producer and consumer do more, and are not measured here.",
            [*download_figures(results)],
        ),
        Section(
            "What a pool costs",
            "Two workers and the same calls. All workers of a far pool connect to its address, as from"
            " another machine. Of faults, the worst trial is shown.",
            [*pool_figures(results)],
        ),
    ]
    return [section for section in found if section.figures]


def fault_figures(results: Results) -> Iterator[Figure]:
    yield from fate_figure(
        results,
        "Where the items are after a fault",
        "One producer sends numbered items through a queue that takes at most 1,000, to two consumers that"
        " work half a millisecond on each.",
        [("faults", name, fault.text) for name, fault in FAULTS.items()],
        QUEUES,
        ITEMS,
        {
            "handled twice": lambda trials: f"{max(trial['duplicated'] for trial in trials):,}",
            "stuck for": lambda trials: _stuck_for(ITEMS.worst(trials)),
            "longest pause": lambda trials: words.time(max(trial["pause"] for trial in trials) * 1e6),
        },
    )


def _stuck_for(trial: dict[str, Any]) -> str:
    return words.time(trial["stuck_for"] * 1e6) if trial["stuck"] else "-"


def queue_figures(results: Results) -> Iterator[Figure]:
    for mode, (title, text) in MODES.items():
        lines = [
            (words.bytes_of(size), "queue", "throughput", rate_of(mode, size))
            for size in sizes_of(results, mode)
        ]
        yield from ratio_figure(
            results, f"Throughput, {title}", text, lines, QUEUES, f"items per second, {title}"
        )
    yield from curve_figure(results, "Round trips", "", "queue", "latency", QUEUES)
    yield from memory_figure(results)
    where = ("queue", "start-up")
    yield from spread_figure(
        "From start to the first item",
        "The time from the start of an interpreter, imports included, until another process has the first"
        " item.",
        {name: results.spread(*where, name, entry("milliseconds")) for name in QUEUES},
        words.milliseconds,
        lambda name: [median_cell(results.spread(*where, name, entry("interpreter")), words.milliseconds)],
        ["of it, the interpreter alone"],
    )


def median_cell(found: Spread | None, form: Format) -> str:
    return form(found.median) if found else "-"


def memory_figure(results: Results) -> Iterator[Figure]:
    rows, table = [], []
    for name in QUEUES:
        for result in results.of("queue", "memory", name).values():
            whole = f"{sum(result.values()):,.0f}"
            segments = [Segment(result[role], role) for role in ROLES if role in result]
            rows.append(BarRow(name, segments, f"{whole} bytes"))
            table.append([name, *(f"{result[r]:,.0f}" if r in result else "-" for r in ROLES), whole])
    if rows:
        yield Figure(
            "Memory for each waiting item",
            "Items of 1 KiB wait in an unbounded queue whose consumer is connected and does not get them. A"
            " far queue holds each twice, in the host and in its producer; so a host that is restarted"
            " loses none of them.",
            BarChart([BarGroup("", rows)], lambda value: f"{value:,.0f}"),
            Table(["bytes for each item of 1 KiB", *ROLES.values(), "together"], table),
            list(ROLES.items()),
        )


def download_figures(results: Results) -> Iterator[Figure]:
    yield from spread_figure(
        "Files per second",
        "One process fetches and puts, two get and save.",
        {name: results.spread("download", "getfile", name, entry("rate")) for name in QUEUES},
        lambda value: f"{words.plain(value)}/s",
        lambda name: [f"{min(each['good'] for each in trials_of(results, 'download', 'getfile', name)):,}"],
        ["files saved correctly"],
    )
    yield from fate_figure(
        results,
        "One of two saving processes is killed",
        "With kill -9, while it works. Saving takes three milliseconds longer here, as on a slow disk, so"
        " that files wait.",
        [("download", "getfile killed", "")],
        QUEUES,
        FILES,
    )


def pool_figures(results: Results) -> Iterator[Figure]:
    yield from fate_figure(
        results,
        "What becomes of the tasks when a worker is killed",
        "A task that kills its own worker has to fail, best with an error that says so; every"
        " other task could have been answered.",
        [("pool", name, text) for name, (text, _) in WORKER_DEATHS.items()],
        POOLS,
        TASKS,
        {"error": lambda trials: TASKS.worst(trials)["error"] or "-"},
    )
    yield from ratio_figure(
        results,
        "Tasks per second",
        "Tasks that do nothing, so that only the cost of the pool is left.",
        [
            ("submitted one by one", "pool", "speed", entry("singly")),
            ("map over a list of numbers, default chunks", "pool", "speed", entry("map")),
        ],
        POOLS,
        "tasks per second",
    )
    text = "Submit one task that does nothing, and wait for its result."
    yield from curve_figure(results, "One blocking call", text, "pool", "speed", POOLS)
    yield from spread_figure(
        "From opening to the first result",
        "In an interpreter that has imported everything. The workers of a far pool are a program of their"
        " own, whose start is included.",
        {name: results.spread("pool", "speed", name, entry("start")) for name in POOLS},
        words.milliseconds,
    )
