"""Queues side by side: `multiprocessing.Queue` (fork), which is 1, bare PUSH/PULL, nearfar near and far.

One producer and one consumer on this machine, or fifty of each. The consumer's process hosts the far queues,
except where a host of its own is said; ``nearfar queue`` is the program with its default options.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks import tables
from benchmarks.queue_ends import Opening, far, near, raw, shipped, standard
from benchmarks.queue_figures import FIGURES

STANDARD = "multiprocessing.Queue"
NOTE = "Of rates more is better, of times less."
CONTESTANTS: dict[str, Opening] = {
    STANDARD: standard,
    "PUSH/PULL, ipc": raw,
    "near": near,
    "far, ipc": far("ipc"),
    "far, tcp": far("tcp"),
    "far, tcp, own host": far("tcp", apart=True),
    "far, nearfar queue": shipped,
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
    parser = tables.make_parser("benchmarks.queue", __doc__, figures=True)
    parser.add_argument(
        "--of", action="append", default=[], metavar="QUEUE", help="only this one, and the standard's"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
