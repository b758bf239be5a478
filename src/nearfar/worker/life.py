"""A worker never outlives its parent, whatever it is doing.

The parent holds the writing end of a pipe. When the last copy of it is closed, by the parent's death if not
before, the kernel sends SIGKILL to the owner of the reading end: no thread has to look, so that not even a
task that holds the interpreter's lock for ever can miss it.
"""

from __future__ import annotations

import fcntl
import os
import signal

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
