"""The sender's side of segments: which there are, which are free, what is copied into them."""

from __future__ import annotations

import mmap
import os
from collections import deque
from collections.abc import Iterable, Sequence
from errno import ENOSPC
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from nearfar.errors import ProtocolError
from nearfar.net.shared_memory import create, map_shared
from nearfar.worker.segments.descriptor import Descriptor, layout
from nearfar.worker.segments.memory import IDLE, size_class

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

__all__ = ["Sender"]

LARGEST_WRITE = 0x7FFFF000
"""Bytes that one call of write(2) takes."""


class _Segment(NamedTuple):
    number: int
    mapping: mmap.mmap
    freed: int = 0
    """When it was last freed: the larger, the later."""


class Sender:
    """Puts payloads into segments.

    A segment is free again once the receiver says so, or the message that told of it is taken back. One that
    a user of the result keeps is never free: then new ones are made. Not safe to be used by two threads at
    once; a child process that inherits one must leave it alone.
    """

    def __init__(self, idle: int = IDLE) -> None:
        """`idle`: bytes of free segments that are kept; of those beyond, the longest unused go first."""
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
        receiver does not have that segment yet, else none. They are the caller's, to close once sent. The
        messages may arrive in any order. Raises OSError or MemoryError if there is no memory or no file
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
        return Descriptor(segment.number, bool(fds), lengths, dropped).encode(), fds

    def unplace(self, descriptor: bytes, fds: Iterable[int] = ()) -> None:
        """Take back what was placed, because the message was not sent, or was read back unread.

        `fds` are the file descriptors that belong to it, if the caller still has them; they are closed.
        Raises ValueError for what is not placed.
        """
        for fd in fds:
            os.close(fd)
        told = Descriptor.decode(descriptor)
        segment = self._placed.pop(told.number, None)
        if segment is None:
            raise ValueError(f"segment {told.number} is not placed")
        self._dropped += told.dropped
        if told.new:
            segment.mapping.close()  # the receiver never got it, and its file descriptor is gone
        else:
            self._keep(segment)

    def released(self, numbers: Iterable[int]) -> None:
        """Hear what `Receiver.take_released` said. Raises ProtocolError for what is not placed."""
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
        """Give up all memory. What the receiver has mapped stays until it is not used there."""
        segments = [*self._placed.values(), *(each for row in self._free.values() for each in row)]
        self._placed.clear()
        self._free.clear()
        self._idle = 0
        for segment in segments:
            segment.mapping.close()

    def _take(self, size: int) -> _Segment | None:
        """The free segment of this size that was used last: the most likely to be in the CPU's cache."""
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
        if size <= self._limit:  # else it will not be kept, and nothing has to make room for it
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
    """Fill fresh memory. Writing to the file takes half the time of faulting in page by page, and where
    there is no memory left it is an error instead of a signal.
    """
    length = memoryview(part).nbytes
    written = os.pwrite(fd, part, offset)
    if written < length <= LARGEST_WRITE:
        raise OSError(ENOSPC, os.strerror(ENOSPC))
    if written < length:
        mapping[offset : offset + length] = part
