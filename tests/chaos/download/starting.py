"""The start module: real commands, forked from a process that has imported them, with points armed.

Serves on standard input: a line of JSON for each command to start (answered by its pid), and ``ends``
(answered by the exit codes of those that have ended since). What the commands leave behind becomes a child of
this process: nothing can hide. A command that is started ``afresh`` is an interpreter of its own, with
limits if need be.

Spawned children of a command import this module again: points are armed, and the clock is bent, in them too.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from tests.chaos.faults.starting import serve, settle_in
from tests.support.programs import PRELOADED

RUN, ROLE, LEASE = "NEARFAR_CHAOS_RUN", "NEARFAR_CHAOS_ROLE", "NEARFAR_CHAOS_LEASE"
true_time = time.time


def bent_time() -> float:
    """The wall clock, as far off as the run's file ``clock`` says (seconds)."""
    try:
        return true_time() + float(Path(os.environ[RUN], "clock").read_text())
    except (KeyError, OSError, ValueError):
        return true_time()


def prepare() -> None:
    """Arm this process as its environment says."""
    from tests.chaos.download.points import arm

    _hurry()
    if RUN in os.environ:
        arm(Path(os.environ[RUN]), os.environ[ROLE])


def _hurry() -> None:
    """A short lease where a command hosts, and short waits between attempts: a run may take seconds."""
    from nearfar.download.fetch.options import FetchOptions
    from nearfar.queues.far import FarQueue

    host, choose = FarQueue.__init__, FetchOptions.__new__

    def host_briefly(self: FarQueue, *arguments: Any, **settings: Any) -> None:
        if "lease" in settings and LEASE in os.environ:
            settings["lease"] = float(os.environ[LEASE])
        host(self, *arguments, **settings)

    def choose_briefly(cls: type[FetchOptions], *given: Any, **settings: Any) -> FetchOptions:
        # Those that come from another process are given in a row, and hurry already.
        hurried = settings if given else {"backoff": 0.05, "backoff_cap": 0.3} | settings
        return choose(cls, *given, **hurried)

    FarQueue.__init__ = host_briefly  # type: ignore[method-assign]
    FetchOptions.__new__ = choose_briefly  # type: ignore[method-assign]


def command(arguments: list[str]) -> int:
    """Be a command of nearfar."""
    from nearfar.__main__ import main

    sys.argv = ["nearfar", *arguments]
    return main(arguments)


def become(order: dict[str, Any]) -> int:
    """Be the command of an order."""
    settle_in(order)
    os.chdir(order["folder"])
    if order["afresh"]:
        for limit, value in order["limits"].items():
            resource.setrlimit(getattr(resource, limit), (value, value))
        os.execv(sys.executable, [sys.executable, "-m", "nearfar", *order["arguments"]])
    prepare()
    return command(order["arguments"])


if __name__ == "__main__":
    time.time = bent_time
    sys.exit(serve(PRELOADED, become))
elif __name__ == "__mp_main__":
    time.time = bent_time
    prepare()
