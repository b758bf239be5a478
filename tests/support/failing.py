"""Make each call of the system, or of ZeroMQ, fail once in the loop of a service.

A profile function of Python's is called before each function written in C, and what it raises is raised as if
by that call; Python then forgets it, and it is set again. ZeroMQ's functions are not among those: they are
wrapped.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
import zmq

from nearfar.worker.supervisor import PollSet

ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.ENOSPC)
MODULES = frozenset({"posix", "_socket", "select", "_posixsubprocess"})
TYPES = (socket.socket, select.epoll, type(select.poll()))
HARMLESS = frozenset(
    {"close", "getpid", "fspath", "fsencode", "fileno", "gettimeout", "getuid", "geteuid", "detach"}
)
"""Those that are no calls of the system, or cannot fail, or do their work though they do."""
ZEROMQ = ("recv", "send", "recv_multipart", "send_multipart", "getsockopt", "setsockopt", "bind", "connect")


STARTERS = (
    "popen_fork.py",
    "popen_forkserver.py",
    "popen_spawn_posix.py",
    "forkserver.py",
    "resource_tracker.py",
)


def starts_a_process(frame: FrameType | None) -> bool:
    """Whether the standard library is starting a process.

    Where a call of it fails, it leaves files open, takes its tracker for dead, and ends its fork server.
    """
    for _ in range(8):
        if frame is None:
            return False
        if frame.f_code.co_filename.endswith(STARTERS):
            return True
        frame = frame.f_back
    return False


class Failing:
    """Counts the calls of the watched threads, and fails one on request."""

    def __init__(self) -> None:
        self.count = 0
        """Calls since it was armed."""
        self.failed = ""
        """Which call failed."""
        self._at = 0
        self._error = 0
        self._threads: set[int] = set()
        self._process = os.getpid()

    def arm(self, at: int, number: int) -> None:
        """Fail the call that is number `at` from now on, from 1, with that error."""
        self.count, self.failed, self._at, self._error = 0, "", at, number

    def profile(self, frame: FrameType, event: str, argument: Any) -> None:
        """For `sys.setprofile`."""
        self._threads.add(threading.get_ident())
        if event == "c_call" and argument.__name__ not in HARMLESS:
            owner = getattr(argument, "__self__", None)
            if (argument.__module__ in MODULES or isinstance(owner, TYPES)) and not starts_a_process(frame):
                self._call(argument.__name__, lambda number: OSError(number, os.strerror(number)))

    def _call(self, name: str, make: Callable[[int], BaseException]) -> None:
        if os.getpid() != self._process:
            return  # a child that a watched thread has forked
        self.count += 1
        if self.count == self._at:
            self.failed = name
            raise make(self._error)

    def wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """A method of ZeroMQ's that is counted, and fails, in watched threads."""

        def counting(*words: Any, **options: Any) -> Any:
            if self._watch_again():
                self._call(name, zmq.ZMQError)
            return call(*words, **options)

        return counting

    def watching(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """A function of a loop that watched threads call in each turn."""

        def watched(*words: Any) -> Any:
            self._watch_again()
            return call(*words)

        return watched

    def _watch_again(self) -> bool:
        """Whether this thread is watched. A profile function that has raised is forgotten."""
        if threading.get_ident() not in self._threads:
            return False
        if sys.getprofile() is None:
            sys.setprofile(self.profile)
        return True


@contextmanager
def failing(patch: pytest.MonkeyPatch) -> Iterator[Failing]:
    """Watch every thread that starts in the block."""
    made = Failing()
    for name in ZEROMQ:
        patch.setattr(zmq.Socket, name, made.wrapped(name, getattr(zmq.Socket, name)))
    patch.setattr(zmq.Poller, "poll", made.wrapped("poll", zmq.Poller.poll))
    patch.setattr(PollSet, "dispatch", made.watching(PollSet.dispatch))
    threading.setprofile(made.profile)
    try:
        yield made
    finally:
        threading.setprofile(None)
        made.arm(0, 0)
