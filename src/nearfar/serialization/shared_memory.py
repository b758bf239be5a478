"""Large payloads in memory shared by processes of one machine; a message carries only a descriptor.

A segment of memory has no name in any file system. It is a sealed memfd: its size cannot change, so that no
reader is killed by SIGBUS, and the kernel frees it with the last process that has it, however that process
ends.

ctypes is imported with the first mapping, not with this module: most workers never receive a large payload,
and the import would slow down the start of all.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import resource
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from errno import ENOSPC
from functools import cache
from itertools import count
from struct import Struct, pack, unpack
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from nearfar.errors import ProtocolError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

__all__ = [
    "IDLE",
    "INLINE",
    "SEALS",
    "Ring",
    "SegmentDescriptor",
    "SegmentReceiver",
    "SegmentSender",
    "allowed",
    "create",
    "export",
    "exported",
    "layout",
    "map_shared",
    "size_class",
    "size_of",
]


SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
MAP_FIXED = 0x10


def create(size: int, name: str = "nearfar") -> int:
    """The file descriptor of `size` bytes of new, zeroed memory. The name is shown in /proc. Raises
    OSError."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def allowed(size: int) -> int:
    """`size`, or the largest size of a file by ``ulimit -f`` if that is less."""
    longest, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return size if longest == resource.RLIM_INFINITY else min(size, longest)


if sys.version_info >= (3, 13):

    def map_shared(fd: int, size: int, *, read_only: bool = False, populate: bool = False) -> mmap.mmap:
        """Map memory; the mapping keeps no file descriptor. Raises OSError.

        With `populate`, all its pages are loaded at once.
        """
        flags = mmap.MAP_SHARED | (mmap.MAP_POPULATE if populate else 0)
        access = mmap.PROT_READ | (0 if read_only else mmap.PROT_WRITE)
        return mmap.mmap(fd, size, flags, access, trackfd=False)

else:

    def map_shared(fd: int, size: int, *, read_only: bool = False, populate: bool = False) -> mmap.mmap:
        """Map memory; the mapping keeps no file descriptor. Raises OSError.

        With `populate`, all its pages are loaded at once.

        `mmap.mmap` would keep a duplicate of `fd`, and a program that keeps a thousand results would run out
        of descriptors. So the memory is mapped over an anonymous mapping, which then owns the address range.
        Python takes that one for writable: expose only read-only views of `read_only` memory.
        """
        import ctypes

        mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        access = mmap.PROT_READ | (0 if read_only else mmap.PROT_WRITE)
        flags = mmap.MAP_SHARED | MAP_FIXED | (mmap.MAP_POPULATE if populate else 0)
        if _libc_mmap()(address, size, access, flags, fd, 0) != address:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return mapping

    @cache
    def _libc_mmap() -> Any:
        import ctypes

        function = ctypes.CDLL(None, use_errno=True).mmap
        function.restype = ctypes.c_void_p
        number = ctypes.c_int
        function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, number, number, number, ctypes.c_long]
        return function


class Ring:
    """Allocates ranges in `size` bytes, for users that free them roughly in the order of allocation. Pure.

    An empty ring starts again at 0, in memory that was used lately.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._next = 0
        self._held: deque[int] = deque()
        """The starts of the allocated ranges, the oldest first."""
        self._free: set[int] = set()
        """Those of them that were freed while an older one is still in use."""

    def take(self, size: int) -> int | None:
        """The start of a new range of `size` bytes (1 or more), or None if there is no room now."""
        start = self._start(size)
        if start is not None:
            self._held.append(start)
            self._next = start + size
        return start

    def _start(self, size: int) -> int | None:
        if not self._held:
            return 0 if size <= self._size else None
        oldest, start = self._held[0], self._next
        if start > oldest:
            if start + size <= self._size:
                return start
            start = 0
        return start if start + size < oldest else None

    def give_back(self, start: int) -> None:
        self._free.add(start)
        while self._held and self._held[0] in self._free:
            self._free.discard(self._held.popleft())


INLINE = 64 * 1024
"""Bytes: smaller payloads are sent in the message itself, where copying them is cheaper.

Up to 128 KiB both ways take the same time, but a socket holds few messages of that size.
"""

IDLE = 64 * 1024 * 1024
"""Bytes of idle segments that are kept, for one direction."""

SMALLEST = 64 * 1024
LARGEST_POWER = 64 * 1024 * 1024
STEP = 16 * 1024 * 1024


def size_class(length: int) -> int:
    """Bytes of a segment for `length` bytes: a power of two, above 64 MiB a multiple of 16 MiB."""
    if length > LARGEST_POWER:
        return -(-length // STEP) * STEP
    return max(SMALLEST, 1 << (length - 1).bit_length())


def size_of(fd: int) -> int:
    """The size in bytes of the segment `fd` that a peer sent.

    Raises ProtocolError for an invalid one: not sealed, so that the peer could truncate it and have its
    reader killed by SIGBUS, or not of a size class.
    """
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        raise ProtocolError("a file descriptor that is not memory") from error
    size = os.fstat(fd).st_size
    if seals & SEALS != SEALS or size <= 0 or size != size_class(size):
        raise ProtocolError(f"a segment of {size} bytes with seals {seals:#x}")
    return size


@cache
def _bytes_type() -> Any:
    """A byte type whose arrays have the buffer format "B", like bytes: c_ubyte has "<B"."""
    import ctypes

    class Byte(ctypes.Union):
        _fields_ = (("value", ctypes.c_ubyte),)

    return Byte


def export(mapping: mmap.mmap, size: int) -> Buffer:
    """A new object for one use of `mapping`, which supports weak references.

    Everything made over it keeps it alive: views, their slices, numpy arrays. (They do not keep alive the
    memoryview from which they were made, so a memoryview would not do.) ctypes keeps a type for each length
    it was ever given: pass only sizes of segments.
    """
    array: Buffer = (_bytes_type() * size).from_buffer(mapping)
    return array


def exported(mapping: mmap.mmap) -> bool:
    """Whether anything still uses `mapping`.

    A mapping in use refuses to be resized before it checks the size, and every mapping refuses this size.
    """
    try:
        mapping.resize(-1)
    except BufferError:
        return True
    except ValueError:
        return False
    raise AssertionError("a mapping of -1 bytes")


ALIGNMENT = 64
HEADER = Struct("<QBII")
"""The segment's number, whether it is new, and how many lengths and numbers follow."""


class SegmentDescriptor(NamedTuple):
    """The place of the parts of a payload."""

    number: int
    """The segment's number, unique for its sender."""
    new: bool
    """Whether the segment's file descriptor comes with the message."""
    lengths: tuple[int, ...]
    """Bytes of each part; `layout` gives their offsets."""
    dropped: tuple[int, ...] = ()
    """Numbers of segments that will not be used again."""

    def encode(self) -> bytes:
        values = self.lengths + self.dropped
        header = HEADER.pack(self.number, self.new, len(self.lengths), len(self.dropped))
        return header + pack(f"<{len(values)}Q", *values)

    @classmethod
    def decode(cls, encoded: bytes | memoryview) -> Self:
        """Decode what `encode` made. Raises ProtocolError."""
        if len(encoded) < HEADER.size:
            raise ProtocolError(f"a descriptor of {len(encoded)} bytes")
        number, new, lengths, dropped = HEADER.unpack_from(encoded)
        tail = encoded[HEADER.size :]
        if new > 1 or len(tail) != 8 * (lengths + dropped):
            raise ProtocolError(f"a descriptor of {len(encoded)} bytes for {lengths} parts")
        values = unpack(f"<{lengths + dropped}Q", tail)
        return cls(number, bool(new), values[:lengths], values[lengths:])


def layout(lengths: Sequence[int]) -> tuple[list[int], int]:
    """The offsets of parts of these lengths, each aligned to 64 bytes, and the end of the last one."""
    offsets = []
    end = 0
    for length in lengths:
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        offsets.append(offset)
        end = offset + length
    return offsets, end


LARGEST_WRITE = 0x7FFFF000
"""Bytes that one call of write(2) accepts."""


class _Segment(NamedTuple):
    number: int
    mapping: mmap.mmap
    freed: int = 0
    """The tick at which it was last freed."""


class SegmentSender:
    """Puts payloads into segments.

    A segment is free again once the receiver has released it, or the message with its descriptor is taken
    back. While a user keeps a result, its segment is not free: then new ones are made. Not thread-safe; a
    child process that inherits one must not use it.
    """

    def __init__(self, idle: int = IDLE) -> None:
        """`idle`: bytes of free segments that are kept; beyond that, the longest unused are dropped first."""
        self._limit = idle
        self._idle = 0
        self._numbers = count()
        self._ticks = count(1)
        self._placed: dict[int, _Segment] = {}
        self._free: dict[int, deque[_Segment]] = {}
        self._dropped: list[int] = []

    @property
    def idle(self) -> int:
        """Bytes of free segments."""
        return self._idle

    def place(self, parts: Sequence[Buffer]) -> tuple[bytes, list[int]]:
        """Copy `parts`, which are C-contiguous, into one segment.

        Return the descriptor to put into the message, and the file descriptors to send with it: one if the
        receiver does not have that segment yet, else none. The caller must close them once they are sent.
        The messages may arrive in any order. Raises OSError or MemoryError if there is no memory or no file
        descriptor, BufferError for a part that is not contiguous; nothing is changed then.
        """
        lengths = tuple(memoryview(part).nbytes for part in parts)
        offsets, length = layout(lengths)
        size = size_class(length)
        segment, fds = self._take(size), []
        if segment is None:
            segment, fd = self._make(size, parts, offsets)
            fds = [fd]
        else:
            self._fill(segment, parts, offsets)
        self._placed[segment.number] = segment
        dropped, self._dropped = tuple(self._dropped), []
        return SegmentDescriptor(segment.number, bool(fds), lengths, dropped).encode(), fds

    def unplace(self, descriptor: bytes, fds: Iterable[int] = ()) -> None:
        """Take back a placed payload whose message was not sent, or came back unread.

        `fds` are its file descriptors, if the caller still has them; they are closed. Raises ValueError if it
        is not placed.
        """
        for fd in fds:
            os.close(fd)
        told = SegmentDescriptor.decode(descriptor)
        segment = self._placed.pop(told.number, None)
        if segment is None:
            raise ValueError(f"segment {told.number} is not placed")
        self._dropped += told.dropped
        if told.new:
            segment.mapping.close()  # the receiver never got it, and its file descriptor is gone
        else:
            self._keep(segment)

    def released(self, numbers: Iterable[int]) -> None:
        """Free the segments that `SegmentReceiver.take_released` returned. Raises ProtocolError for one that
        is not placed."""
        for number in numbers:
            gone = number < 0
            segment = self._placed.pop(~number if gone else number, None)
            if segment is None:
                raise ProtocolError(f"segment {number} was released, and is not placed")
            if gone:
                segment.mapping.close()
            else:
                self._keep(segment)

    def close(self) -> None:
        """Release all memory. Segments mapped by the receiver remain until they are no longer used there."""
        segments = [*self._placed.values(), *(each for row in self._free.values() for each in row)]
        self._placed.clear()
        self._free.clear()
        self._idle = 0
        for segment in segments:
            segment.mapping.close()

    def _take(self, size: int) -> _Segment | None:
        """The most recently freed segment of this size, which is the most likely to be in the CPU's cache."""
        row = self._free.get(size)
        if not row:
            return None
        self._idle -= size
        return row.pop()

    def _fill(self, segment: _Segment, parts: Sequence[Buffer], offsets: list[int]) -> None:
        mapping = segment.mapping
        try:
            for part, offset in zip(parts, offsets, strict=True):
                mapping[offset : offset + memoryview(part).nbytes] = part
        except BaseException:
            self._keep(segment)
            raise

    def _make(self, size: int, parts: Sequence[Buffer], offsets: list[int]) -> tuple[_Segment, int]:
        fd = create(size)
        try:
            mapping = map_shared(fd, size)
            for part, offset in zip(parts, offsets, strict=True):
                _write(fd, mapping, part, offset)
        except BaseException:
            os.close(fd)
            raise
        if size <= self._limit:  # a larger one will not be kept, so it needs no room
            self._shrink(self._limit - size)
        return _Segment(next(self._numbers), mapping), fd

    def _keep(self, segment: _Segment) -> None:
        size = len(segment.mapping)
        self._free.setdefault(size, deque()).append(segment._replace(freed=next(self._ticks)))
        self._idle += size
        self._shrink(self._limit)

    def _shrink(self, limit: int) -> None:
        """Drop free segments until `limit` bytes are left, the longest unused first."""
        while self._idle > limit:
            row = min((row for row in self._free.values() if row), key=lambda row: row[0].freed)
            segment = row.popleft()
            self._idle -= len(segment.mapping)
            self._dropped.append(segment.number)
            segment.mapping.close()


def _write(fd: int, mapping: mmap.mmap, part: Buffer, offset: int) -> None:
    """Fill new memory. Writing to the file takes half the time of page faults, and without free memory it
    fails with an error instead of a signal.
    """
    length = memoryview(part).nbytes
    written = os.pwrite(fd, part, offset)
    if written < length <= LARGEST_WRITE:
        raise OSError(ENOSPC, os.strerror(ENOSPC))
    if written < length:
        mapping[offset : offset + length] = part


USES = 4096
"""Segments in use at a time; the kernel allows a process 65,530 mappings in total."""


class _Forks:
    """How often this process forked. A child may still use what its parent no longer uses."""

    count = 0

    @classmethod
    def add(cls) -> None:
        cls.count += 1


os.register_at_fork(before=_Forks.add)


class _Use(weakref.ref[Any]):
    """One use of a segment: a weak reference to the object that all views of this use keep alive."""

    __slots__ = ("forks", "number")

    number: int
    forks: int

    def __new__(cls, exporter: Buffer, number: int, ended: Callable[[Self], None]) -> Self:
        """`ended` may be called in any thread, at any point: it must be atomic."""
        use = super().__new__(cls, exporter, ended)
        use.number = number
        use.forks = _Forks.count
        return use

    def __init__(self, exporter: Buffer, number: int, ended: Callable[[Self], None]) -> None:
        super().__init__(exporter, ended)  # type: ignore[call-arg]  # typeshed has only its __new__


class SegmentReceiver:
    """Provides views of payloads in shared memory.

    Not thread-safe, but views may be deleted in any thread at any time. A child process that inherits one
    must not use it; views that it inherits remain valid.
    """

    def __init__(self, idle: int = IDLE, uses: int = USES) -> None:
        """`idle`: bytes of unused segments that stay mapped. `uses`: how many may be in use; payloads beyond
        that are copied out.
        """
        self._limit = idle
        self._most = uses
        self._idle = 0
        self._mapped: dict[int, mmap.mmap] = {}
        self._uses: dict[int, _Use] = {}
        self._ended: deque[_Use] = deque()
        self._lingering: list[_Use] = []
        self._released: list[int] = []

    @property
    def idle(self) -> int:
        """Bytes of mapped segments that are not in use."""
        return self._idle

    @property
    def uses(self) -> int:
        """How many segments were in use when `take_released` was last called, or are since."""
        return len(self._uses)

    def map(self, descriptor: bytes | memoryview, fds: list[int]) -> list[memoryview]:
        """The parts that were placed: writable, and not changed by other processes while a view exists.

        `fds` are the file descriptors that came with the message; if the descriptor needs one, the first is
        removed from the list, and closed. Raises OSError or MemoryError if it cannot be mapped: then the
        segment is released to the sender. Raises ProtocolError for what no `SegmentSender` sends; then all of
        `fds` are closed, and removed from the list.
        """
        try:
            return self._map(SegmentDescriptor.decode(descriptor), fds)
        except ProtocolError:
            while fds:
                os.close(fds.pop())
            raise

    def take_released(self) -> list[int]:
        """The numbers for `SegmentSender.released`: a segment's, or its complement (~) if it is unmapped."""
        waiting, self._lingering = self._lingering, []
        while self._ended:
            waiting.append(self._ended.popleft())
        for use in waiting:
            # A use that ends in a garbage cycle is reported before the finalizers of that cycle run, and they
            # may still read it, or even resurrect it: so the mapping itself is checked.
            if exported(self._mapped[use.number]):
                self._lingering.append(use)
            else:
                self._end(use)
        released, self._released = self._released, []
        return released

    def close(self) -> None:
        """Release everything that is not in use. Views remain valid; the last one frees their memory."""
        self._uses.clear()
        self._lingering.clear()
        self._ended.clear()
        self._mapped.clear()
        self._idle = 0

    def _map(self, told: SegmentDescriptor, fds: list[int]) -> list[memoryview]:
        self._drop(told.dropped)
        size = self._check(told, fds)
        offsets, length = layout(told.lengths)
        if length > size:
            raise ProtocolError(f"{length} bytes in a segment of {size}")
        places = [slice(offset, offset + n) for offset, n in zip(offsets, told.lengths, strict=True)]
        try:
            if told.new:
                self._take_in(told.number, fds.pop(0), size)
            return self._show(told.number, places)
        except (OSError, MemoryError):
            if told.number not in self._mapped:
                self._released.append(~told.number)
            elif told.number not in self._uses:
                self._free(told.number)
            raise

    def _check(self, told: SegmentDescriptor, fds: list[int]) -> int:
        """The size of the described segment, if it may be used now."""
        number = told.number
        if not told.new:
            if number not in self._mapped or number in self._uses:
                raise ProtocolError(f"segment {number} is not free")
            return len(self._mapped[number])
        if number in self._mapped or not fds:
            raise ProtocolError(f"segment {number} is not new, or came without its file descriptor")
        return size_of(fds[0])

    def _take_in(self, number: int, fd: int, size: int) -> None:
        try:
            self._mapped[number] = map_shared(fd, size)
        finally:
            os.close(fd)
        self._idle += size

    def _show(self, number: int, places: list[slice]) -> list[memoryview]:
        mapping = self._mapped[number]
        if len(self._uses) >= self._most:
            with memoryview(mapping) as whole:
                copies = [bytearray(whole[place]) for place in places]
            self._free(number)
            return [memoryview(copy) for copy in copies]
        exporter = export(mapping, len(mapping))
        self._uses[number] = _Use(exporter, number, self._ended.append)
        self._idle -= len(mapping)
        view = memoryview(exporter)
        return [view[place] for place in places]

    def _end(self, use: _Use) -> None:
        del self._uses[use.number]
        self._idle += len(self._mapped[use.number])
        self._free(use.number, use.forks == _Forks.count)

    def _free(self, number: int, again: bool = True) -> None:
        """Release a segment, and unmap it if it must not be used `again`, or if too much would be idle."""
        if again and self._idle <= self._limit:
            self._released.append(number)
        else:
            self._drop([number])
            self._released.append(~number)

    def _drop(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            if number not in self._mapped or number in self._uses:
                raise ProtocolError(f"segment {number} was dropped, and is not free")
            self._idle -= len(self._mapped.pop(number))
