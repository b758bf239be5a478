"""The start module: roles, forked from a process that has imported what they need, with a failpoint armed.

Serves on standard input: a line of JSON for each role to start (answered by its process id), and ``ends``
(answered by the exit codes of those that have ended since). Processes that the roles leave behind become
children of this process, so that all are found. A role is a function, ``module:function``, that is called
with a list
of strings; its module's `POINTS` are the failpoints that there are.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from tests.chaos.faults import failpoints
from tests.chaos.faults.journal import Journal
from tests.support.processes import below

SUBREAPER = 36
CLONE_NEWNET = 0x40000000
CLONE_NEWNS = 0x00020000
MS_REC, MS_SLAVE = 1 << 14, 1 << 19
ROLE = "NEARFAR_CHAOS_ROLE"
PULSE = 0.05
"""Seconds between two looks at whether this process got to run."""
PRELOADED = (
    "nearfar.pool.far_engine",
    "nearfar.pool.near_engine",
    "nearfar.cli.coordinator",
    "nearfar.cli.worker",
    "nearfar.queues.far",
    "tests.chaos.pool.roles",
    "tests.chaos.queue.roles",
)


def prepare() -> None:
    """Arm this process according to its environment."""
    if ROLE in os.environ:
        module = importlib.import_module(os.environ[ROLE].partition(":")[0])
        failpoints.arm(module.POINTS)


def watch_stalls(journal: Journal, worth: float) -> None:
    """Record whenever this process got no CPU time for `worth` seconds: such a silence is not a fault."""

    def watch() -> None:
        pause = threading.Event()
        before = time.monotonic()
        while not pause.wait(PULSE):
            now = time.monotonic()
            if now - before >= worth:
                journal.note("stall", since=before, until=now)
            before = now

    threading.Thread(target=watch, name="pulse", daemon=True).start()


def serve(preloaded: Sequence[str], become: Callable[[dict[str, Any]], int]) -> int:
    """Fork for each order until standard input ends; returns, in a child, what `become` returns."""
    for name in preloaded:
        importlib.import_module(name)
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    ended: dict[int, int] = {}
    while line := os.read(0, 1 << 20):
        if line == b"own shared memory\n":
            answer = "yes" if own_shared_memory() else "no"
        elif line == b"ends\n":
            _reap(ended)
            answer, ended = json.dumps(ended), {}
        else:
            order = json.loads(line)
            pid = os.fork()
            if not pid:
                return become(order)
            answer = str(pid)
        os.write(1, f"{answer}\n".encode())
    _end_all()
    return 0


def _end_all() -> None:
    """The test has ended, perhaps killed: end all processes of its run."""
    while found := below(os.getpid()):
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(-1, 0)


def _reap(ended: dict[int, int]) -> None:
    try:
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended[found[0]] = os.waitstatus_to_exitcode(found[1])
    except ChildProcessError:
        return


def settle_in(order: dict[str, Any]) -> None:
    """Set up a process group, the usual SIGINT, and the environment and streams of an order."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(order["environment"])
    out, err = (os.open(f"{order['said']}.{name}", os.O_WRONLY | os.O_CREAT) for name in ("out", "err"))
    for number, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), out, err)):
        os.dup2(descriptor, number)
        os.close(descriptor)


def become_role(order: dict[str, Any]) -> int:
    """Become the role of an order, with its failpoint armed."""
    settle_in(order)
    if order["network"]:
        enter_network(order["network"])
    prepare()
    return run(os.environ[ROLE], order["arguments"])


def run(role: str, arguments: list[str]) -> int:
    """Run a role."""
    module, _, name = role.partition(":")
    try:
        return int(getattr(importlib.import_module(module), name)(arguments) or 0)
    except Exception:
        traceback.print_exc()
        return 70


def own_shared_memory() -> bool:
    """Mount a /dev/shm that only this process and its descendants see; needs root."""
    libc = ctypes.CDLL(None)
    private = libc.unshare(CLONE_NEWNS) == 0 and libc.mount(b"none", b"/", None, MS_REC | MS_SLAVE, None) == 0
    return private and libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, None) == 0


def enter_network(name: str) -> None:
    """Move this process into a named network namespace (`os.setns` is there from Python 3.12 on only)."""
    descriptor = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"cannot enter the network {name}")
    os.close(descriptor)


if __name__ == "__main__":
    sys.exit(serve(PRELOADED, become_role))
elif __name__ == "__mp_main__":
    prepare()
