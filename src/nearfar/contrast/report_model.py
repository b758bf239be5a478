"""What a report consists of, as plain data; the results of a run, found by name; and figures in words.
Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from nearfar.contrast.settings import (
    EXECUTOR,
    FAR_IPC,
    FAR_TCP,
    NEAR,
    POOL,
    QUEUE,
    RAW,
    REDIS,
    Spread,
    ratios,
    spread,
)
from nearfar.queues.base import Promises

if TYPE_CHECKING:
    from rich.table import Table as RichTable

KINDS = {
    QUEUE: "standard",
    POOL: "standard",
    RAW: "raw",
    EXECUTOR: "raw",
    NEAR: "near",
    FAR_IPC: "ipc",
    FAR_TCP: "tcp",
    REDIS: "redis",
}
"""The colour of each contestant, as a class of the style sheet."""

PROMISES = {
    "bounded": "the bound is exact, over all processes",
    "fifo": "each producer's items come out in their order",
    "crosses_machines": "reaches other machines",
    "redelivers": "what a killed consumer held goes to another",
    "survives_killed_consumer": "a killed consumer never stalls the others",
    "survives_killed_host": "a restarted host loses nothing of live producers",
    "counts_end": "iteration ends by itself when all is done",
    "dead_letters": "an item that keeps failing is put aside",
    "confirms_puts": "what was put survives its producer at once",
    "durable": "items outlive their processes and a kill of the server",
    "survives_power_cut": "what was put is on the disk already",
}
"""What each field of `Promises` means."""

Format = Callable[[float], str]
Pick = Callable[[Any], float | None]
"""Takes one figure from a result; None if it has no such figure."""
Document = dict[str, Any]
"""See `runner.document`."""

# -- what is shown ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar, beginning where the one before it ends."""

    value: float
    kind: str


@dataclass(frozen=True, slots=True)
class BarRow:
    """One bar, its name, and the text at its end."""

    name: str
    segments: Sequence[Segment]
    text: str
    low: float | None = None
    """The lowest of all rounds. With `high`, it is shown as a whisker."""
    high: float | None = None


@dataclass(frozen=True, slots=True)
class BarGroup:
    """Bars under one title."""

    title: str
    rows: Sequence[BarRow]
    text: str = ""


@dataclass(frozen=True, slots=True)
class BarChart:
    """Horizontal bars on one axis. On a logarithmic axis they grow from 1 to both sides, and have one
    segment."""

    groups: Sequence[BarGroup]
    tick: Format
    log: bool = False
    most: float | None = None
    """The end of a linear axis; None: as the longest bar needs it."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Percentiles of one contestant."""

    name: str
    kind: str
    points: Sequence[tuple[float, float]]
    """Percentile and value."""


@dataclass(frozen=True, slots=True)
class CurveChart:
    """Percentiles from left to right, values upwards on a logarithmic axis."""

    curves: Sequence[Curve]
    tick: Format


@dataclass(frozen=True, slots=True)
class Table:
    """The first column holds names."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    """A row of one cell is a heading for those below it."""

    def drawn(self) -> RichTable:
        """The table as rich prints it on a terminal."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as RichTable

        drawn = RichTable(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for index, head in enumerate(self.heads):
            lines = "\n".join(wrap(head, 8, break_long_words=False))
            drawn.add_column(lines, justify="right" if index else "left", no_wrap=index > 0)
        for row in self.rows:
            drawn.add_row(*row)
        return drawn


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart, and the same figures as a table."""

    title: str
    """Also the key of its text."""
    chart: BarChart | CurveChart
    table: Table
    legend: Sequence[tuple[str, str]] = ()
    """Kinds and their meaning, where that is not written at each bar."""


@dataclass(frozen=True, slots=True)
class Section:
    """Figures on one subject."""

    title: str
    """Also the key of its text."""
    figures: Sequence[Figure]


@dataclass(frozen=True, slots=True)
class ContrastReport:
    """Everything that a report shows, on a terminal and as a page."""

    texts: Mapping[str, Any]
    """What is the same in every report: see ``texts.toml``."""
    findings: Sequence[str]
    summary: Sequence[tuple[str, Table]]
    promises: Table
    sections: Sequence[Section]
    setting: Sequence[tuple[str, str]]
    """Where and how this was measured."""
    troubles: Sequence[str]
    """Measurements without a result."""


def promise_table(queues: Mapping[str, Promises]) -> Table:
    """A row for each promise, a column for each queue."""
    rows = [
        [meaning, *("yes" if getattr(each, field) else "no" for each in queues.values())]
        for field, meaning in PROMISES.items()
    ]
    return Table(["", *queues], rows)


def queue_promises() -> dict[str, Promises]:
    """What the near and the hosted queues promise, as they say themselves."""
    from nearfar import Queue

    near = Queue()
    near.close()
    promises = {NEAR: near.promises()}
    for name, address in ((FAR_IPC, "ipc:///run/nearfar"), (FAR_TCP, "tcp://192.0.2.1:5555")):
        promises[name] = Queue.connect(address, insecure=True).promises()  # nothing is sent
    return promises


# -- what was measured -----------------------------------------------------------------------------


class Results:
    """The outcomes of a document, found by part, work and contestant."""

    def __init__(self, document: Document) -> None:
        self._outcomes: list[dict[str, Any]] = document["outcomes"]
        self._planned: int = document["planned"]

    def of(self, part: str, work: str, contestant: str) -> dict[int, Any]:
        """The results by turn, without those that have none."""
        wanted = (part, work, contestant)
        return {
            each["turn"]: each["result"]
            for each in self._outcomes
            if (each["part"], each["work"], each["contestant"]) == wanted and not each["trouble"]
        }

    def tried(self, contestant: str) -> bool:
        """Whether any measurement of it was tried, with or without a result."""
        return any(each["contestant"] == contestant for each in self._outcomes)

    def has(self, part: str, work: str, contestant: str | None = None) -> bool:
        """Whether it was tried, with or without a result."""
        return any(
            (each["part"], each["work"]) == (part, work) and contestant in (None, each["contestant"])
            for each in self._outcomes
        )

    def troubles(self) -> list[str]:
        """A line for each measurement without a result, and one for those that were not begun."""
        lines = [
            f"{each['part']}: {each['work']}, {each['contestant']}: {each['trouble']}"
            for each in self._outcomes
            if each["trouble"]
        ]
        done = len(self._outcomes)
        return [*lines, f"stopped after {done} of {self._planned}"] if done < self._planned else lines

    def values(self, part: str, work: str, contestant: str, pick: Pick) -> dict[int, float]:
        """One figure of each turn that has it."""
        picked = {turn: pick(result) for turn, result in self.of(part, work, contestant).items()}
        return {turn: value for turn, value in picked.items() if value is not None}

    def spread(self, part: str, work: str, contestant: str, pick: Pick) -> Spread | None:
        """One figure over all turns."""
        values = self.values(part, work, contestant, pick)
        return spread(list(values.values())) if values else None

    def ratio(self, part: str, work: str, contestant: str, baseline: str, pick: Pick) -> Spread | None:
        """One figure divided by that of the baseline, within each turn."""
        mine, theirs = (self.values(part, work, each, pick) for each in (contestant, baseline))
        return ratios(mine, theirs)


# -- figures in words ------------------------------------------------------------------------------


def plain(value: float) -> str:
    """Three significant digits: ``1,234,000``, ``28.3``, ``0.0123``."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{float(f'{value:.3g}'):.10f}".rstrip("0").rstrip(".")


def scaled(value: float) -> str:
    """``28.3 k``, ``1.23 M``; no unit below 1,000."""
    for power, letter in ((1e6, " M"), (1e3, " k")):
        if value >= power * 0.9995:
            return f"{plain(float(f'{value / power:.3g}'))}{letter}"
    return plain(float(f"{value:.3g}"))


def rate(value: float) -> str:
    """Per second."""
    return f"{scaled(value)}/s"


def times(value: float) -> str:
    """A ratio, with two significant digits: ``5.2×``."""  # noqa: RUF002 - the sign that is meant
    return f"{plain(float(f'{value:.2g}'))}×"  # noqa: RUF001


def time(microseconds: float) -> str:
    """``66 µs``, ``1.5 ms``, ``2.1 s``."""
    for power, unit in ((1e6, "s"), (1e3, "ms")):
        if microseconds >= power * 0.9995:
            return f"{plain(float(f'{microseconds / power:.3g}'))} {unit}"
    return f"{plain(float(f'{microseconds:.3g}'))} µs"


def milliseconds(value: float) -> str:
    return f"{value:,.0f} ms"


def bytes_of(value: float) -> str:
    """``100 B``, ``10 KiB``, ``1 MiB``."""
    for power, unit in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if value >= power:
            return f"{plain(float(f'{value / power:.3g}'))} {unit}"
    return f"{value:.0f} B"


def share(value: float) -> str:
    """``44%``. A little is not shown as nothing, and almost all not as all."""
    percent = value * 100
    if 0 < percent < 1:
        return "<1%"
    if 99 < percent < 100:
        return ">99%"
    return f"{percent:.0f}%"
