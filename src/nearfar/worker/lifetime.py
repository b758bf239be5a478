"""A worker process's identity, what it inherits from its parent, and its end with its parent.

A worker never outlives its parent. The parent holds the writing end of a pipe (`lifeline`). When the last
copy of it is closed, at the latest by the parent's death, the kernel sends SIGKILL to the owner of the
reading end. No thread has to check, so this also ends a task that never releases the GIL.

An initializer that cannot be pickled reaches its worker through the start of the process, as in the standard
library (`inherit`). So its arguments may be locks, queues or open files, which only a child can receive.

The first workers of a pool are forked by the thread that makes it, a replacement by whichever thread does the
pool's I/O then. Process-wide state is inherited as it is at the fork, by all workers alike; state of a thread
is recorded when the pool is made, and set up in each worker (`Surroundings`).
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
    """Die by SIGKILL when the other end of `descriptor` is closed. Never close `descriptor`."""
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(descriptor, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_ASYNC)
    if _closed(descriptor):  # before the kernel was asked to tell
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
    """Run what was inherited; what travels in its place."""
    assert _inherited is not None
    function, args = _inherited
    function(*args)


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


class Surroundings:
    """Those of the thread that makes this: its context variables, its decimal context, how numpy treats
    errors of floating point, and which signals it blocks.

    Not noted: `threading.local` of others, which cannot be read, and what the system keeps of a thread (its
    CPUs, its niceness), which an operator may have changed since.
    """

    def __init__(self) -> None:
        self._context = contextvars.copy_context()
        self._blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        decimal, numpy = sys.modules.get("decimal"), sys.modules.get("numpy")
        # Both may change the object, or the thread's state, that a copied context only points to.
        self._decimal = None if decimal is None else decimal.getcontext().copy()
        self._numpy = None if numpy is None else (numpy.geterr(), numpy.geterrcall())

    def run(self, do: Callable[..., None], *args: Any) -> None:
        """In the worker: `do` its work in them."""
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
    """In a worker: what it shares with its parent by a fork, and would be harmed by.

    * The descriptor that Python tells of signals (`signal.set_wakeup_fd`): the parent's event loop would hear
      of signals that the worker gets.
    * The locks of the standard streams: a thread of the parent that printed during the fork holds one for
      ever here, and the first flush would wait for it, at the worker's end at the latest. What lay in their
      buffers is the parent's, which writes it.
    """
    signal.set_wakeup_fd(-1)
    for stream in {
        id(each): each for each in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    }.values():
        buffer = getattr(stream, "buffer", None)
        if type(buffer) is io.BufferedWriter and type(buffer.raw) is io.FileIO:
            buffer.__init__(buffer.raw)  # type: ignore[misc]  # in place: others hold it, such as log handlers
