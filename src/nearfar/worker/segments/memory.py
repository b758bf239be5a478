"""Segments of shared memory: their sizes, and who still looks into one."""

from __future__ import annotations

import fcntl
import mmap
import os
from functools import cache
from typing import TYPE_CHECKING, Any

from nearfar.errors import ProtocolError
from nearfar.net.shared_memory import SEALS

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

__all__ = ["IDLE", "INLINE", "export", "exported", "size_class", "size_of"]

INLINE = 64 * 1024
"""Bytes: smaller payloads travel in the message itself, where copying them is cheaper.

Up to 128 KiB both take the same time, but a socket holds few messages of that size.
"""

IDLE = 64 * 1024 * 1024
"""Bytes of segments that may lie idle, for one direction."""

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
