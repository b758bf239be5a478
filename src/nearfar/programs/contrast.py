"""``nearfar contrast``: the same work and the same faults over every transport and every pool, measured on
this machine."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from nearfar.contrast.jobs import PARTS, Batch, plan
from nearfar.contrast.report.build import build
from nearfar.contrast.report.page import page
from nearfar.contrast.report.terminal import terminal
from nearfar.contrast.results import document
from nearfar.contrast.runner import Outcome, Runner
from nearfar.contrast.settings import FULL, QUICK, Settings
from nearfar.output import Output
from nearfar.programs.common import Exit, StopRequest, why


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write; return an exit code (`Exit`): `FAILED` if a measurement came to no result.

    A signal ends the measuring, not the report: it is made of what there is by then.
    """
    options = make_parser().parse_args(argv)
    try:
        # Opened now: what cannot be written is to be said before minutes are spent.
        with contextlib.ExitStack() as held:
            page_file = held.enter_context(discarding(options.output))
            json_file = None if options.json is None else held.enter_context(discarding(options.json))
            if page_file.goes_where(json_file):
                raise ValueError("--output and --json name one file: name two")
            return _run(options, page_file, json_file)
    except IsADirectoryError as error:
        print(f"nearfar contrast: {error.filename} is a directory: name a file", file=sys.stderr)
    except (OSError, ValueError) as error:
        print(f"nearfar contrast: {why(error)}", file=sys.stderr)
    return Exit.USAGE


@contextlib.contextmanager
def discarding(path: Path) -> Iterator[Output]:
    """An output that is written only if it is committed."""
    output = Output(path)
    try:
        yield output
    finally:
        output.discard()


def _run(options: argparse.Namespace, page_file: Output, json_file: Output | None) -> int:
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
    print(terminal(report), end="", flush=True)
    try:
        page_file.file.write(page(report))
        page_file.commit()
        if json_file is not None:
            json_file.file.write(json.dumps(result, indent=1) + "\n")
            json_file.commit()
    except OSError as error:
        print(f"nearfar contrast: {why(error)}", file=sys.stderr)
        return Exit.FAILED
    written = [str(each.path) for each in (page_file, json_file) if each is not None]
    print(f"\nwritten: {', '.join(written)}")
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
