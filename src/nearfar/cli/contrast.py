"""``nearfar contrast``: the same work and faults over every queue and pool, measured on this machine."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

from nearfar.cli.common import StopRequest, add_color_option, why
from nearfar.cli.configuration import no_settings
from nearfar.cli.display import make_console
from nearfar.cli.exits import Exit
from nearfar.cli.parser import Parser
from nearfar.contrast.runner import (
    PARTS,
    MeasurementGroup,
    MeasurementOutcome,
    MeasurementRunner,
    document,
    plan,
)
from nearfar.contrast.settings import FULL, QUICK, Settings
from nearfar.contrast.transports import contestants
from nearfar.output import Output

WIDE = 160
"""Characters of a line where the output is not a terminal."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write; return an exit code (`Exit`): `FAILED` if a measurement has no result.

    After a signal, the report contains what was measured until then.
    """
    options = make_parser().parse_args(argv)
    if find_spec("jinja2") is None or find_spec("rich") is None:
        print(
            "nearfar contrast: the report needs jinja2 and rich: pip install 'nearfar[contrast]'",
            file=sys.stderr,
        )
        return Exit.USAGE
    try:
        # Opened now: a file that cannot be written is reported before minutes are spent.
        with no_settings(), contextlib.ExitStack() as held:
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
    """An output file that is written only after a commit."""
    output = Output(path)
    try:
        yield output
    finally:
        output.discard()


def _run(options: argparse.Namespace, page_file: Output, json_file: Output | None) -> int:
    from nearfar.contrast.report import build_report, page, terminal

    for signum in StopRequest.SIGNALS:
        signal.signal(signum, interrupt)
    settings = QUICK if options.quick else FULL
    groups = list(plan(options.only or PARTS, settings, contestants()))
    outcomes: list[MeasurementOutcome] = []
    stopped = 0
    begun, load = time.monotonic(), os.getloadavg()[0]
    try:
        measure(groups, settings, outcomes, quiet=options.quiet, color=options.color)
    except KeyboardInterrupt as interruption:
        stopped = int(interruption.args[0])
        if not outcomes:
            print("\nstopped; nothing is written", file=sys.stderr)
            return 128 + stopped
        print("\nstopped; what was measured is written", file=sys.stderr)
    planned = sum(len(group.measurements) for group in groups)
    took = time.monotonic() - begun
    result = document(settings, outcomes, planned=planned, took=took, load=load)
    report = build_report(result)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDE
    print(terminal(report, width), end="", flush=True)
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
    parser = Parser(
        "nearfar contrast",
        configurable=False,
        usage="[OPTION...]",
        examples=("nearfar contrast --quick", "nearfar contrast --only queue --json figures.json"),
        description="Measure the same work and the same faults over the queues and pools of"
        " multiprocessing, bare ZeroMQ sockets and nearfar, on this machine; where redis-server and"
        " nearfar[redis] are installed, over a queue in Redis, too. Tables are printed here; a page with"
        " charts is written to a file.",
    )
    add = parser.add_argument_group("what to measure").add_argument
    add(
        "--only",
        action="append",
        choices=PARTS,
        metavar="PART",
        help=f"measure this part only; may be given several times: {', '.join(PARTS)}",
    )
    add("--quick", action="store_true", help="measure fewer rounds: a minute or two, less precise")
    group = parser.add_argument_group("output")
    add = group.add_argument
    add(
        "-o",
        "--output",
        type=Path,
        default=Path("nearfar-contrast.html"),
        metavar="FILE",
        help="write the page to FILE: one HTML file, which needs no network",
    )
    add("--json", type=Path, metavar="FILE", help="write every single result to FILE, as JSON")
    add_color_option(group)
    add("-q", "--quiet", action="store_true", help="no progress on standard error")
    return parser


def measure(
    groups: Sequence[MeasurementGroup],
    settings: Settings,
    outcomes: list[MeasurementOutcome],
    *,
    quiet: bool,
    color: str,
) -> None:
    """Append each outcome to `outcomes`, and show the progress: a bar on a terminal, else lines."""
    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

    total = sum(len(group.measurements) for group in groups)
    bars = not quiet and sys.stderr.isatty()
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    console = make_console(color, sys.stderr)
    with Progress(*columns, console=console, disable=not bars, auto_refresh=False) as progress:
        task = progress.add_task("", total=total)

        def report(outcome: MeasurementOutcome) -> None:
            outcomes.append(outcome)
            trouble = f": {outcome.trouble}" if outcome.trouble else ""
            progress.update(task, advance=1, description=str(outcome.measurement), refresh=bars)
            if not quiet and (trouble or not bars):
                line = f"[{len(outcomes)}/{total}] {outcome.measurement}{trouble}"
                print(line, file=sys.stderr, flush=True)

        with MeasurementRunner(settings, report) as runner:
            for group in groups:
                runner.run(group)


def interrupt(signum: int, frame: FrameType | None) -> None:
    """A signal handler that raises, so that the context managers end what was started."""
    raise KeyboardInterrupt(signum)
