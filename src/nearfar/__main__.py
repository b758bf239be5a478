"""The command ``nearfar``: lists the programs, and runs one of them with the rest of the command line."""

from __future__ import annotations

import gc
import importlib
import signal
import sys

from nearfar import __version__
from nearfar.cli import PROGRAMS, exits
from nearfar.cli.exits import Exit, leave
from nearfar.net.failures import on_service_failure, shortage
from nearfar.net.memory import loading

TYPE_CHECKING = False  # not from typing, whose import would slow down the start of programs
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


def run(argv: Sequence[str] | None = None) -> NoReturn:
    """Run `main` in a process of its own, and exit with its exit code.

    While a program loads, and after it has closed everything, a signal can do no harm: then SIGINT ends it as
    SIGTERM does, by the default handler and without a traceback.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    exits.secure()
    on_service_failure(_leave)
    code = main(argv)
    gc.freeze()  # the process ends: a search for garbage takes 10 ms, and has no effect
    sys.exit(code)


def _leave(sentence: str) -> None:
    """Exit after a service has failed; the exit code tells the parent process."""
    print(f"nearfar: {sentence}", file=sys.stderr, flush=True)
    leave(Exit.FAILED)


def usage() -> str:
    """The help text: a line for each program."""
    lines = [f"  {name:<12} {does}" for name, does in PROGRAMS.items()]
    return "\n".join(
        ["usage: nearfar PROGRAM [OPTION...]", "", *lines, "", "nearfar help PROGRAM says more."]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one program with `argv` (default: the command line) and return its exit code."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or [""]
    try:
        try:
            return _main(name, rest)
        finally:
            exits.flush()
    except exits.OutputLost as lost:
        print(f"nearfar {name}".rstrip() + f": {lost}", file=sys.stderr)
        return Exit.FAILED


def _main(name: str, rest: Sequence[str]) -> int:
    if name == "help" and rest and rest[0] not in ("-h", "--help"):
        name, *words = rest
        rest = [*words, "--help"]
    if name in ("-h", "--help", "help"):
        exits.tell(usage())
        return Exit.OK
    if name in ("-V", "--version"):
        exits.tell(f"nearfar {__version__}")
        return Exit.OK
    if not name:
        print(usage(), file=sys.stderr)
        return Exit.USAGE
    if name not in PROGRAMS:
        from nearfar.cli.configuration import did_you_mean

        hint = did_you_mean(name, [*PROGRAMS, "help"]) or f" (there are: {', '.join(PROGRAMS)})"
        print(f"nearfar: there is no program {name!r}{hint}; see nearfar --help", file=sys.stderr)
        return Exit.USAGE
    from nearfar.cli.common import lift_limit  # late, like everything that only programs need

    if complaint := lift_limit():
        print(f"nearfar {name}: {complaint}", file=sys.stderr)
        return Exit.USAGE
    try:
        with loading():
            program = importlib.import_module(f"nearfar.cli.{name}")
        return int(program.main(rest))
    except ImportError as error:
        print(f"nearfar {name}: {error}{f' ({error.__cause__})' if error.__cause__ else ''}", file=sys.stderr)
        return Exit.FAILED
    except OSError as error:  # unexpected ones: programs report the others themselves
        from nearfar.cli.common import why

        print(f"nearfar {name}: {why(error)}", file=sys.stderr)
        return Exit.FAILED
    except (MemoryError, RuntimeError) as error:
        if (lack := shortage(error)) is None:
            raise
        print(f"nearfar {name}: {lack}", file=sys.stderr)
        return Exit.FAILED


if __name__ == "__main__":
    run()
