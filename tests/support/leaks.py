"""Resources that a test can leave behind: threads, child processes, open files, shared memory, temporary
files."""
# Each test looks twice, and the plain calls of `os` take half as long as pathlib.
# ruff: noqa: PTH115, PTH208

from __future__ import annotations

import gc
import multiprocessing
import os
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

from nearfar.net import interrupts
from tests.support import programs
from tests.support.waiting import eventually

SHARED_MEMORY = Path("/dev/shm")
made: set[str] = set()


@dataclass(frozen=True)
class Belongings:
    """The resources of this process at one moment."""

    threads: frozenset[threading.Thread]
    children: frozenset[int]
    files: frozenset[tuple[int, str]]
    """Open descriptors, with what each points at."""
    shared: frozenset[str]
    temporary: frozenset[str]

    @classmethod
    def now(cls) -> Belongings:
        multiprocessing.active_children()
        return cls(
            frozenset(thread for thread in threading.enumerate() if thread.ident not in interrupts._ours),
            children(),
            open_files(),
            shared_memory(),
            temporary_files(),
        )

    def leaked_since(self, before: Belongings) -> list[str]:
        """A text for each new resource."""
        files = self.files - before.files if len(self.files) > len(before.files) else frozenset()
        return [
            *(f"thread {thread.name!r}" for thread in self.threads - before.threads),
            *(f"child process {pid} ({command(pid)})" for pid in self.children - before.children),
            *(f"open file {number} -> {target}" for number, target in files),
            *(f"shared memory {name!r}" for name in self.shared - before.shared),
            *(f"temporary file {name!r}" for name in self.temporary - before.temporary),
        ]


def leaks_since(before: Belongings, grace: float = 10.0) -> list[str]:
    """The resources left behind since `before`, after up to `grace` seconds for those that are just
    ending."""
    found: list[str] = []

    def clean() -> bool:
        found[:] = Belongings.now().leaked_since(before)
        return not found

    if not clean():
        gc.collect()  # what an exception's traceback held in a circle is garbage, no leak
        eventually(clean, grace)
    return found


def children() -> frozenset[int]:
    """This process's children, including dead ones that were not waited for.

    Not those that multiprocessing, and `programs`, keep for the whole life of a process.
    """
    keepers = {resource_tracker._resource_tracker._pid, forkserver._forkserver._forkserver_pid}
    keepers |= programs.keepers()[0]
    found: set[int] = set()
    for thread in os.listdir("/proc/self/task"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found.update(map(int, _content(f"/proc/self/task/{thread}/children").split()))
    return frozenset(found - keepers)


def _content(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 1 << 16)
    finally:
        os.close(descriptor)


def open_files() -> frozenset[tuple[int, str]]:
    """This process's descriptors, except those of the processes that `children` leaves out."""
    keepers = {resource_tracker._resource_tracker._fd, forkserver._forkserver._forkserver_alive_fd}
    keepers |= programs.keepers()[1]
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.add((int(number), os.readlink(f"/proc/self/fd/{number}")))
    return frozenset(each for each in found if each[0] not in keepers)


def watch_shared_memory() -> None:
    """Remember every name of shared memory or a semaphore that multiprocessing makes in this process.

    The folder alone would also show those of other programs on this machine.
    """
    register = resource_tracker.register

    def noted(name: str, kind: str) -> None:
        made.add(name.lstrip("/") if kind == "shared_memory" else f"sem.{name.lstrip('/')}")
        register(name, kind)

    resource_tracker.register = noted


def shared_memory() -> frozenset[str]:
    """The names made in this process that are still there; those that have gone are forgotten."""
    there = made.intersection(os.listdir(SHARED_MEMORY))
    made.intersection_update(there)
    return frozenset(there)


def temporary_files() -> frozenset[str]:
    """Names in the temporary folder of this run; multiprocessing's own folder goes when the process ends."""
    return frozenset(name for name in os.listdir(tempfile.gettempdir()) if not name.startswith("pymp-"))


def command(pid: int) -> str:
    try:
        return (
            Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()[:80]
            or "ended, not waited for"
        )
    except FileNotFoundError:
        return "gone"
