"""``nearfar demo``: the same download near and far, on this machine, verified."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

from nearfar.cli.common import StopRequest, add_color_option
from nearfar.cli.configuration import no_settings
from nearfar.cli.display import make_console
from nearfar.cli.exits import Exit
from nearfar.cli.parser import Parser
from nearfar.demo.commands import DemoError
from nearfar.demo.gallery import Gallery
from nearfar.demo.tour import FolderUnusable, farewell, give_tour

PICTURES = Gallery(count=200, large=2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit code (`Exit`); a signal ends it at once."""
    options = make_parser().parse_args(argv)
    if find_spec("pycurl") is None or find_spec("rich") is None:
        print(
            "nearfar demo: downloading needs pycurl and rich: pip install 'nearfar[download]'",
            file=sys.stderr,
        )
        return Exit.USAGE
    try:
        with no_settings(), interruptible():
            console = make_console(options.color, sys.stdout, highlight=False, emoji=False, markup=False)
            wrong = give_tour(options.output, PICTURES, console)
    except KeyboardInterrupt as stopped:
        print("\nstopped; the next demo removes what this one saved", file=sys.stderr)
        return 128 + int(stopped.args[0])
    except BrokenPipeError:
        # The reader of the output has closed it; Python would print another error at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except DemoError as error:
        print(f"nearfar demo: {error}", file=sys.stderr)
        return Exit.USAGE if isinstance(error, FolderUnusable) else Exit.FAILED
    if wrong:
        things = "1 check" if len(wrong) == 1 else f"{len(wrong)} checks"
        print(f"nearfar demo: {things} failed: see WRONG above", file=sys.stderr)
        return Exit.FAILED
    farewell(options.output)
    return Exit.OK


def make_parser() -> argparse.ArgumentParser:
    """The command line of this program."""
    parser = Parser(
        "nearfar demo",
        configurable=False,
        usage="[OPTION...]",
        examples=("nearfar demo", "nearfar demo -o /tmp/demo"),
        description="Run the same download in four ways, and compare the saved files each time: near, far,"
        " far with a killed consumer, and by a pool. It takes less than a minute, on this machine.",
    )
    group = parser.add_argument_group("output")
    group.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("demo-output"),
        metavar="DIR",
        help="where to save: a new or empty folder, or that of an earlier demo, whose files are removed"
        " first",
    )
    add_color_option(group)
    return parser


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, a signal raises an exception, so that the demo's commands and its server end."""
    before = {
        signum: signal.signal(signum, interrupt)
        for signum in StopRequest.SIGNALS
        if signal.getsignal(signum) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def interrupt(signum: int, frame: FrameType | None) -> None:
    """The signal handler."""
    raise KeyboardInterrupt(signum)
