"""Which worker this process is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker, as `current_worker` tells it."""

    slot: int
    """From 0, on its machine; a replacement takes its predecessor's."""
    name: str
    """New at each start."""
    host: str
    pid: int


_current: WorkerInfo | None = None


def current_worker() -> WorkerInfo | None:
    """Which worker runs this; None in a process that is no worker of a pool."""
    return _current


def set_current(worker: WorkerInfo) -> None:
    """Called once, by the worker's process itself."""
    global _current
    _current = worker
