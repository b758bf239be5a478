"""The worker processes that a program offers to others."""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing import forkserver
from pathlib import Path

from nearfar.programs.common import start_tracker
from nearfar.worker.crew import Crew, Listener


def make_crew(
    listener: Listener, count: int, quota: int | None = None, plain: tuple[str, ...] | None = None
) -> Crew:
    """A crew of `count` processes for clients elsewhere. `plain`: as in `worker.run.Birth`.

    Modules are looked for in the working directory first, as ``python -m`` does. Processes are forked by a
    server that has neither threads nor sockets, and like them does not hear SIGTERM: it is for the program.
    """
    start_tracker()
    look_here_first()
    forkserver.set_forkserver_preload(["nearfar.worker.deaf", "nearfar.worker.run"])
    return Crew(listener, count, context=multiprocessing.get_context("forkserver"), quota=quota, plain=plain)


def look_here_first() -> None:
    """Look for modules in the working directory."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
