"""This process: its identity, forks and exit, the waking of its threads; and the deaths of others."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import socket
import threading
import weakref
from collections.abc import Container
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from typing import Any, Protocol

from nearfar.net.validation import LONGEST_NAME

PYTHON = f"{platform.python_implementation()} {platform.python_version()}".replace("CPython", "Python")
"""This interpreter, for the user: ``Python 3.11.7``."""
BYTECODE = f"{platform.python_implementation()}-{int.from_bytes(MAGIC_NUMBER[:2], 'little')}"
"""This interpreter's bytecode format. Code of another format would run here, with wrong results."""


def about_me() -> dict[str, Any]:
    """The facts about this process in HELLO.

    The boot, the pid namespace and the pid show a host whether this process is on its machine; ``python`` and
    ``bytecode`` determine which functions by value it can run.
    """
    return {"pid": os.getpid(), "machine": machine_id(), "python": PYTHON, "bytecode": BYTECODE}


def new_name() -> str:
    """A unique name for an object of this process: ``host-pid-suffix``."""
    host = socket.gethostname()[: LONGEST_NAME // 2]
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"


def new_session_stem(name: str) -> str:
    """A secret prefix for the session names of `name`, so that no other process can use them.

    The sessions are then ``stem.1``, ``stem.2``. A host or a coordinator does not let a session with another
    `stem` replace one of `name`.
    """
    return f"{name}.{secrets.token_hex(8)}"


def stem(session: str) -> str:
    """The common prefix of all sessions of one client or agent."""
    return session.rpartition(".")[0]


def machine_id() -> str:
    """An id of this boot of this machine and this pid namespace; empty if it cannot be determined."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def resident(pid: int) -> int | None:
    """The resident memory of a process of this machine, in bytes; None if it cannot be determined."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:  # noqa: PTH123, each worker is looked at each second
            return int(file.read().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return None


_PAGE = os.sysconf("SC_PAGE_SIZE")


class ProcessWatcher:
    """Watches processes through pidfds. A peer on another machine is not watched: silence shows its death."""

    def __init__(self) -> None:
        self._machine = machine_id()
        self._sessions: dict[int, tuple[str, int]] = {}

    def add(self, session: str, about: dict[str, Any]) -> int | None:
        """Watch the process of a session, if it is on this machine; returns the descriptor to poll."""
        pid = about.get("pid")
        if not self._machine or about.get("machine") != self._machine or type(pid) is not int or pid <= 0:
            return None
        try:
            descriptor = os.pidfd_open(pid)
        except (AttributeError, OSError, OverflowError):
            return None  # not Linux, not permitted, dead already, or no pid: its silence will show
        self._sessions[descriptor] = (session, pid)
        return descriptor

    def ended(self, descriptor: int) -> tuple[str, int] | None:
        """The session and pid of a readable descriptor, which is closed; None if it is not watched here."""
        found = self._sessions.pop(descriptor, None)
        if found is not None:
            with contextlib.suppress(OSError):  # it is closed in any case
                os.close(descriptor)
        return found

    def idle(self, wanted: Container[str]) -> list[int]:
        """The descriptors of sessions that are not in `wanted`: stop polling them, then call `ended`."""
        return [descriptor for descriptor, (session, _) in self._sessions.items() if session not in wanted]

    def __contains__(self, descriptor: int) -> bool:
        return descriptor in self._sessions

    def __len__(self) -> int:
        return len(self._sessions)

    def close(self) -> None:
        for descriptor in self._sessions:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._sessions.clear()


class Forked(Protocol):
    """An object with threads, sockets or locks, which do not work after a fork."""

    def forget_parent(self) -> None:
        """Called in the child: begin anew, and `keep` what belongs to the parent."""


def watch(one: Forked) -> None:
    """Call `one.forget_parent` in every child that is forked while `one` lives."""
    _watched.add(one)


def keep(*inherited: object) -> None:
    """Keep these objects from being closed by the garbage collector in this process."""
    _kept.extend(inherited)


def _after_fork() -> None:
    for one in list(_watched):
        with contextlib.suppress(AttributeError):  # being made while another thread forked
            one.forget_parent()


_watched: weakref.WeakSet[Forked] = weakref.WeakSet()
_kept: list[object] = []
os.register_at_fork(after_in_child=_after_fork)


class Waker:
    """A pipe to poll on: `wake` may be called by any thread, and by a signal handler."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        """The descriptor to poll for reading."""
        return self._read

    def wake(self, why: bytes = b"\0") -> None:
        """Make the descriptor readable, with one byte. After `close` it does nothing."""
        with contextlib.suppress(OSError):
            os.write(self._write, why)

    def clear(self) -> bytes:
        """Make the descriptor unreadable until the next `wake`; returns why it was readable."""
        with contextlib.suppress(OSError):  # nothing to read; after any other error it stays readable
            return os.read(self._read, 4096)
        return b""

    def close(self) -> None:
        """Close both descriptors."""
        read, write, self._read, self._write = self._read, self._write, -1, -1
        for descriptor in (read, write):
            if descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.close(descriptor)


def left_behind() -> bool:
    """Whether this is a daemon thread of a program whose main thread has ended and runs `atexit`.

    What such a thread waits for may never come, and an error would reach no caller: a call then raises
    `SystemExit`, which ends the thread without a message and releases what it holds.
    """
    main = threading.main_thread()
    return not main.is_alive() and threading.current_thread() is not main
