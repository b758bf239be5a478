"""The faults that tests cause in a program from outside."""

from __future__ import annotations

import os
import pty
import signal
from collections.abc import Callable

from nearfar.cli.common import StopRequest
from tests.exits.stage import Actor, pause

AGAIN = StopRequest.ECHO + 0.1
"""Seconds between two signals that are meant as two."""


def once(signum: int) -> Callable[[Actor], None]:
    return lambda actor: actor.signal(signum)


def twice(signum: int) -> Callable[[Actor], None]:
    def blow(actor: Actor) -> None:
        actor.signal(signum)
        pause(AGAIN)
        actor.signal(signum)

    return blow


def everybody(*signums: int) -> Callable[[Actor], None]:
    """Send it to the whole process group, as a terminal or a service manager does."""

    def blow(actor: Actor) -> None:
        for signum in signums:
            actor.signal(signum, group=True)

    return blow


def as_timeout(actor: Actor) -> None:
    """Send it as timeout(1) does: to the process, and at once to its group."""
    actor.signal(signal.SIGTERM)
    actor.signal(signal.SIGTERM, group=True)


def nothing(actor: Actor) -> None:
    """No fault: it ends by itself."""


BLOWS: dict[str, Callable[[Actor], None]] = {
    "none": nothing,
    "INT": once(signal.SIGINT),
    "INT INT": twice(signal.SIGINT),
    "TERM": once(signal.SIGTERM),
    "TERM TERM": twice(signal.SIGTERM),
    "HUP": once(signal.SIGHUP),
    "QUIT": once(signal.SIGQUIT),
    "KILL": once(signal.SIGKILL),
    "Ctrl-C": everybody(signal.SIGINT),
    "TERM all": everybody(signal.SIGTERM),
    "HUP all": everybody(signal.SIGHUP),
    "timeout": as_timeout,
}

SIGNUM = {
    "INT": signal.SIGINT,
    "Ctrl-C": signal.SIGINT,
    "TERM": signal.SIGTERM,
    "timeout": signal.SIGTERM,
    "HUP": signal.SIGHUP,
    "hang-up": signal.SIGHUP,
    "QUIT": signal.SIGQUIT,
    "KILL": signal.SIGKILL,
}


def signum_of(blow: str) -> int:
    """The signal at the end of a fault."""
    return SIGNUM[blow.split()[0]]


class Terminal:
    """A terminal that can be closed under the programs in it."""

    def __init__(self) -> None:
        self._master, self.slave = pty.openpty()

    def hang_up(self) -> None:
        """Close it: the kernel sends SIGHUP to the foreground group, and every write fails from then on."""
        os.close(self.slave)
        os.close(self._master)
