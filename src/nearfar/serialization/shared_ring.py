"""Bodies of messages in memory that one process writes and others of its machine and user read.

::

    producer                       host                              consumer
    OwnRing.place(parts) -> Place  HostRings.keep(reference)         ReadRings.open(number, reference)
    own.reference() --Reference--> KeptRing.reference() --Reference-> ReadRings.read(place) -> bytes
    own.give_back(place)           KeptBody: a place, and its ring

A place belongs to its body until the producer gives it back. A process that has a `Reference` opens the
memory through ``/proc/PID/fd``: the kernel permits that to the same user, in the same pid namespace, while
process PID lives. Consumers get the host's descriptor, which outlives the producer: the host keeps it while
it has a `KeptBody` there. The memory has no name in any file system, and is freed when the last process that
has it open ends, however that process ends. Its pages are allocated before they are written, so that no
process is killed by SIGBUS.

A consumer that was suspended may read a place that its producer has reused since. So the producer first
raises the *floor*, the position below which bodies may be overwritten; a reader checks it after it has copied
a body, and before the body is decoded.
"""

from __future__ import annotations

import mmap
import os
import secrets
import stat
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from errno import EFBIG
from fcntl import F_GET_SEALS, fcntl
from itertools import count
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple, Self, TypeVar

from nearfar.errors import ProtocolError
from nearfar.net import process
from nearfar.net.memory import keep_freed_memory
from nearfar.net.process import machine_id
from nearfar.serialization.shared_memory import SEALS, Ring, allowed, create, map_shared

T = TypeVar("T")

SWITCH = "NEARFAR_SHARED_MEMORY"
"""The environment variable: with the value 0, a process neither shares bodies nor reads shared ones."""
SIZE = 16 * 1024 * 1024
"""Bytes of a ring, at most. A larger one would not fit into the processor's cache."""
STEP = 1024 * 1024
"""Bytes that are allocated at a time, when they are first needed."""
LARGEST = 1 << 30
"""Bytes of the largest ring of another process that is mapped."""
TOKEN = 16
"""Bytes at the beginning of a ring that only its producer and its host have. The next `TOKEN` bytes are the
mark, which consumers have, too. Both are random: a descriptor number may have been reused for another
ring."""
FLOOR = 2 * TOKEN
"""The offset of the floor, a number of 8 bytes."""
START = 64
"""The offset of the first body: the next line of the processor's cache."""
NAME = "nearfar-ring"
"""The name of the memory, set by the process that made it: other memory of this user is never read."""


def enabled() -> bool:
    """Whether this process may share bodies with others."""
    return os.environ.get(SWITCH) != "0"


class Overwritten(ProtocolError):
    """The producer has reused the place of a body."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a body is. Its length is that of the body."""

    start: int
    """Its position: its offset is this number modulo the size of the ring; each lap has higher positions."""
    size: int
    """Bytes of the body."""
    ring: int = 0
    """The number of the ring at the host; 0: that of the session."""

    def __len__(self) -> int:
        return self.size

    def encode(self) -> bytes:
        return _PLACE.pack(self.start, self.size, self.ring)

    @classmethod
    def decode(cls, encoded: bytes | memoryview) -> Self:
        """Decode the output of `encode`. Raises ProtocolError. The reader checks whether a ring has that
        place."""
        if len(encoded) != _PLACE.size:
            raise ProtocolError(f"a place of {len(encoded)} bytes")
        start, size, ring = _PLACE.unpack(encoded)
        if (start | size | ring) >> 62 or not size:
            raise ProtocolError(f"a place of {size} bytes at {start}")
        return cls(start, size, ring)


_PLACE = Struct("<QQQ")


class Reference(NamedTuple):
    """How another process finds a ring."""

    pid: int
    descriptor: int
    size: int
    proof: bytes
    """The token, for the host; the mark, for a consumer."""

    def encode(self) -> bytes:
        return _REFERENCE.pack(*self)

    @classmethod
    def decode(cls, encoded: Any) -> Self:
        """Decode the output of `encode`. Raises ProtocolError for anything else; whether there is such a ring
        is checked when it is opened."""
        if type(encoded) is not bytes or len(encoded) != REFERENCE:
            raise ProtocolError("not a reference to a ring")
        reference = cls(*_REFERENCE.unpack(encoded))
        if not reference.pid or (reference.pid | reference.descriptor) >> 31:
            raise ProtocolError("not a reference to a ring")
        return reference


_REFERENCE = Struct(f"<IIQ{TOKEN}s")
REFERENCE = _REFERENCE.size
"""Bytes of an encoded reference."""


class OwnRing:
    """The ring of a producer, its only writer. Not thread-safe. In a child that inherits it, it is closed."""

    def __init__(self, size: int = SIZE) -> None:
        """`size` is in bytes; the ring is smaller if ``ulimit -f`` requires that. Raises OSError or
        MemoryError without memory or descriptors."""
        self._size = allowed(size) // mmap.PAGESIZE * mmap.PAGESIZE
        if not self._size:
            raise OSError(EFBIG, os.strerror(EFBIG))
        self._descriptor = create(self._size, NAME)
        self._end = weakref.finalize(self, os.close, self._descriptor)
        self._end.atexit = False
        self._room = self._size - START
        self._ring = Ring(self._room)
        self._allocated = self._next = self._lap = 0
        self.used = 0
        """Bytes of the bodies stored here."""
        try:
            self._allocate(START)
            self._mapping = map_shared(self._descriptor, self._size)
        except BaseException:
            self._end()
            raise
        self._view = memoryview(self._mapping)
        self._floor = self._view[FLOOR : FLOOR + 8].cast("Q")
        keep_freed_memory()
        self._token = secrets.token_bytes(TOKEN)
        self._view[:FLOOR] = self._token + secrets.token_bytes(TOKEN)
        process.watch(self)

    def reference(self) -> Reference:
        """The reference for the host."""
        return Reference(os.getpid(), self._descriptor, self._size, self._token)

    def place(self, parts: Sequence[bytes], size: int) -> Place | None:
        """Copy `parts`, of `size` bytes together (1 or more), into the ring; None if there is no room or no
        memory now, and after `close`.

        Call this where no exception can interrupt it: a place that was taken and not returned is lost.
        """
        at = self._ring.take(size) if self._end.alive else None
        if at is None:
            return None
        if START + at + size > self._allocated:
            try:
                self._allocate(START + at + size)
            except OSError:
                self._ring.give_back(at)
                return None
        if at < self._next:
            self._lap += self._room
        self._next = at + size
        self.used += size
        start = self._lap + at
        if start + size - self._room > self._floor[0]:
            self._floor[0] = start + size - self._room
        view, offset = self._view, START + at
        for part in parts:
            end = offset + len(part)
            view[offset:end] = part
            offset = end
        return Place(start, size)

    def read(self, place: Place) -> bytes:
        """A copy of a body that was placed and not given back."""
        at = START + place.start % self._room
        return bytes(self._view[at : at + place.size])

    def give_back(self, place: Place) -> None:
        """Free a place, once: no process will read it."""
        self._ring.give_back(place.start % self._room)
        self.used -= place.size

    def close(self) -> None:
        """Release the memory in this process. A second call does nothing."""
        if self._end.alive:
            _release(self._mapping, self._floor, self._view)
            self._end()

    def forget_parent(self) -> None:
        self.close()

    def _allocate(self, end: int) -> None:
        """Allocate memory for the first `end` bytes. Raises OSError."""
        end = min(self._size, -(-end // STEP) * STEP)
        os.posix_fallocate(self._descriptor, self._allocated, end - self._allocated)
        self._allocated = end


class ReadRing:
    """Another process's ring. In a child that inherits it, it is closed."""

    def __init__(self, reference: Reference) -> None:
        """Raises OSError or MemoryError if this process cannot open and map the ring, ProtocolError if there
        is none."""
        self._size = reference.size
        self._room = reference.size - START
        self._mapping: mmap.mmap | None = None
        self._view = self._floor = memoryview(b"")
        self._take(_open(reference, self._known_by))
        process.watch(self)

    _known_by = slice(TOKEN, 2 * TOKEN)
    """The bytes of the ring that must equal a reference's proof."""

    def _take(self, descriptor: int) -> None:
        try:
            self._map(descriptor)
        finally:
            os.close(descriptor)

    def check(self, place: Place) -> None:
        """Raise ProtocolError if the ring has no such place."""
        if place.start % self._room + place.size > self._room:
            raise ProtocolError(f"{place.size} bytes at {place.start} in a ring of {self._size}")

    def read(self, place: Place, copy: Callable[[memoryview], T]) -> T:
        """The result of `copy` for a body: it must keep no reference to the memory, and must not execute its
        content.

        Raises ProtocolError for a place that the ring does not have, or no longer has (`Overwritten`), and
        OSError or MemoryError if it cannot be mapped.
        """
        made = copy(self.view(place))
        if place.start < self._floor[0]:
            raise Overwritten(f"the body at {place.start} was overwritten")
        return made

    def view(self, place: Place) -> memoryview:
        """The memory of a body, which may be overwritten. Raises as `read`. Delete it before `close`."""
        self.check(place)
        if self._mapping is None:
            self._map_again()
        at = START + place.start % self._room
        return self._view[at : at + place.size]

    def close(self) -> None:
        """Release the memory. A second call does nothing."""
        if self._mapping is not None:
            mapping, self._mapping = self._mapping, None
            _release(mapping, self._floor, self._view)

    def forget_parent(self) -> None:
        self.close()

    def _map(self, descriptor: int) -> None:
        self._mapping = map_shared(descriptor, self._size, read_only=True)
        self._view = memoryview(self._mapping).toreadonly()
        self._floor = self._view[FLOOR : FLOOR + 8].cast("Q")

    def _map_again(self) -> None:
        raise OSError("the ring is closed")


class KeptRing(ReadRing):
    """A producer's ring, kept by the host even after the producer's death, while something refers to it.

    The host seldom reads it, so it is mapped when it is first read.
    """

    _known_by = slice(0, TOKEN)

    def __init__(self, reference: Reference, number: int, ended: deque[int]) -> None:
        """`number` is appended to `ended` when nothing refers to the ring any more."""
        super().__init__(reference)
        self.number = number
        mark = os.pread(self._descriptor, TOKEN, TOKEN)
        self._told = Reference(os.getpid(), self._descriptor, self._size, mark)
        weakref.finalize(self, ended.append, number).atexit = False

    def reference(self) -> Reference:
        """The reference for consumers."""
        return self._told

    def close(self) -> None:
        super().close()
        self._end()

    def _take(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._end = weakref.finalize(self, os.close, descriptor)
        self._end.atexit = False

    def _map_again(self) -> None:
        if not self._end.alive:
            super()._map_again()
        self._map(self._descriptor)


@dataclass(frozen=True, slots=True)
class KeptBody:
    """A body in a ring, kept by the host."""

    ring: KeptRing
    place: Place

    def __len__(self) -> int:
        return self.place.size

    def __getitem__(self, part: slice) -> KeptBody | bytes:
        """A part of it."""
        start, stop, _ = part.indices(self.place.size)
        if start >= stop:
            return b""
        return KeptBody(self.ring, Place(self.place.start + start, stop - start, self.place.ring))

    def view(self) -> memoryview:
        """The memory, which may be overwritten; empty in the same cases as `read`."""
        try:
            return self.ring.view(self.place)
        except (ProtocolError, OSError, MemoryError):
            return memoryview(b"")

    def read(self) -> bytes:
        """A copy; empty if its producer has overwritten it, or if there is no memory to map it."""
        try:
            return self.ring.read(self.place, bytes)
        except (ProtocolError, OSError, MemoryError):
            return b""


Body = bytes | KeptBody


def whole(body: Body) -> bytes:
    """The bytes of a body that the host has."""
    return body.read() if type(body) is KeptBody else body  # type: ignore[return-value]


class HostRings:
    """The rings that a host keeps, each with a number that is unique for this host."""

    def __init__(self) -> None:
        self.machine = machine_id() if enabled() else ""
        """The machine on which rings can be opened; empty: none."""
        self.ended: deque[int] = deque()
        """The numbers of rings that ended, until they are taken from here."""
        self._numbers = count(1)
        self._kept: weakref.WeakSet[KeptRing] = weakref.WeakSet()

    def reach(self, about: Mapping[str, Any]) -> bool:
        """Whether the client with this `about` is on this machine, and shares bodies."""
        return bool(self.machine) and about.get("shares") == self.machine

    def keep(self, reference: Reference) -> KeptRing | None:
        """The ring, or None if this process cannot open it."""
        try:
            ring = KeptRing(reference, next(self._numbers), self.ended)
        except (OSError, MemoryError, ProtocolError):
            return None
        self._kept.add(ring)
        return ring

    def close(self) -> None:
        """Release all of them."""
        for ring in list(self._kept):
            ring.close()


class ReadRings:
    """The rings that a consumer reads in one session."""

    def __init__(self) -> None:
        self._rings: dict[int, ReadRing] = {}

    def open(self, number: int, reference: Reference) -> bool:
        """Open a ring; returns whether this process can."""
        try:
            self._rings[number] = ReadRing(reference)
            keep_freed_memory()
        except (OSError, MemoryError, ProtocolError):
            return False
        return True

    def read(self, place: Place, copy: Callable[[memoryview], T]) -> T:
        """As `ReadRing.read`."""
        ring = self._rings.get(place.ring)
        if ring is None:
            raise OSError(f"ring {place.ring} is not open")
        return ring.read(place, copy)

    def end(self, number: int) -> None:
        """Close a ring."""
        ring = self._rings.pop(number, None)
        if ring is not None:
            ring.close()

    def close(self) -> None:
        """Close all of them."""
        for number in list(self._rings):
            self.end(number)


def _open(reference: Reference, known_by: slice) -> int:
    """A descriptor to read the ring with; if the reference is outdated, nothing else is opened."""
    pid, descriptor, size, proof = reference
    if not START < size <= LARGEST:
        raise ProtocolError(f"a ring of {size} bytes")
    path = Path(f"/proc/{pid:d}/fd/{descriptor:d}")
    _check_file(path, path.stat(), size)
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _check_file(Path(f"/proc/self/fd/{opened:d}"), os.fstat(opened), size)
        length = known_by.stop - known_by.start
        if fcntl(opened, F_GET_SEALS) & SEALS != SEALS or os.pread(opened, length, known_by.start) != proof:
            raise ProtocolError(f"descriptor {descriptor} of process {pid} is another ring")
    except BaseException:
        os.close(opened)
        raise
    return opened


def _check_file(path: Path, status: os.stat_result, size: int) -> None:
    """Raise ProtocolError unless it is a ring of this user, of that size."""
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_size != size:
        raise ProtocolError("a descriptor that is not a ring of this user")
    if not str(path.readlink()).startswith(f"/memfd:{NAME} "):
        raise ProtocolError("a descriptor that is not a ring")


def _release(mapping: mmap.mmap, *views: memoryview) -> None:
    """Unmap memory; in a child that was forked while another thread used it, its pages stay."""
    with suppress(BufferError):
        for view in views:
            view.release()
        mapping.close()
