"""What runs in a worker of another engine, such as Dask's: it reads a call, runs it, and packs its outcome.

Calls and answers have the formats of nearfar's own workers, so that errors come with their tracebacks, and
functions of `__main__` need not be found there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from nearfar.coordinator.task import Mode, TaskStatus
from nearfar.serialization.tracebacks import set_place
from nearfar.worker.codec import WorkerCodecs
from nearfar.worker.lifetime import WorkerInfo, current_worker, set_current

__all__ = ["EngineAnswer", "PackedCall", "Unprepared", "enter", "prepare", "run_packed"]

KEPT_CLIENTS = 8
"""Clients of whose `__main__` a thread keeps what it has read."""


@dataclass(frozen=True, slots=True)
class PackedCall:
    """A call, as its client's `ClientCodec` has packed it. Not a tuple: Dask looks into those."""

    client: str
    mode: int
    function: bytes
    blob: bytes
    buffers: Sequence[Any]
    timeout: float | None = None
    """Seconds that it may run."""

    def describe(self) -> str:
        """The name of its function, for messages to users."""
        return self.function.decode(errors="replace") or "a function sent by value"


class EngineAnswer(NamedTuple):
    """A call's outcome; status (`TaskStatus`), blob and buffers as of `Call.answered`."""

    status: int
    blob: bytes
    buffers: Sequence[Any]


class Unprepared(NamedTuple):
    """Comes instead of an answer: what the initializer raised, packed."""

    error: bytes


def run_packed(call: PackedCall) -> EngineAnswer:
    """Run a call. Raises nothing: its error is an answer, too."""
    codec = _codecs_of(call.client).choose(call.client, call.blob)
    process = os.getpid()
    try:
        func, items, keywords = codec.load(call.function, call.mode, call.blob, call.buffers, call.client)
        value: Any
        # Not `map` or `starmap`: if `func` raises StopIteration, they end as if there were no more items.
        if call.mode == Mode.MAP:
            value = [func(each) for each in items]
        elif call.mode == Mode.STARMAP:
            value = [func(*each) for each in items]
        else:
            value = func(*items, **keywords)
    except BaseException as error:
        _end_if_forked(process)
        return EngineAnswer(TaskStatus.ERROR, codec.dump_error(error), ())
    _end_if_forked(process)
    try:
        blob, buffers = codec.dump_result(None if call.mode == Mode.PREPARE else value)
    except BaseException as error:
        return EngineAnswer(TaskStatus.ERROR, codec.dump_unsendable(error, value), ())
    return EngineAnswer(TaskStatus.VALUE, bytes(blob), [bytes(each) for each in buffers])


def enter(worker: WorkerInfo) -> None:
    """Make `worker` what `current_worker` returns in this process, and tracebacks name."""
    if current_worker() != worker:
        set_current(worker)
        set_place(f"worker {worker.name} (pid {worker.pid} on {worker.host})")


def prepare(client: str, read: Callable[[], PackedCall]) -> bytes | None:
    """Run the initializer of `client` once in this process, also if several threads ask for it; `read`
    fetches it. Returns its error, packed, and the same each time; None if it returned.
    """
    with _preparing:
        lock = _locks.setdefault(client, threading.Lock())
    with lock:
        if client not in _prepared:
            answer = run_packed(read())
            _prepared[client] = answer.blob if answer.status == TaskStatus.ERROR else None
        return _prepared[client]


def _end_if_forked(process: int) -> None:
    """End a child that a task has forked and that left the task: it must not go on as a second worker."""
    if os.getpid() != process:
        os._exit(0)


def _codecs_of(client: str) -> WorkerCodecs:
    known: dict[str, WorkerCodecs] = _here.__dict__.setdefault("codecs", {})
    codecs = known.pop(client, None) or WorkerCodecs(None, far=True, plain=None)
    known[client] = codecs  # as the last one
    if len(known) > KEPT_CLIENTS:
        del known[next(iter(known))]
    return codecs


_here = threading.local()
_preparing = threading.Lock()
_locks: dict[str, threading.Lock] = {}
_prepared: dict[str, bytes | None] = {}
