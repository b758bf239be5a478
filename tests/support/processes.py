"""The tree of processes, from the kernel."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


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
