"""What a forked worker inherits of the thread that starts it, and what it must not inherit.

The first workers of a pool are forked by the thread that makes it, a replacement by whichever thread does the
pool's work then. What a fork takes over of the whole process is as it is at that moment, for all alike; what
belongs to a thread is noted when the pool is made, and set up in each worker.
"""

from __future__ import annotations

import contextvars
import io
import signal
import sys
from collections.abc import Callable
from typing import Any


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
