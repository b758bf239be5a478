"""The command ``nearfar``: names the programs, and hands the rest of the line to one."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from nearfar import __version__
from nearfar.programs.common import Exit
from nearfar.programs.limits import lift_limit

PROGRAMS = {
    "producer": "download URLs and put the files on a queue",
    "consumer": "get files from a queue and save them",
    "queue": "host a queue by itself",
    "coordinator": "coordinate a pool by itself",
    "worker": "join a pool with this machine's processes",
    "gallery": "serve drawn images over HTTP, to try things on",
    "demo": "show all of it on this machine, in under a minute",
}


def usage() -> str:
    """The help text: a line for each program."""
    lines = [f"  {name:<12} {does}" for name, does in PROGRAMS.items()]
    return "\n".join(
        ["usage: nearfar PROGRAM [OPTION...]", "", *lines, "", "nearfar PROGRAM --help says more."]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one program with `argv` (default: the command line) and return its exit code."""
    name, *rest = sys.argv[1:] if argv is None else argv or [""]
    if name in ("-h", "--help"):
        print(usage())
        return Exit.OK
    if name in ("-V", "--version"):
        print(f"nearfar {__version__}")
        return Exit.OK
    if name not in PROGRAMS:
        said = f"no program {name!r}" if name else "no program named"
        print(f"nearfar: {said} (one of: {', '.join(PROGRAMS)})", file=sys.stderr)
        return Exit.USAGE
    if complaint := lift_limit():
        print(f"nearfar {name}: {complaint}", file=sys.stderr)
        return Exit.USAGE
    try:
        return int(importlib.import_module(f"nearfar.programs.{name}").main(rest))
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), 1
        )  # or Python complains at its end, when it writes the rest
        print(f"nearfar {name}: nobody reads the standard output any more", file=sys.stderr)
        return Exit.FAILED
    except ImportError as error:
        print(f"nearfar {name}: {error} ({error.__cause__ or 'not found'})", file=sys.stderr)
        return Exit.FAILED
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "start new thread" not in str(error):
            raise
        why = str(error) or "out of memory"
        print(f"nearfar {name}: {why}: raise the limits of memory or processes (ulimit)", file=sys.stderr)
        return Exit.FAILED


if __name__ == "__main__":
    sys.exit(main())
