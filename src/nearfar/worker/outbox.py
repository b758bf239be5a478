"""Answers that survive their worker: in shared memory before the next task starts, sent a few at a time.

A worker killed between two tasks of a batch must not take finished answers with it, and a message for each
tiny task would cost more than the task. So answers gather here, and the parent reads what is left.
"""

from __future__ import annotations

import mmap
import os
import struct

from nearfar.net import shared_memory

SIZE = 64 * 1024
_HEAD = struct.Struct("=QII")
"""Answers before the first one here; answers here; their bytes."""
_BEGUN = struct.Struct("=Q")
_START = _HEAD.size + _BEGUN.size


def create() -> int:
    """A descriptor of empty shared memory without a name. Raises OSError."""
    return shared_memory.create(SIZE)


class Outbox:
    """One side's view of it: the worker adds and takes, the parent looks."""

    def __init__(self, descriptor: int) -> None:
        """Takes over `descriptor`."""
        try:
            self._memory = mmap.mmap(descriptor, SIZE)  # not `map_shared`, which may import ctypes
        finally:
            os.close(descriptor)
        self._first = 0
        self._count = 0
        self._end = _START
        self._begun = 0

    def begin(self) -> None:
        """The worker has read a batch, and begins it.

        That it is gone from the line says less: the kernel may hand it to a process that it is killing.
        """
        self._begun += 1
        _BEGUN.pack_into(self._memory, _HEAD.size, self._begun)

    def begun(self) -> int:
        """From the other side: how many batches were begun."""
        count: int = _BEGUN.unpack_from(self._memory, _HEAD.size)[0]
        return count

    def add(self, answer: bytes) -> bool:
        """Keep one answer; False if there is no room for it."""
        end = self._end + len(answer)
        if end > SIZE:
            return False
        self._memory[self._end : end] = answer
        self._end = end
        self._count += 1
        _HEAD.pack_into(self._memory, 0, self._first, self._count, end - _START)
        return True

    def __len__(self) -> int:
        return self._count

    def content(self) -> bytes:
        """All that was added, end to end."""
        return self._memory[_START : self._end]

    def empty(self, first: int) -> None:
        """What was here has been sent; the next answer is number `first`, from 0."""
        self._first = first
        self._count = 0
        self._end = _START
        _HEAD.pack_into(self._memory, 0, first, 0, 0)

    def look(self) -> tuple[int, int, bytes]:
        """From the other side: the first answer's number, how many there are, and their bytes.

        While the worker lives, the bytes may not be visible yet: look twice, some milliseconds apart, and
        believe of the second look what the first one counted.
        """
        first, count, size = _HEAD.unpack_from(self._memory, 0)
        if size > SIZE - _START:
            return first, 0, b""
        return first, count, self._memory[_START : _START + size]

    def close(self) -> None:
        self._memory.close()
