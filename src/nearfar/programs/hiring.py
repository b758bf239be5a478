"""The worker processes that a program offers to others."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

from nearfar.worker.crew import Crew, Listener


def start_tracker() -> None:
    """Start multiprocessing's keeper of shared things so that it lives as long as this program: it ignores SIGINT
    and SIGTERM by itself, but would die of a terminal's SIGHUP, and Python would complain of that."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what is ignored stays so in another program
    try:
        resource_tracker.ensure_running()
    finally:
        signal.signal(signal.SIGHUP, before)


def make_crew(listener: Listener, count: int, quota: int | None = None) -> Crew:
    """A crew of `count` processes for clients elsewhere.

    Modules are looked for in the working directory first, as ``python -m`` does. Processes are forked by a
    server that has neither threads nor sockets, and like them does not hear SIGTERM: it is for the program.
    """
    start_tracker()
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    forkserver.set_forkserver_preload(["nearfar.worker.deaf", "nearfar.worker.run"])
    return Crew(listener, count, context=multiprocessing.get_context("forkserver"), quota=quota)
