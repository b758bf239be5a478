"""What a process may use: descriptors, memory, and the bytes that it keeps for its peers.

How many files this process may open: as many as the system lets it, and enough for what it begins.

ZeroMQ ends the process (SIGABRT) where it gets no descriptor for one of its threads, or for somebody who
connects to a socket file. So nothing is begun here without room for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import resource
from time import monotonic

from nearfar.net.frames import ProtocolErrors

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


class DescriptorLimit:
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


MUCH = 8 << 20
"""Bytes that were let go, after which it is worth the while."""
EVERY = 1.0
"""Seconds between two times: each takes some milliseconds."""


class Trim:
    """Watches how much a service keeps.

    The allocator keeps what was freed for what comes next. That is right in a stream of messages, and wrong
    after a heap of them that had waited for a peer which is gone.
    """

    def __init__(self) -> None:
        self._most = 0
        self._last = float("-inf")

    def look(self, kept: int, now: float) -> None:
        """So many bytes are kept now: give back what was freed, if it was much. `now` is in seconds."""
        if kept >= self._most:
            self._most = kept
        elif self._most - kept >= MUCH and kept * 2 <= self._most and now >= self._last + EVERY:
            self._most, self._last = kept, now
            give_back()


def give_back() -> None:
    """Have the C library give back what was freed; where it cannot, nothing happens."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


SHORTAGES = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EAGAIN, errno.EINTR}
)
"""Errors of system calls that may succeed when they are made again a little later."""


PAUSE = 0.01
"""Seconds for which a loop stands still that could not wait: it would else burn its processor."""


def shortage(error: BaseException) -> str | None:
    """One sentence; None for any other error."""
    if isinstance(error, RuntimeError) and "start new thread" not in str(error):
        return None
    if not isinstance(error, MemoryError | RuntimeError):
        return None
    return f"{str(error) or 'out of memory'}: raise the limits of memory or processes (ulimit)"


def short(error: BaseException | None) -> bool:
    """Whether it tells that the system lacks something now: what failed may be tried again a little later."""
    return isinstance(error, MemoryError) or getattr(error, "errno", None) in SHORTAGES


class LoopFailures:
    """What fails in a service's loop, for want of something or otherwise, does not end it: it is logged,
    within bounds, and the loop goes on. For one thread at a time.

    Use it where an error has spoiled nothing: what was to be done is done again, or comes again.
    """

    def __init__(self, log: logging.Logger, place: object) -> None:
        """`place`: of the service, for a person."""
        self._place = place
        self._complaints = ProtocolErrors(log)

    @property
    def count(self) -> int:
        """How many there were."""
        return self._complaints.count

    def note(self, error: BaseException, doing: str = "a call failed") -> None:
        """Tell of an error that the loop has survived."""
        self._complaints.note(f"{self._place} goes on, though {doing}: %s", error, monotonic())


EACH = 512
"""Bytes that a message or a task costs besides what it carries."""


class Budget:
    """`most` bytes, for holders by name. Bytes are never refused here: ask `fits` first.

    No holder is to have more than it leaves free. So one alone may have half of all; where several take as
    much as they may, each has the same, and as much again is free for the next who comes: nobody who takes
    what it is given waits behind those who do not.

    Who is refused may say that it still wants them (`want`): those that come after it do not get between.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0
        """Bytes of all holders."""
        self.held: dict[str, int] = {}
        self.wanted: dict[str, int] = {}
        """Who waits, in order, and for how many bytes more."""

    @property
    def largest(self) -> int:
        """Bytes that one holder can have at most, if nobody else has any."""
        return self.most // 2

    def fits(self, name: str, size: int) -> bool:
        """True if `name` may have so many bytes more."""
        free = self.most - self.used - size
        for other, wanted in self.wanted.items():
            if other == name:
                break
            free -= wanted
        return self.held.get(name, 0) + size <= free

    def want(self, name: str, size: int) -> None:
        """`name` waits for so many bytes more, or, with none, for nothing; it has to say so again and again,
        or to be forgotten. More than it can ever have counts as nothing."""
        if not 0 < size <= self.largest - self.held.get(name, 0):
            self.wanted.pop(name, None)
        else:
            self.wanted[name] = size

    def strained(self, name: str) -> bool:
        """True if `name` has more than half of what it may have: what makes more for it is to stop."""
        return 2 * self.held.get(name, 0) > self.most - self.used

    def eased(self, name: str) -> bool:
        """True if it has less than a quarter of that."""
        return 4 * self.held.get(name, 0) <= self.most - self.used

    def add(self, name: str, size: int) -> None:
        """`name` has so many bytes more, or, with a negative number, fewer."""
        self.used += size
        held = self.held.get(name, 0) + size
        if held:
            self.held[name] = held
        else:
            self.held.pop(name, None)

    def forget(self, name: str) -> None:
        """`name` has nothing any more, and wants nothing."""
        self.wanted.pop(name, None)
        self.used -= self.held.pop(name, 0)
