"""The processes of one measurement, and the event logs in which they record what they did.

A record of an event log is on the file as soon as it is written, even if its writer is killed right after.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

FORK = multiprocessing.get_context("fork")
"""How the processes of a measurement start. The process that forks them has no threads."""


class ProcessGroup:
    """Processes started by fork. Leaving the ``with`` block kills those that still exist, even stopped
    ones."""

    def __init__(self) -> None:
        self._processes: list[BaseProcess] = []

    def start(self, role: Callable[..., object], *arguments: Any) -> int:
        """Run ``role(*arguments)`` in a new process, and return its pid."""
        process = FORK.Process(target=role, args=arguments, daemon=True)
        process.start()
        self._processes.append(process)
        assert process.pid is not None
        return process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()


def send_signal(pid: int, signum: signal.Signals) -> None:
    """Send a signal to a process that may have ended already."""
    with suppress(ProcessLookupError):
        os.kill(pid, signum)


def wait_for_the_end() -> None:
    """Do nothing until killed."""
    while True:
        signal.pause()


RECORD = struct.Struct("<id")
GREETED = -1
"""Recorded in place of an item's number: a greeting has come through the queue."""
BEGUN = -2
"""Recorded by a producer: all consumers are connected, and the work begins."""


class Event(NamedTuple):
    """One record of an event log."""

    number: int
    """Of the item that was put or handled; or `GREETED` or `BEGUN`."""
    time: float
    """Seconds, of the monotonic clock that all processes of a machine share."""


class EventLog:
    """Appends to a file. Each process has its own."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, number: int) -> None:
        """Record `number` with the present time."""
        os.write(self._file, RECORD.pack(number, time.monotonic()))

    def close(self) -> None:
        os.close(self._file)


def read_events(path: Path) -> list[Event]:
    """All events recorded so far; none if the log does not exist yet."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    whole = len(content) // RECORD.size * RECORD.size
    return [Event(*fields) for fields in RECORD.iter_unpack(content[:whole])]


def count_events(path: Path) -> int:
    """How many events are recorded."""
    try:
        return path.stat().st_size // RECORD.size
    except FileNotFoundError:
        return 0
