"""From the document of a run to a report: what was found, summary tables, figures; as text for a terminal
(rich), and as one HTML page that needs no network and no script (jinja2).
"""

from __future__ import annotations

import io
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console, RenderableType
from rich.table import Table as RichTable

from nearfar.contrast import report_model as words
from nearfar.contrast.charts import place_bars, place_curves
from nearfar.contrast.faults import FAULTS
from nearfar.contrast.figures import (
    FILES,
    ITEMS,
    MODES,
    TASKS,
    Fates,
    entry,
    median_cell,
    percentile,
    rate_of,
    sections,
    sizes_of,
    trials_of,
)
from nearfar.contrast.pools import WORKER_DEATHS
from nearfar.contrast.report_model import (
    BarChart,
    ContrastReport,
    Document,
    Format,
    Pick,
    Results,
    Table,
    promise_table,
    queue_promises,
)
from nearfar.contrast.settings import FAR_IPC, FAR_TCP, NEAR, POOL, POOLS, QUEUE, QUEUES, RAW, REDIS
from nearfar.queues.redis import promises_of

FOLDER = Path(__file__).parent
PRODUCER_FAULTS = [name for name, fault in FAULTS.items() if fault.producer_dies]
"""Apart from the others: what has not left a producer is lost with it, on every queue but that in Redis."""
OTHER_FAULTS = [name for name, fault in FAULTS.items() if not fault.producer_dies]
LEAST_WIDTH = 80
"""Characters of a line; every table fits into them."""
BUSY = 0.5
"""Load for each core above which times are not reliable."""


def build_report(document: Document) -> ContrastReport:
    """The whole report. What was not measured is left out."""
    results = Results(document)
    texts = tomllib.loads((FOLDER / "texts.toml").read_text(encoding="utf-8"))
    promises = queue_promises()
    if document["machine"]["redis"]:
        promises[REDIS] = promises_of(durable=True)
    else:
        texts["methods"].append(texts["without_redis"])
    return ContrastReport(
        texts=texts,
        findings=[*busy_warning(document), *findings(results)],
        summary=[*summary(results)],
        promises=promise_table(promises),
        sections=sections(results),
        setting=setting(document),
        troubles=results.troubles(),
    )


# -- the summary -----------------------------------------------------------------------------------

Column = tuple[str, Callable[[str], str]]


def summary(results: Results) -> Iterator[tuple[str, Table]]:
    """Small tables of the main figures of all contestants. Every size that was measured is in them."""

    def measured(title: str, part: str, work: str, pick: Pick, form: Format) -> Column:
        return title, lambda name: median_cell(results.spread(part, work, name, pick), form)

    def harm(title: str, part: str, works: Sequence[str], fates: Fates, what: str) -> Column:
        return title, partial(harm_cell, results, part, works, fates, what)

    trip, speed = ("queue", "latency"), ("pool", "speed")
    faults = [
        harm("lost", "faults", OTHER_FAULTS, ITEMS, "lost"),
        harm("lost with its producer", "faults", PRODUCER_FAULTS, ITEMS, "lost"),
        harm("stuck", "faults", list(FAULTS), ITEMS, "stuck"),
        harm("handled twice", "faults", list(FAULTS), ITEMS, "duplicated"),
    ]
    costs = [
        *(measured(f"round trip p{point}", *trip, percentile(point), words.time) for point in ("50", "99")),
        measured(
            "memory per 1 KiB item", "queue", "memory", lambda r: float(sum(r.values())), words.bytes_of
        ),
        measured("start", "queue", "start-up", entry("milliseconds", 1e3), words.time),
        measured("files/s", "download", "getfile", entry("rate"), words.plain),
    ]
    pools = [
        harm("failed", "pool", list(WORKER_DEATHS), TASKS, "failed"),
        harm("never answered", "pool", list(WORKER_DEATHS), TASKS, "hung"),
    ]
    speeds = [
        measured("tasks/s one by one", *speed, entry("singly"), words.scaled),
        measured("tasks/s by map", *speed, entry("map"), words.scaled),
        *(measured(f"call p{point}", *speed, percentile(point), words.time) for point in ("50", "99")),
        measured("start", *speed, entry("start", 1e3), words.time),
    ]
    tables: list[tuple[str, Sequence[str], list[Column]]] = [
        ("Queues: items after faults", QUEUES, faults),
        ("Queues: time and memory", QUEUES, costs),
    ]
    for mode, title in MODES.items():
        columns = [
            measured(words.bytes_of(size), "queue", "throughput", rate_of(mode, size), words.scaled)
            for size in sizes_of(results, mode)
        ]
        tables.append((f"Queues: items per second, {title}", QUEUES, columns))
    tables += [("Pools: tasks after faults", POOLS, pools), ("Pools: speed", POOLS, speeds)]
    for title, contestants, columns in tables:
        names = [name for name in contestants if results.tried(name)]
        cells = {head: [cell(name) for name in names] for head, cell in columns}
        shown = {head: column for head, column in cells.items() if set(column) != {"-"}}
        if shown:
            rows = [[name, *row] for name, row in zip(names, zip(*shown.values(), strict=True), strict=True)]
            yield title, Table(["", *shown], rows)


def harm_cell(results: Results, part: str, works: Sequence[str], fates: Fates, what: str, name: str) -> str:
    """A count over all faults, each in its worst trial."""
    found = [trials for work in works if (trials := trials_of(results, part, work, name))]
    if what == "duplicated":
        counts = [max(trial[what] for trial in trials) for trials in found]
    else:
        counts = [fates.worst(trials)[what] for trials in found]
    return f"{sum(counts):,}" if found else "-"


# -- findings --------------------------------------------------------------------------------------


def findings(results: Results) -> Iterator[str]:
    """What the figures say, in sentences; each one only if it was measured."""
    yield from _fault_findings(results)
    yield from _speed_findings(results)
    if worst := _worst(results, FILES, "download", "getfile killed", QUEUES):
        counts = ", ".join(f"{name} {each['torn'] + each['missing']:,}" for name, each in worst)
        wanted = worst[0][1]["wanted"]
        yield f"Files missing or incomplete, of {wanted:,}, with one of two savers killed: {counts}."
    if deaths := _worst(results, TASKS, "pool", "worker killed at work", POOLS):
        counts = ", ".join(f"{name} {each['failed']:,} and {each['hung']:,}" for name, each in deaths)
        tasks = deaths[0][1]["tasks"]
        yield f"Tasks failed and never answered, of {tasks:,}, when one task killed its worker: {counts}."


def _worst(
    results: Results, fates: Fates, group: str, fault: str, names: Iterable[str]
) -> list[tuple[str, dict[str, Any]]]:
    """The worst trial of each contestant in `names` that was tried."""
    tried = ((name, trials_of(results, group, fault, name)) for name in names)
    return [(name, fates.worst(trials)) for name, trials in tried if trials]


def _fault_findings(results: Results) -> Iterator[str]:
    for subject, faults in (
        ("when consumers or the host fail", OTHER_FAULTS),
        ("when the producer is killed right after a put", PRODUCER_FAULTS),
    ):
        parts = []
        alone = [(name, [name]) for name in (QUEUE, RAW, NEAR)]
        for label, names in (*alone, ("far", [FAR_IPC, FAR_TCP]), (REDIS, [REDIS])):
            found = [trial for fault in faults for _, trial in _worst(results, ITEMS, "faults", fault, names)]
            if found:
                sent, lost, stuck = (sum(trial[key] for trial in found) for key in ("sent", "lost", "stuck"))
                parts.append(f"{label} lost {lost:,} and left {stuck:,} stuck, of {sent:,}")
        if parts:
            yield f"Items {subject}, in the worst trials: {'; '.join(parts)}."


def _speed_findings(results: Results) -> Iterator[str]:
    for name in (NEAR, FAR_TCP, REDIS):
        parts = []
        for size in sizes_of(results, "singly"):
            pick = rate_of("singly", size)
            found = results.spread("queue", "throughput", name, pick)
            ratio = results.ratio("queue", "throughput", name, QUEUE, pick)
            if found and ratio:
                rate = f"{words.times(ratio.median)}, {words.rate(found.median)}"
                parts.append(f"{words.bytes_of(size)} {rate}")
        if parts:
            yield f"Throughput of the {name} queue one by one, against {QUEUE}: {'; '.join(parts)}."
    yield from _time_finding(results, "A round trip", ("queue", "latency"), QUEUE, (NEAR, FAR_TCP, REDIS))
    yield from _time_finding(results, "A blocking call of a pool", ("pool", "speed"), POOL, (NEAR, FAR_TCP))
    parts = [
        f"{name} {words.times(ratio.median)}"
        for name in (NEAR, FAR_TCP)
        if (ratio := results.ratio("pool", "speed", name, POOL, entry("singly")))
    ]
    if parts:
        yield f"Tasks per second submitted one by one, against {POOL}: {', '.join(parts)}."


def _time_finding(
    results: Results, subject: str, where: tuple[str, str], baseline: str, names: Sequence[str]
) -> Iterator[str]:
    base = results.spread(*where, baseline, percentile("50"))
    parts = []
    for name in names:
        found = results.spread(*where, name, percentile("50"))
        ratio = results.ratio(*where, name, baseline, percentile("50"))
        if found and ratio:
            parts.append(f"{words.time(found.median)} {name} ({words.times(ratio.median)})")
    if base and parts:
        yield f"{subject} takes {words.time(base.median)} with {baseline}, {', '.join(parts)} (median)."


def busy_warning(document: Document) -> Iterator[str]:
    """A warning where other programs used much of the machine."""
    machine = document["machine"]
    if machine["load"] >= machine["cores"] * BUSY:
        yield (
            f"The machine was busy when this began (load {machine['load']} on {machine['cores']} cores):"
            " the counts are valid, the times and rates are not reliable."
        )


def setting(document: Document) -> list[tuple[str, str]]:
    """Where and how this was measured."""
    machine, settings = document["machine"], document["settings"]
    cores = f"{machine['cores']} core{'s' * (machine['cores'] != 1)}"
    versions = ", ".join(f"{name} {machine[name]}" for name in ("nearfar", "pyzmq", "libzmq", "msgpack"))
    if machine["redis"]:
        versions += f", redis-server {machine['redis']}"
    ended = document["ended"].replace("T", " ").replace("+00:00", " UTC")
    return [
        ("machine", f"{machine['processor']}, {cores}, {machine['memory'] / 2**30:.1f} GiB"),
        ("system", machine["system"]),
        ("Python", machine["python"]),
        ("SHA-256", machine["sha256"]),
        ("libraries", versions),
        (
            "amount",
            f"{settings['rounds']} rounds of what is timed, {settings['trials']} trials of each fault",
        ),
        ("load", f"{machine['load']} in the minute before"),
        ("measured", f"{ended}, in {document['took']:.0f} s"),
    ]


# -- the two forms ---------------------------------------------------------------------------------


def page(report: ContrastReport) -> str:
    """The report as one HTML file."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.tests["bars"] = lambda chart: isinstance(chart, BarChart)
    environment.filters |= {"place_bars": place_bars, "place_curves": place_curves}
    environment.globals["style"] = (FOLDER / "style.css").read_text(encoding="utf-8")
    return environment.get_template("page.html.j2").render(report=report).strip() + "\n"


def terminal(report: ContrastReport, width: int) -> str:
    """The report as text, `width` characters wide, and at least 80.

    Details come first, so that what matters most ends next to the prompt.
    """
    stream, width = io.StringIO(), max(width, LEAST_WIDTH)
    console = Console(file=stream, width=width, color_system=None, highlight=False, markup=False, emoji=False)

    def show(title: str, shown: RenderableType) -> None:
        console.print(f"{title}\n")
        console.print(shown)
        console.print()

    def explain(title: str, pairs: Iterable[tuple[str, str]]) -> None:
        grid = RichTable.grid(padding=(0, 2))
        for pair in pairs:
            grid.add_row(*pair)
        show(title, grid)

    for section in report.sections:
        for figure in section.figures:
            show(f"{section.title}: {figure.title}", figure.table.drawn())
    show("What each queue promises", report.promises.drawn())
    console.print(f"{report.texts['promises']}\n")
    explain("The contestants", report.texts["contestants"].items())
    explain("Words", report.texts["words"].items())
    for title, table in report.summary:
        show(title, table.drawn())
    explain("When to use which", (("*", sentence) for sentence in report.texts["advice"]))
    if report.findings:
        explain("Found on this machine", (("*", sentence) for sentence in report.findings))
    if report.troubles:
        explain("Without a result", (("!", trouble) for trouble in report.troubles))
    explain("Where and how", report.setting)
    lines = stream.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"
