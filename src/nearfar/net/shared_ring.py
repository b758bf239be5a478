"""Bodies of messages in memory that one process writes and others of its machine and user read.

::

    producer                        host                             consumer
    OwnRing.place(body) -> Place    HostRings.keep(reference)        ReadRing(kept.reference())
    own.reference() --Reference-->  keeps the memory     --again-->  read(place) -> bytes
    own.give_back(place)            kept.read(place), for a consumer elsewhere

The producer fills the pages before it uses them, because fresh pages cost more than copies. A place is its
body's until the producer gives it back. A process that knows a `Reference` opens the memory through
``/proc/PID/fd``: that works for the same user, in the same pid namespace, while the process that is referred
to lives. So consumers are told of the host's descriptor, and the host keeps it until nothing is left that a
producer put that is gone. The memory has no name and ends with the last process that has it open.

A reader copies a body before anything decodes it: its producer could still change it.
"""

from __future__ import annotations

import mmap
import os
import secrets
import stat
from dataclasses import dataclass
from fcntl import F_GET_SEALS, fcntl
from itertools import count
from pathlib import Path
from struct import Struct
from typing import NamedTuple, Self

from nearfar.errors import ProtocolError
from nearfar.net.shared_memory import SEALS, Ring, allowed, create, map_shared

__all__ = ["LEAST", "SIZE", "HostRings", "KeptRing", "OwnRing", "Place", "ReadRing", "Reference"]

SIZE = 16 * 1024 * 1024
"""Bytes of a ring."""
LEAST = 4096
"""Bytes of a body below which to share it costs more than to copy it."""
LARGEST = 1 << 30
"""Bytes of the largest ring that is mapped for somebody else."""
TOKEN = 16
"""Random bytes at the beginning of a ring: a descriptor of the same number may by now be another ring."""
START = 64
"""Where the first body may begin: a line of the processor's cache behind the token."""


class Place(NamedTuple):
    """Where a body lies in a ring."""

    start: int
    size: int

    def encode(self) -> bytes:
        return _PLACE.pack(*self)

    @classmethod
    def decode(cls, encoded: bytes) -> Self:
        """Read what `encode` made. Raises ProtocolError. Whether a ring has that place, its reader checks."""
        if len(encoded) != _PLACE.size:
            raise ProtocolError(f"a place of {len(encoded)} bytes")
        return cls(*_PLACE.unpack(encoded))


_PLACE = Struct("<QQ")


class Reference(NamedTuple):
    """How another process finds a ring."""

    pid: int
    descriptor: int
    size: int
    token: bytes


class OwnRing:
    """The ring of a producer, which alone writes it. Not safe to be used by two threads at once.

    A child process that inherits it may only call `close`.
    """

    def __init__(self, size: int = SIZE) -> None:
        """`size` in bytes; less where ``ulimit -f`` allows less. All of it is taken from the system at once.

        Raises OSError or MemoryError where there is no memory, or no descriptor, or not a page is allowed.
        """
        self._size = allowed(size) // mmap.PAGESIZE * mmap.PAGESIZE
        self._descriptor = create(self._size)
        try:
            os.posix_fallocate(self._descriptor, 0, self._size)
            self._mapping = map_shared(self._descriptor, self._size, populate=True)
        except BaseException:
            os.close(self._descriptor)
            raise
        self._view = memoryview(self._mapping)
        self._token = secrets.token_bytes(TOKEN)
        self._view[:TOKEN] = self._token
        self._ring = Ring(self._size - START)

    def reference(self) -> Reference:
        return Reference(os.getpid(), self._descriptor, self._size, self._token)

    def place(self, body: bytes | memoryview) -> Place | None:
        """Copy `body`, of 1 byte or more, into the ring; None if it has no room now.

        Do this where nothing can be raised in the middle (`nearfar.net.deputy`): a place that was taken and
        not returned is never given back.
        """
        size = len(body)
        start = self._ring.take(size)
        if start is None:
            return None
        start += START
        self._view[start : start + size] = body
        return Place(start, size)

    def give_back(self, place: Place) -> None:
        """Say that nobody will read what `place` returned any more. Once for each."""
        self._ring.give_back(place.start - START)

    def close(self) -> None:
        """Let go of the memory in this process. A second call does nothing."""
        _close(self._mapping, self._view)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class KeptRing:
    """A producer's ring in the host's hands: kept after the producer's death, passed on, and seldom read."""

    def __init__(self, reference: Reference) -> None:
        """Raises OSError where this process cannot see the ring, ProtocolError for what is none."""
        self._descriptor = _open(reference)
        self._told = reference

    def reference(self) -> Reference:
        """What a consumer opens: good until `close`, though the producer be gone."""
        return self._told._replace(pid=os.getpid(), descriptor=self._descriptor)

    def read(self, place: Place) -> bytes:
        """A copy of a body, for a consumer that cannot see the ring. Raises as `ReadRing.read`."""
        _check(place, self._told.size)
        return os.pread(self._descriptor, place.size, place.start)

    def close(self) -> None:
        """Let go of it. Who has it open still reads it. A second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@dataclass(slots=True)
class _Kept:
    ring: KeptRing
    bodies: int = 0
    left: bool = False


class HostRings:
    """The rings that a host keeps, each under a number that no other ring of this host ever has.

    A ring ends when its producer has left and none of its bodies is left.
    """

    def __init__(self) -> None:
        self._kept: dict[int, _Kept] = {}
        self._numbers = count(1)
        self._ended: list[int] = []

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, reference: Reference) -> int:
        """Keep another ring; its number. Raises as `KeptRing`."""
        ring = KeptRing(reference)
        number = next(self._numbers)
        self._kept[number] = _Kept(ring)
        return number

    def ring(self, number: int) -> KeptRing:
        """Raises ProtocolError where there is none of that number."""
        return self._find(number).ring

    def add(self, number: int, bodies: int = 1) -> None:
        """The host has so many more bodies in that ring. Raises ProtocolError as `ring` does."""
        self._find(number).bodies += bodies

    def remove(self, number: int, bodies: int = 1) -> None:
        """So many of its bodies are done with. Raises ProtocolError for more than there are."""
        kept = self._find(number)
        if bodies > kept.bodies:
            raise ProtocolError(f"{bodies} bodies of {kept.bodies} in ring {number} are done with")
        kept.bodies -= bodies
        self._end_if_over(number, kept)

    def leave(self, number: int) -> None:
        """The producer is gone, or will put nothing more into that ring. A second call does nothing."""
        if kept := self._kept.get(number):
            kept.left = True
            self._end_if_over(number, kept)

    def take_ended(self) -> list[int]:
        """The numbers of rings that ended since the last call: consumers can unmap them."""
        ended, self._ended = self._ended, []
        return ended

    def close(self) -> None:
        """Let go of all of them."""
        while self._kept:
            self._kept.popitem()[1].ring.close()

    def _find(self, number: int) -> _Kept:
        kept = self._kept.get(number)
        if kept is None:
            raise ProtocolError(f"there is no ring {number}")
        return kept

    def _end_if_over(self, number: int, kept: _Kept) -> None:
        if kept.left and not kept.bodies:
            del self._kept[number]
            self._ended.append(number)
            kept.ring.close()


class ReadRing:
    """Somebody else's ring, mapped to be read. It keeps no descriptor."""

    def __init__(self, reference: Reference) -> None:
        """Raises OSError where this process cannot see or map the ring, ProtocolError for what is none."""
        descriptor = _open(reference)
        try:
            self._mapping = map_shared(descriptor, reference.size, read_only=True, populate=True)
        finally:
            os.close(descriptor)
        self._view = memoryview(self._mapping).toreadonly()

    def read(self, place: Place) -> bytes:
        """A copy of a body. Raises ProtocolError for what is no place of this ring."""
        start, size = _check(place, len(self._view))
        return bytes(self._view[start : start + size])

    def close(self) -> None:
        """Unmap it. A second call does nothing."""
        _close(self._mapping, self._view)


def _open(reference: Reference) -> int:
    """A descriptor to read the ring with; what another file may have become is not opened."""
    pid, descriptor, size, token = reference
    if not START < size <= LARGEST:
        raise ProtocolError(f"a ring of {size} bytes")
    path = Path(f"/proc/{pid:d}/fd/{descriptor:d}")
    _look(path.stat(), size)
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _look(os.fstat(opened), size)
        try:
            seals = fcntl(opened, F_GET_SEALS)
        except OSError as error:
            raise ProtocolError("a descriptor that is not memory, told of as a ring") from error
        if seals & SEALS != SEALS or os.pread(opened, TOKEN, 0) != token:
            raise ProtocolError(f"descriptor {descriptor} of process {pid} is not the ring that was told of")
    except BaseException:
        os.close(opened)
        raise
    return opened


def _look(status: os.stat_result, size: int) -> None:
    """Raise ProtocolError unless it is a file of this user, and of that size."""
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_size != size:
        raise ProtocolError("a descriptor that is no ring of this user")


def _check(place: Place, size: int) -> Place:
    if not (START <= place.start < size and 0 < place.size <= size - place.start):
        raise ProtocolError(f"{place.size} bytes at {place.start} in a ring of {size}")
    return place


def _close(mapping: mmap.mmap, view: memoryview) -> None:
    view.release()
    mapping.close()
