"""Pools side by side: `multiprocessing.Pool` (fork), which is 1, against nearfar near and far, and others.

Two workers each, on this machine. Far ones come over loopback: to a coordinator of its own, without and with
keys, or to one in the caller's process (hosted). Of the machine alone: `benchmarks.pool_machines`; of a
million tasks: `benchmarks.pool_million`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from benchmarks import pool_peers, tables
from benchmarks.pool_figures import FIGURES, FULL, QUICK
from benchmarks.pool_runners import Opening, executor, far_workers, hosting, keys, near, standard

STANDARD = "multiprocessing.Pool"
NOTE = "Started by fork, but where it says spawn. Of rates and efficiency more is better, of all else less."


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a Markdown table, and write both forms."""
    options = make_parser().parse_args(argv)
    figures = [figure for figure in FIGURES if options.only in figure.name]
    if not figures:
        print(f"no figure is called {options.only!r}", file=sys.stderr)
        return 2
    sizes, rounds = (QUICK, min(options.rounds, 3)) if options.quick else (FULL, options.rounds)
    with ExitStack() as stack:
        contestants: dict[str, Opening] = {STANDARD: standard, "nearfar near": near}
        contestants["nearfar far"] = stack.enter_context(far_workers())
        contestants["far, keys"] = stack.enter_context(far_workers(stack.enter_context(keys())))
        contestants["far, hosted"] = stack.enter_context(hosting())
        if not options.ours:
            contestants |= {"ProcessPoolExecutor": executor, **pool_peers.installed()}
        rows = [tables.row(figure, sizes, contestants, rounds, STANDARD) for figure in figures]
    result = tables.result(rows, list(contestants), STANDARD, rounds)
    tables.publish(result, options.output, "pool", NOTE)
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = tables.make_parser("benchmarks.pool", __doc__, figures=True)
    parser.add_argument("--ours", action="store_true", help="only the standard's pool and nearfar's")
    return parser


if __name__ == "__main__":
    sys.exit(main())
