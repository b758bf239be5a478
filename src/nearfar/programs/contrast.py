"""``nearfar contrast``: the same work and the same faults over every transport and every pool, measured on
this machine."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from nearfar.contrast.jobs import PARTS, Batch, plan
from nearfar.contrast.report.build import build
from nearfar.contrast.report.page import page
from nearfar.contrast.report.terminal import terminal
from nearfar.contrast.results import document
from nearfar.contrast.runner import Outcome, Runner
from nearfar.contrast.settings import FULL, QUICK, Settings
from nearfar.programs.common import Exit, StopRequest, why


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write; return an exit code (`Exit`): `FAILED` if a measurement came to no result.

    A signal ends the measuring, not the report: it is made of what there is by then.
    """
    options = make_parser().parse_args(argv)
    targets = [path for path in (options.output, options.json) if path is not None]
    for path in targets:
        if complaint := unwritable(path):
            print(f"nearfar contrast: {complaint}", file=sys.stderr)
            return Exit.USAGE
    for signum in StopRequest.SIGNALS:
        signal.signal(signum, interrupt)
    settings = QUICK if options.quick else FULL
    batches = list(plan(options.only or PARTS, settings))
    outcomes: list[Outcome] = []
    stopped = 0
    begun, load = time.monotonic(), os.getloadavg()[0]
    try:
        measure(batches, settings, outcomes, quiet=options.quiet)
    except KeyboardInterrupt as interruption:
        stopped = int(interruption.args[0])
        if not outcomes:
            print("\nstopped; nothing is written", file=sys.stderr)
            return 128 + stopped
        print("\nstopped; what was measured is written", file=sys.stderr)
    planned = sum(len(batch.jobs) for batch in batches)
    took = time.monotonic() - begun
    result = document(settings, outcomes, planned=planned, took=took, load=load)
    report = build(result)
    print(terminal(report), end="")
    try:
        options.output.write_text(page(report), encoding="utf-8")
        if options.json is not None:
            options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        print(f"nearfar contrast: {why(error)}", file=sys.stderr)
        return Exit.FAILED
    print(f"\nwritten: {', '.join(map(str, targets))}")
    return 128 + stopped if stopped else Exit.FAILED if report.troubles else Exit.OK


def make_parser() -> argparse.ArgumentParser:
    """The command line of this program."""
    parser = argparse.ArgumentParser(
        "nearfar contrast",
        description="The same work and the same faults over multiprocessing, bare ZeroMQ and nearfar,"
        " measured on this machine: a table here, and a page with charts.",
    )
    add = parser.add_argument
    add(
        "-o",
        "--output",
        type=Path,
        default=Path("nearfar-contrast.html"),
        metavar="FILE",
        help="the page, one file that needs nothing else (%(default)s)",
    )
    add("--json", type=Path, metavar="FILE", help="every outcome, for programs")
    add("--only", action="append", choices=PARTS, help="leave out the other parts; may be said again")
    add("--quick", action="store_true", help="a minute or two, instead of several: fewer rounds, less sure")
    add("-q", "--quiet", action="store_true", help="no progress on standard error")
    return parser


def unwritable(path: Path) -> str:
    """Why a file cannot be there, before minutes are spent; empty if it can."""
    if path.is_dir():
        return f"{path} is a directory: name a file"
    try:
        existed = path.exists()
        path.open("ab").close()
        if not existed:
            path.unlink()
    except OSError as error:
        return why(error)
    return ""


def measure(batches: Sequence[Batch], settings: Settings, outcomes: list[Outcome], *, quiet: bool) -> None:
    """Add every outcome to `outcomes` as it comes, with a line of progress for each."""
    total = sum(len(batch.jobs) for batch in batches)

    def note(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if not quiet:
            trouble = f": {outcome.trouble}" if outcome.trouble else ""
            print(f"[{len(outcomes)}/{total}] {outcome.job}{trouble}", file=sys.stderr, flush=True)

    with Runner(settings, note) as runner:
        for batch in batches:
            runner.run(batch)


def interrupt(signum: int, frame: FrameType | None) -> None:
    """Unwind from wherever it is, so that what was started ends with it."""
    raise KeyboardInterrupt(signum)
