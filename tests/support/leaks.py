"""What a test can leave behind: threads, child processes, open files, shared memory, temporary files."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

from tests.support.waiting import eventually

SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Belongings:
    """What this process holds at one moment."""

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
            frozenset(threading.enumerate()),
            children(),
            open_files(),
            names(SHARED_MEMORY),
            temporary_files(),
        )

    def leaked_since(self, before: Belongings) -> list[str]:
        """What is here and was not there, one phrase each."""
        files = self.files - before.files if len(self.files) > len(before.files) else frozenset()
        shared = {name for name in self.shared - before.shared if not foreign(name)}
        return [
            *(f"thread {thread.name!r}" for thread in self.threads - before.threads),
            *(f"child process {pid} ({command(pid)})" for pid in self.children - before.children),
            *(f"open file {number} -> {target}" for number, target in files),
            *(f"shared memory {name!r}" for name in shared),
            *(f"temporary file {name!r}" for name in self.temporary - before.temporary),
        ]


def leaks_since(before: Belongings, grace: float = 2.0) -> list[str]:
    """What was left behind since `before`, after up to `grace` seconds for things that are just ending."""
    found: list[str] = []

    def clean() -> bool:
        found[:] = Belongings.now().leaked_since(before)
        return not found

    eventually(clean, grace)
    return found


def children() -> frozenset[int]:
    """This process's children, dead ones included that nobody has waited for.

    Not those that multiprocessing keeps for the whole life of a process.
    """
    keepers = {resource_tracker._resource_tracker._pid, forkserver._forkserver._forkserver_pid}
    listed = (path.read_text().split() for path in Path("/proc/self/task").glob("*/children"))
    return frozenset({int(pid) for pids in listed for pid in pids} - keepers)


def open_files() -> frozenset[tuple[int, str]]:
    """This process's descriptors; not those of the keepers that `children` leaves out."""
    keepers = {resource_tracker._resource_tracker._fd, forkserver._forkserver._forkserver_alive_fd}
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add((int(entry.name), str(entry.readlink())))
        except FileNotFoundError:
            continue
    return frozenset(each for each in found if each[0] not in keepers)


def temporary_files() -> frozenset[str]:
    """Names in the temporary folder of this run; multiprocessing's own folder goes when the process ends."""
    return frozenset(name for name in names(Path(tempfile.gettempdir())) if not name.startswith("pymp-"))


def names(folder: Path) -> frozenset[str]:
    try:
        return frozenset(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return frozenset()


def command(pid: int) -> str:
    try:
        return (
            Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()[:80]
            or "ended, not waited for"
        )
    except FileNotFoundError:
        return "gone"


def foreign(name: str) -> bool:
    """True if a process that has nothing to do with this run has the shared memory `name` in use."""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            if f"{SHARED_MEMORY}/{name}" in maps.read_text() and not descends(int(maps.parent.name)):
                return True
        except OSError:
            continue
    return False


def descends(pid: int) -> bool:
    """True if `pid` is this process or one below it."""
    while pid > 1:
        if pid == os.getpid():
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False
