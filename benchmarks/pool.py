"""Pools side by side: `multiprocessing.Pool` (fork), which is 1, against nearfar near and far, and executors.

Two workers each, on this machine; far ones are behind a coordinator of its own, over tcp on loopback.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.pool_figures import FIGURES, FULL, QUICK
from benchmarks.pool_runners import Opening, executor, far_workers, loky, near, standard
from benchmarks.rounds import Spread, machine, spread, write_json
from nearfar.programs.arguments import positive

STANDARD = "multiprocessing.Pool"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a Markdown table, and write both forms."""
    options = make_parser().parse_args(argv)
    figures = [figure for figure in FIGURES if options.only in figure.name]
    if not figures:
        print(f"no figure is called {options.only!r}", file=sys.stderr)
        return 2
    sizes, rounds = (QUICK, min(options.rounds, 3)) if options.quick else (FULL, options.rounds)
    contestants: dict[str, Opening] = {STANDARD: standard, "nearfar near": near}
    with far_workers() as far:
        contestants["nearfar far"] = far
        if not options.ours:
            contestants["ProcessPoolExecutor"] = executor
            if find_spec("loky") is not None:
                contestants["loky"] = loky
        rows = [row(figure, sizes, contestants, rounds) for figure in figures]
    result = {"rounds": rounds, "machine": machine(), "contestants": list(contestants), "figures": rows}
    table = markdown(result)
    print(table)
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / "pool.json", result)
    (options.output / "pool.md").write_text(table, encoding="utf-8")
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("benchmarks.pool", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="a tenth of everything, in 3 rounds at most")
    add("--rounds", type=positive, default=5, metavar="N", help="of each contestant (%(default)s)")
    add("--only", default="", metavar="WORDS", help="only the figures with these words in their names")
    add("--ours", action="store_true", help="only the standard's pool and nearfar's")
    add("-o", "--output", type=Path, default=Path("bench-results"), metavar="DIR", help="(%(default)s)")
    return parser


def row(
    figure: Any, sizes: Any, contestants: Mapping[str, Any], rounds: int, ideal_one: str = STANDARD
) -> dict[str, Any]:
    """One figure of every contestant, in alternating rounds, begun by another one each time."""
    print(f"{figure.name} ...", file=sys.stderr, flush=True)
    names = list(contestants)
    values: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        shift = number % len(names)
        for name in (*names[shift:], *names[:shift]):
            try:
                values[name].append(figure.measure(contestants[name], sizes))
            except NotImplementedError:
                continue
    ideal = values[ideal_one]
    return {
        "name": figure.name,
        "unit": figure.unit,
        "more is better": figure.rate,
        "values": {name: asdict(spread(each)) for name, each in values.items() if each},
        "ratios": {
            name: asdict(spread([a / b for a, b in zip(each, ideal, strict=True)]))
            for name, each in values.items()
            if each
        },
    }


def markdown(result: dict[str, Any], ideal_one: str = STANDARD) -> str:
    """A line for each figure: the standard's value, and for each contestant its own and the ratio."""
    names = [name for name in result["contestants"] if name != ideal_one]
    where = ", ".join(f"{key} {value}" for key, value in result["machine"].items())
    lines = [
        f"{result['rounds']} alternating rounds; {where}. Medians; ratios to {ideal_one} within a round, with"
        " quartiles. Started by fork, but where it says spawn. Of rates and efficiency more is better, of"
        " everything else less.",
        "",
        f"| | {ideal_one} | {' | '.join(names)} |",
        "|---|---|" + "---|" * len(names),
    ]
    for each in result["figures"]:
        cells = [f"{each['name']}, {each['unit']}".removesuffix(", ")]
        cells.append(number(each["values"][ideal_one]["median"]))
        cells += [cell(each, name) for name in names]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cell(figure: dict[str, Any], name: str) -> str:
    if name not in figure["values"]:
        return "-"
    value, ratio = figure["values"][name]["median"], Spread(**figure["ratios"][name])
    return f"{number(value)}: **{ratio.median:.2f}** ({ratio.low:.2f}-{ratio.high:.2f})"


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
