"""What a report consists of. Plain data: every word and every length is settled before anything is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nearfar.contrast import names

KINDS = {
    names.QUEUE: "standard",
    names.POOL: "standard",
    names.RAW: "raw",
    names.EXECUTOR: "raw",
    names.NEAR: "near",
    names.FAR_IPC: "ipc",
    names.FAR_TCP: "tcp",
}
"""The colour of each contestant, by its class in the style sheet."""

Say = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a bar, from where the one before it ended."""

    value: float
    kind: str


@dataclass(frozen=True, slots=True)
class Row:
    """One bar, its name, and what is said at its end."""

    name: str
    pieces: Sequence[Piece]
    said: str
    low: float | None = None
    """Of all rounds; with `high`, the whisker."""
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Group:
    title: str
    rows: Sequence[Row]
    text: str = ""
    """A line below the title."""


@dataclass(frozen=True, slots=True)
class Bars:
    """Lying bars in groups, on one axis.

    On a logarithmic axis they grow from `origin`, to both sides, and are of one piece each.
    """

    groups: Sequence[Group]
    tick: Say
    log: bool = False
    origin: float = 0.0
    most: float | None = None
    """The end of a linear axis; None: what the longest bar needs."""


@dataclass(frozen=True, slots=True)
class Curve:
    name: str
    kind: str
    points: Sequence[tuple[float, float]]
    """Percentile and value."""


@dataclass(frozen=True, slots=True)
class Curves:
    """Percentiles across, values upwards on a logarithmic axis."""

    curves: Sequence[Curve]
    tick: Say


@dataclass(frozen=True, slots=True)
class Table:
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing, and the same as a table."""

    title: str
    text: str
    drawing: Bars | Curves
    table: Table
    legend: Sequence[tuple[str, str]] = ()
    """Kinds, and what they stand for, where that is not written at each bar."""


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    text: str
    figures: Sequence[Figure]


@dataclass(frozen=True, slots=True)
class Report:
    findings: Sequence[str]
    glance: Sequence[tuple[str, Table]]
    """Small tables with a title each, of all contestants."""
    sections: Sequence[Section]
    setting: Sequence[tuple[str, str]]
    """Where and how this was measured: what, and its value."""
    methods: Sequence[str]
    gaps: Sequence[str]
    """What is not measured."""
    troubles: Sequence[str] = field(default=())
    """Measurements that came to no result."""
