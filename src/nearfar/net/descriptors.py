"""How many files this process may open: as many as the system lets it, and enough for what it begins.

ZeroMQ ends the process (SIGABRT) where it gets no descriptor for one of its threads, or for somebody who
connects to a socket file. So nothing is begun here without room for it.
"""

from __future__ import annotations

import errno
import os
import resource

ENOUGH = 32_768
"""For as many peers as there may be (`nearfar.net.sockets.MOST_PEERS`). More are not asked for: some systems
allow a billion, and there are libraries that walk through them."""
SERVICE = 24
"""Descriptors of a service that nobody has called."""
CALLER = 32
"""Of one that connects to a service, to the end, with what a service in the same process needs for it."""
LEAST_LEFT, MOST_LEFT = 8, 32
"""Left to others when a peer is let in: one of 32 that the process may have, within these bounds."""
FULL = 2.0
"""Seconds without room after which a peer is refused; before, it only gets no answer, and asks again."""


def limit() -> int:
    """The descriptors that this process may have now; no less than those it has."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft


def lift_limit() -> int:
    """Raise the soft limit towards the hard one, as far as is of use; returns what it is then.

    Whoever uses select(2) must know: it takes no descriptor beyond 1,023, and there may be such now.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return limit()


def make_room(count: int, what: str) -> None:
    """See that `count` descriptors can be opened for `what`; raise the soft limit if it takes that.

    Raises `OSError` (EMFILE), with a sentence, where they cannot.
    """
    if not _free(count):
        lift_limit()
        if not _free(count):
            raise OSError(
                errno.EMFILE,
                f"only {limit()} files may be open at a time, and {what} takes {count} more than there are:"
                " raise the limit (ulimit -n), or close some",
            )


class Room:
    """Whether there is room for another peer of a service. For one thread at a time; pure but for a look."""

    REFUSAL = "its process may open no more files at a time: raise its limit (ulimit -n)"

    def __init__(self, each: int) -> None:
        """`each`: descriptors that a peer takes."""
        self._each = each
        self._full_since: float | None = None

    def lacks(self, probe: int, now: float) -> bool:
        """Whether a peer that calls now is not let in. `probe`: any descriptor that is open."""
        most = limit()
        left = max(LEAST_LEFT, min(MOST_LEFT, most // 32))
        if lowest_free(probe) + self._each + left <= most:
            self._full_since = None
            return False
        if self._full_since is None:
            self._full_since = now
        return True

    def refuses(self, now: float) -> bool:
        """Whether it is to be told so: there has been no room for long enough."""
        return self._full_since is not None and now - self._full_since >= FULL


def lowest_free(probe: int) -> int:
    """The lowest descriptor that is free: all below are in use; the limit where none is. `probe`: any that is
    open."""
    try:
        found = os.dup(probe)
    except OSError:
        return limit()
    os.close(found)
    return found


def _free(count: int) -> bool:
    taken: list[int] = []
    try:
        for _ in range(count):
            taken.append(os.eventfd(0, os.EFD_CLOEXEC))  # noqa: PERF401 - those before one that fails are closed
    except OSError:
        return False
    finally:
        for each in taken:
            os.close(each)
    return True
