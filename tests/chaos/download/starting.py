"""The start module: real commands, forked from a process that has imported them, with points armed.

Serves on standard input: a line of JSON for each command to start (answered by its pid), and ``ends``
(answered by the exit codes of those that have ended since). What the commands leave behind becomes a child of
this process: nothing can hide. A command that is started ``afresh`` is an interpreter of its own, with
limits if need be.

Spawned children of a command import this module again: points are armed, and the clock is bent, in them too.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

RUN, ROLE, LEASE = "NEARFAR_CHAOS_RUN", "NEARFAR_CHAOS_ROLE", "NEARFAR_CHAOS_LEASE"
SUBREAPER = 36
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

    host, choose = FarQueue.__init__, FetchOptions.__init__

    def host_briefly(self: FarQueue, *arguments: Any, **settings: Any) -> None:
        if "lease" in settings and LEASE in os.environ:
            settings["lease"] = float(os.environ[LEASE])
        host(self, *arguments, **settings)

    def choose_briefly(self: FetchOptions, **settings: Any) -> None:
        choose(self, **{"backoff": 0.05, "backoff_cap": 0.3, **settings})

    FarQueue.__init__ = host_briefly  # type: ignore[method-assign]
    FetchOptions.__init__ = choose_briefly  # type: ignore[method-assign]


def command(arguments: list[str]) -> int:
    """Be a command of nearfar."""
    from nearfar.__main__ import main

    sys.argv = ["nearfar", *arguments]
    return main(arguments)


def serve() -> int:
    """Start commands until standard input ends; returns, in a command, its exit code."""
    # What they will import is imported once, here.
    import nearfar.cli.consumer
    import nearfar.cli.coordinator
    import nearfar.cli.producer
    import nearfar.cli.queue
    import nearfar.cli.worker  # noqa: F401

    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    ended: dict[int, int] = {}
    while line := os.read(0, 1 << 20):
        if line == b"ends\n":
            _reap(ended)
            answer, ended = json.dumps(ended), {}
        else:
            order = json.loads(line)
            pid = os.fork()
            if not pid:
                return _become(order)
            answer = str(pid)
        os.write(1, f"{answer}\n".encode())
    return 0


def _reap(ended: dict[int, int]) -> None:
    try:
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended[found[0]] = os.waitstatus_to_exitcode(found[1])
    except ChildProcessError:
        return


def _become(order: dict[str, Any]) -> int:
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(order["folder"])
    os.environ.update(order["environment"])
    out, err = (os.open(f"{order['said']}.{name}", os.O_WRONLY | os.O_CREAT) for name in ("out", "err"))
    for number, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), out, err)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    if order["afresh"]:
        for limit, value in order["limits"].items():
            resource.setrlimit(getattr(resource, limit), (value, value))
        os.execv(sys.executable, [sys.executable, "-m", "nearfar", *order["arguments"]])
    prepare()
    return command(order["arguments"])


if __name__ == "__main__":
    time.time = bent_time
    sys.exit(serve())
elif __name__ == "__mp_main__":
    time.time = bent_time
    prepare()
