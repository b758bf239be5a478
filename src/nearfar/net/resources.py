"""The limits of a process: how many descriptors it may open, and how many bytes it keeps for its peers.

ZeroMQ aborts the process (SIGABRT) if it gets no descriptor for one of its threads, or for a peer that
connects to a socket file. So `make_room` and `DescriptorLimit` check first that there are enough.
"""

from __future__ import annotations

import errno
import os
import resource

ENOUGH = 32_768
"""Descriptors for the most peers (`nearfar.net.sockets.MOST_PEERS`). The limit is not raised further: some
systems allow a billion, and some libraries iterate over all of them."""
SERVICE = 24
"""Descriptors of a service without peers."""
CALLER = 32
"""Descriptors of a client of a service, including those that the service needs in the same process."""
LEAST_LEFT, MOST_LEFT = 8, 32
"""Descriptors to leave free when a peer is admitted: a 32nd of the limit, within these bounds."""
FULL = 2.0
"""Seconds without room after which a peer is refused; before that, it gets no answer, and asks again."""


def limit() -> int:
    """The number of descriptors that this process may have now (the soft limit)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft


def lift_limit() -> int:
    """Raise the soft limit towards the hard one, as far as is useful; returns the new one.

    Note for users of select(2): it accepts no descriptor above 1,023, and there may be such ones now.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return limit()


def make_room(count: int, what: str) -> None:
    """Ensure that `count` descriptors can be opened for `what`; raises the soft limit if needed.

    Raises `OSError` (EMFILE), with a sentence, if they cannot be opened.
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
    """Whether there are descriptors for another peer of a service. For one thread at a time."""

    REFUSAL = "its process may open no more files at a time: raise its limit (ulimit -n)"

    def __init__(self, each: int) -> None:
        """`each`: descriptors per peer."""
        self._each = each
        self._full_since: float | None = None

    def lacks(self, probe: int, now: float) -> bool:
        """Whether a new peer cannot be admitted now. `probe`: any open descriptor."""
        most = limit()
        left = max(LEAST_LEFT, min(MOST_LEFT, most // 32))
        if lowest_free(probe) + self._each + left <= most:
            self._full_since = None
            return False
        if self._full_since is None:
            self._full_since = now
        return True

    def refuses(self, now: float) -> bool:
        """Whether to refuse new peers, because there has been no room for `FULL` seconds."""
        return self._full_since is not None and now - self._full_since >= FULL


def lowest_free(probe: int) -> int:
    """The lowest free descriptor: all below are in use; the limit if none is free. `probe`: any open one."""
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


EACH = 512
"""Bytes that a message or a task costs in addition to its content."""


class Budget:
    """A budget of `most` bytes for named holders. `add` never refuses bytes: check `fits` first.

    No holder may have more than it leaves free. So a single one may have half of all. If several take as much
    as they may, each has the same share, and the same is free for the next one: a holder that uses up its
    bytes does not wait behind those that do not.

    A holder that was refused may register its demand (`want`): later ones do not overtake it.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0
        """Bytes of all holders together."""
        self.held: dict[str, int] = {}
        self.wanted: dict[str, int] = {}
        """The holders that wait, in order, and for how many more bytes."""

    @property
    def largest(self) -> int:
        """The most bytes that one holder can have, if no other has any."""
        return self.most // 2

    def fits(self, name: str, size: int) -> bool:
        """True if `name` may have `size` more bytes."""
        free = self.most - self.used - size
        for other, wanted in self.wanted.items():
            if other == name:
                break
            free -= wanted
        return self.held.get(name, 0) + size <= free

    def want(self, name: str, size: int) -> None:
        """Register that `name` waits for `size` more bytes (0: no longer). It stays registered until another
        call, or `forget`. More than it can ever have counts as 0."""
        if not 0 < size <= self.largest - self.held.get(name, 0):
            self.wanted.pop(name, None)
        else:
            self.wanted[name] = size

    def strained(self, name: str) -> bool:
        """True if `name` has more than half of what it may have: its source should pause."""
        return 2 * self.held.get(name, 0) > self.most - self.used

    def eased(self, name: str) -> bool:
        """True if `name` has at most about a quarter of what it may have."""
        return 4 * self.held.get(name, 0) <= self.most - self.used

    def add(self, name: str, size: int) -> bool:
        """Add `size` bytes to those of `name`; a negative number removes them. Returns what `strained` would
        say now."""
        self.used += size
        held = self.held.get(name, 0) + size
        if held:
            self.held[name] = held
        else:
            self.held.pop(name, None)
        return 2 * held > self.most - self.used

    def forget(self, name: str) -> None:
        """Remove the bytes and the demand of `name`."""
        self.wanted.pop(name, None)
        self.used -= self.held.pop(name, 0)
