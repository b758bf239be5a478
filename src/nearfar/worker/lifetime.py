"""A worker process's identity, what it inherits from its parent, and its end with its parent.

A worker never outlives its parent. The parent holds the writing end of a pipe (`lifeline`). When the last
copy of it is closed, at the latest by the parent's death, the kernel sends SIGKILL to the owner of the
reading end. No thread has to check, so this also ends a task that never releases the GIL.

An initializer that cannot be pickled reaches its worker through the start of the process, as in the standard
library (`inherit`). So its arguments may be locks, queues or open files, which only a child can receive.

The thread that makes a pool forks its first workers; the thread that does the pool's I/O at the time forks
a replacement. A worker inherits process-wide state as it is at the fork. The state of the thread that makes
the pool is recorded then, and restored in each worker (`Surroundings`).
"""

from __future__ import annotations

import contextvars
import fcntl
import io
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_F_SETSIG = 10
"""fcntl(2), Linux; not named by the fcntl module before 3.15."""


def lifeline() -> tuple[int, int]:
    """The worker's end and the parent's end."""
    return os.pipe2(os.O_CLOEXEC)


def hang_on(descriptor: int) -> None:
    """Have the kernel kill this process when the other end of `descriptor` is closed. Keep it open."""
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(descriptor, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_ASYNC)
    if _closed(descriptor):  # before the kernel was asked to signal it
        os.kill(os.getpid(), signal.SIGKILL)


def _closed(descriptor: int) -> bool:
    os.set_blocking(descriptor, False)
    try:
        return os.read(descriptor, 1) == b""
    except BlockingIOError:
        return False


Inherited = tuple[Callable[..., object], tuple[Any, ...]]
"""The function and its arguments."""

_inherited: Inherited | None = None


def inherit(given: Inherited | None) -> None:
    """Called once, by the worker's process itself."""
    global _inherited
    _inherited = given


def initialize() -> None:
    """Run the inherited initializer; this function is sent in its place."""
    assert _inherited is not None
    function, args = _inherited
    function(*args)


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """The worker that runs this task, from `current_worker`."""

    slot: int
    """Its number on its machine, from 0; a replacement has its predecessor's. -1 for a worker of another
    engine, such as Dask's, which has only a name."""
    name: str
    """New at each start."""
    host: str
    pid: int


_current: WorkerInfo | None = None


def current_worker() -> WorkerInfo | None:
    """The worker that runs this code; None in a process that is not a worker of a pool."""
    return _current


def set_current(worker: WorkerInfo) -> None:
    """Called by the worker's process itself: once, or before each call if another engine started it."""
    global _current
    _current = worker


class Surroundings:
    """The state of the thread that makes this object: its context variables, its decimal context, numpy's
    handling of floating-point errors, and which signals it blocks.

    Not included: `threading.local` data, which cannot be read, and the system's attributes of a thread (its
    CPUs, its niceness), which an operator may have changed since.
    """

    def __init__(self) -> None:
        self._context = contextvars.copy_context()
        self._blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        decimal, numpy = sys.modules.get("decimal"), sys.modules.get("numpy")
        # Both may change an object, or the thread's state, to which a copied context only refers.
        self._decimal = None if decimal is None else decimal.getcontext().copy()
        self._numpy = None if numpy is None else (numpy.geterr(), numpy.geterrcall())

    def run(self, do: Callable[..., None], *args: Any) -> None:
        """In the worker: call `do` in this state."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)
        self._context.run(self._set_up_and, do, *args)

    def _set_up_and(self, do: Callable[..., None], *args: Any) -> None:
        if self._decimal is not None:
            sys.modules["decimal"].setcontext(self._decimal)
        if self._numpy is not None:
            numpy = sys.modules["numpy"]
            numpy.seterr(**self._numpy[0])
            numpy.seterrcall(self._numpy[1])
        do(*args)


def let_go_of_the_parents() -> None:
    """In a forked worker: undo what it shares with its parent and would do harm.

    * * The descriptor to which Python writes signals (`signal.set_wakeup_fd`): the parent's event loop would
    receive signals of the worker.
    * The locks of the standard streams: if a thread of the parent printed during the fork, its lock is never
    released here, and the first flush would block, at the worker's exit at the latest. The buffers' content
    is written by the parent.
    """
    signal.set_wakeup_fd(-1)
    for stream in {
        id(each): each for each in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    }.values():
        buffer = getattr(stream, "buffer", None)
        if type(buffer) is io.BufferedWriter and type(buffer.raw) is io.FileIO:
            buffer.__init__(buffer.raw)  # type: ignore[misc]  # in place: others hold it, such as log handlers
