"""Figures side by side as one table, in Markdown and in JSON.

A result is ``{rounds, machine, contestants, yardstick, figures}``; a figure is ``{name, unit, "more is
better", values, ratios}``, a `Spread` for each contestant that has it. Ratios are to the yardstick, within a
round.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from benchmarks.rounds import Spread, machine, spread, turns, write_json
from nearfar.cli.options import positive
from nearfar.output import write


def make_parser(program: str, about: str | None, *, figures: bool = False) -> argparse.ArgumentParser:
    """The options that all have; those that measure many `figures` can do less of it."""
    parser = argparse.ArgumentParser(program, description=about)
    add = parser.add_argument
    add("--rounds", type=positive, default=5, metavar="N", help="of each contestant (%(default)s)")
    add("-o", "--output", type=Path, default=Path("bench-results"), metavar="DIR", help="(%(default)s)")
    if figures:
        add("--quick", action="store_true", help="a tenth of everything, in 3 rounds at most")
        add("--only", default="", metavar="WORDS", help="only the figures with these words in their names")
    return parser


class Measured(Protocol):
    """What can be measured of each contestant."""

    name: str
    unit: str
    rate: bool
    """More is better."""
    measure: Callable[[Any, Any], float]
    """Of a contestant, at sizes that are its own business."""


def figure(
    name: str, unit: str, values: Mapping[str, Sequence[float]], yardstick: str, *, rate: bool
) -> dict[str, Any]:
    """One line of a table, from every contestant's values in the rounds. `rate`: more is better."""
    ideal = values[yardstick]
    measured = {contestant: each for contestant, each in values.items() if each}
    return {
        "name": name,
        "unit": unit,
        "more is better": rate,
        "values": {contestant: asdict(spread(each)) for contestant, each in measured.items()},
        "ratios": {
            contestant: asdict(spread([a / b for a, b in zip(each, ideal, strict=True)]))
            for contestant, each in measured.items()
        },
    }


def row(
    measured: Measured, sizes: Any, contestants: Mapping[str, Any], rounds: int, yardstick: str
) -> dict[str, Any]:
    """One line of a table: every contestant in alternating rounds, begun by another one each time.

    One that has no such figure raises `NotImplementedError`.
    """
    print(f"{measured.name} ...", file=sys.stderr, flush=True)
    names = list(contestants)
    values: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in turns(names, number):
            with suppress(NotImplementedError):
                values[name].append(measured.measure(contestants[name], sizes))
    return figure(measured.name, measured.unit, values, yardstick, rate=measured.rate)


def result(
    figures: Sequence[dict[str, Any]], contestants: Sequence[str], yardstick: str, rounds: int
) -> dict[str, Any]:
    """The whole table."""
    return {
        "rounds": rounds,
        "machine": machine(),
        "contestants": list(contestants),
        "yardstick": yardstick,
        "figures": list(figures),
    }


def publish(made: dict[str, Any], folder: Path, name: str, note: str) -> None:
    """Print the table, and write both forms of it."""
    table = markdown(made, note)
    print(table)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", made)
    write(folder / f"{name}.md", table)


def markdown(made: dict[str, Any], note: str) -> str:
    """A line for each figure: the yardstick's value, and for each contestant its own and the ratio."""
    yardstick = made["yardstick"]
    names = [name for name in made["contestants"] if name != yardstick]
    where = ", ".join(f"{key} {value}" for key, value in made["machine"].items())
    lines = [
        f"{made['rounds']} alternating rounds; {where}. Medians; ratios to {yardstick} within a round, with"
        f" quartiles. {note}",
        "",
        f"| | {yardstick} | {' | '.join(names)} |",
        "|---|---|" + "---|" * len(names),
    ]
    for each in made["figures"]:
        cells = [f"{each['name']}, {each['unit']}".removesuffix(", ")]
        cells.append(number(each["values"][yardstick]["median"]))
        cells += [cell(each, name) for name in names]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cell(each: dict[str, Any], name: str) -> str:
    if name not in each["values"]:
        return "-"
    value, ratio = each["values"][name]["median"], Spread(**each["ratios"][name])
    return f"{number(value)}: **{ratio.median:.2f}** ({ratio.low:.2f}-{ratio.high:.2f})"


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
