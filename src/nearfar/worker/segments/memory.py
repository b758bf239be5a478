"""Segments: memory without a name, that two processes map.

ctypes is imported with the first mapping, not with this module: most workers never see a large payload,
and all of them have to start.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

from nearfar.errors import ProtocolError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

__all__ = ["IDLE", "INLINE", "create", "export", "exported", "map_shared", "size_class", "size_of"]

INLINE = 64 * 1024
"""Bytes: smaller payloads travel in the message itself, where copying them is cheaper.

Up to 128 KiB both take the same time, but a socket holds few messages of that size.
"""

IDLE = 64 * 1024 * 1024
"""Bytes of segments that may lie idle, for one direction."""

SMALLEST = 64 * 1024
LARGEST_POWER = 64 * 1024 * 1024
STEP = 16 * 1024 * 1024
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
MAP_FIXED = 0x10


def size_class(length: int) -> int:
    """Bytes of a segment for `length` bytes: a power of two, above 64 MiB a multiple of 16 MiB."""
    if length > LARGEST_POWER:
        return -(-length // STEP) * STEP
    return max(SMALLEST, 1 << (length - 1).bit_length())


def create(size: int) -> int:
    """A new segment's file descriptor. Its size can never change. Raises OSError."""
    fd = os.memfd_create("nearfar", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def size_of(fd: int) -> int:
    """The size in bytes of the segment `fd` that a peer sent.

    Raises ProtocolError for what is none: not sealed, so that the peer could cut it short and have
    whoever reads it killed by SIGBUS, or not of a size class.
    """
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        raise ProtocolError("a file descriptor that is not memory") from error
    size = os.fstat(fd).st_size
    if seals & SEALS != SEALS or size <= 0 or size != size_class(size):
        raise ProtocolError(f"a segment of {size} bytes with seals {seals:#x}")
    return size


if sys.version_info >= (3, 13):

    def map_shared(fd: int, size: int) -> mmap.mmap:
        """Map a segment; the mapping keeps no file descriptor. Raises OSError."""
        return mmap.mmap(fd, size, trackfd=False)

else:

    def map_shared(fd: int, size: int) -> mmap.mmap:
        """Map a segment; the mapping keeps no file descriptor. Raises OSError.

        `mmap.mmap` would keep a duplicate of `fd` for ever, and a user who keeps a thousand results would
        run out of descriptors. So the segment is laid over an anonymous mapping, which then owns its place.
        """
        mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        _lay_over(mapping, fd, size)
        return mapping

    def _lay_over(mapping: mmap.mmap, fd: int, size: int) -> None:
        import ctypes

        address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        access = mmap.PROT_READ | mmap.PROT_WRITE
        if _libc_mmap()(address, size, access, mmap.MAP_SHARED | MAP_FIXED, fd, 0) != address:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    @cache
    def _libc_mmap() -> Any:
        import ctypes

        function = ctypes.CDLL(None, use_errno=True).mmap
        function.restype = ctypes.c_void_p
        number = ctypes.c_int
        function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, number, number, number, ctypes.c_long]
        return function


@cache
def _bytes_type() -> Any:
    """A byte whose arrays have the buffer format "B", as those of bytes have: c_ubyte has "<B"."""
    import ctypes

    class Byte(ctypes.Union):
        _fields_ = (("value", ctypes.c_ubyte),)

    return Byte


def export(mapping: mmap.mmap, size: int) -> Buffer:
    """An object of its own for one use of `mapping`, that takes weak references.

    Whatever is made over it keeps it alive: views, their slices, arrays of numpy. They do not keep the
    memoryview that they were made from, so that one would not do. ctypes remembers each length that it
    was ever asked for: only sizes of segments may come here.
    """
    array: Buffer = (_bytes_type() * size).from_buffer(mapping)
    return array


def exported(mapping: mmap.mmap) -> bool:
    """Whether anything still looks into `mapping`.

    A mapping in use refuses to be resized before it looks at the size, and no mapping takes this one.
    """
    try:
        mapping.resize(-1)
    except BufferError:
        return True
    except ValueError:
        return False
    raise AssertionError("a mapping of -1 bytes")
