"""Queues side by side: `multiprocessing.Queue` (fork), which is 1, bare PUSH/PULL, nearfar near and far.

One producer and one consumer on this machine. The consumer's process hosts the far queues, except where a
host of its own is said.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import tables
from benchmarks.queue_ends import Opening, far, near, raw, standard
from benchmarks.queue_figures import FIGURES
from nearfar.programs.arguments import positive

STANDARD = "multiprocessing.Queue"
NOTE = "Of rates more is better, of times less."
CONTESTANTS: dict[str, Opening] = {
    STANDARD: standard,
    "PUSH/PULL, ipc": raw,
    "near": near,
    "far, ipc": far("ipc"),
    "far, tcp": far("tcp"),
    "far, tcp, own host": far("tcp", apart=True),
    "far, tcp, keys": far("tcp", "keys"),
    "far, tcp, insecure": far("tcp", "insecure"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a Markdown table, and write both forms."""
    options = make_parser().parse_args(argv)
    figures = [figure for figure in FIGURES if options.only in figure.name]
    chosen = {name: each for name, each in CONTESTANTS.items() if name in (options.of or CONTESTANTS)}
    if not figures or len(chosen) < len(options.of):
        print(f"there is no such figure or queue; queues: {'; '.join(CONTESTANTS)}", file=sys.stderr)
        return 2
    contestants = {STANDARD: standard} | chosen
    share, rounds = (0.1, min(options.rounds, 3)) if options.quick else (1.0, options.rounds)
    rows = [tables.row(figure, share, contestants, rounds, STANDARD) for figure in figures]
    tables.publish(tables.result(rows, list(contestants), STANDARD, rounds), options.output, "queue", NOTE)
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("benchmarks.queue", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="a tenth of everything, in 3 rounds at most")
    add("--rounds", type=positive, default=5, metavar="N", help="of each contestant (%(default)s)")
    add("--only", default="", metavar="WORDS", help="only the figures with these words in their names")
    add("--of", action="append", default=[], metavar="QUEUE", help="only this one, and the standard's")
    add("-o", "--output", type=Path, default=Path("bench-results"), metavar="DIR", help="(%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
