"""``nearfar demo``: the same download near and far, on this machine, verified."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from nearfar.demo.folder import Unusable
from nearfar.demo.gallery import Gallery
from nearfar.demo.tour import farewell, give_tour
from nearfar.demo.trouble import Trouble
from nearfar.programs.common import Exit, StopRequest

PICTURES = Gallery(count=200, large=2)


def main(argv: Sequence[str] | None = None) -> int:
    """Give the demo and return its exit code (`Exit`); a signal ends it at once."""
    options = make_parser().parse_args(argv)
    try:
        with interruptible():
            wrong = give_tour(options.output, PICTURES)
    except KeyboardInterrupt as stopped:
        print("\nstopped; the next demo begins anew", file=sys.stderr)
        return 128 + int(stopped.args[0])
    except BrokenPipeError:
        # Whoever read the output has left; Python would complain of it once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Trouble as trouble:
        print(f"nearfar demo: {trouble}", file=sys.stderr)
        return Exit.USAGE if isinstance(trouble, Unusable) else Exit.FAILED
    if wrong:
        print(
            f"nearfar demo: {len(wrong)} thing{'s' * (len(wrong) > 1)} went WRONG, see above", file=sys.stderr
        )
        return Exit.FAILED
    farewell(options.output)
    return Exit.OK


def make_parser() -> argparse.ArgumentParser:
    """The command line of this program."""
    parser = argparse.ArgumentParser(prog="nearfar demo", description="Show all of it on this machine.")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("demo-output"),
        metavar="DIR",
        help="new, empty, or from an earlier demo, which is removed (%(default)s)",
    )
    return parser


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, a signal unwinds from wherever the demo is, so that its commands and its server end with it."""
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
    """The handler."""
    raise KeyboardInterrupt(signum)
