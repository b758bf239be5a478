"""The tree of processes and the states of their threads, from the kernel."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.support.waiting import eventually


def freeze(pid: int) -> None:
    """Stop a process until SIGCONT, and wait for that: on a busy machine, its threads run on for a while."""
    os.kill(pid, signal.SIGSTOP)
    assert eventually(lambda: states(pid) == {"T"}), states(pid)


def states(pid: int) -> set[str]:
    """The states of a process's threads (proc_pid_stat(5)): ``T`` is stopped."""
    found = set()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # it has ended meanwhile
            found.add((thread / "stat").read_text().rpartition(")")[2].split()[0])
    return found


def leaves(root: int) -> list[int]:
    """The descendants of `root` without children, except multiprocessing's tracker."""
    children = _children(lambda line: b"resource_tracker" not in line)
    return [pid for pid in _walk(root, children) if pid not in children]


def below(root: int) -> list[int]:
    """All processes below `root`."""
    return _walk(root, _children(lambda line: True))


def _walk(root: int, children: dict[int, list[int]]) -> list[int]:
    found: list[int] = []
    waiting = list(children.get(root, []))
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found


def _children(counts: Callable[[bytes], bool]) -> dict[int, list[int]]:
    """The children of every process; only those whose command line `counts`."""
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if counts((entry / "cmdline").read_bytes()):
                found.setdefault(parent, []).append(int(entry.name))
    return found
