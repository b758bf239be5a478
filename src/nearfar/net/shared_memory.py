"""Memory that processes of one machine and one user share: how all of it is made, and mapped.

A piece of memory has no name in any file system. It is a sealed memfd: its size cannot change, so that no
reader is killed by SIGBUS, and it ends with the last process that has it, however that process ends.

ctypes is imported with the first mapping, not with this module: most workers never see a large payload,
and all of them have to start.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import resource
import sys
from collections import deque
from functools import cache
from typing import Any

__all__ = ["SEALS", "Ring", "allowed", "create", "map_shared"]

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
MAP_FIXED = 0x10


def create(size: int) -> int:
    """The file descriptor of `size` bytes of new memory, which are zero. Raises OSError."""
    fd = os.memfd_create("nearfar", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def allowed(size: int) -> int:
    """`size`, or as much of it as ``ulimit -f`` lets a file have."""
    longest, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return size if longest == resource.RLIM_INFINITY else min(size, longest)


if sys.version_info >= (3, 13):

    def map_shared(fd: int, size: int, *, read_only: bool = False, populate: bool = False) -> mmap.mmap:
        """Map memory; the mapping keeps no file descriptor. Raises OSError.

        With `populate`, no page of it has to be faulted in later.
        """
        flags = mmap.MAP_SHARED | (mmap.MAP_POPULATE if populate else 0)
        access = mmap.PROT_READ | (0 if read_only else mmap.PROT_WRITE)
        return mmap.mmap(fd, size, flags, access, trackfd=False)

else:

    def map_shared(fd: int, size: int, *, read_only: bool = False, populate: bool = False) -> mmap.mmap:
        """Map memory; the mapping keeps no file descriptor. Raises OSError.

        With `populate`, no page of it has to be faulted in later.

        `mmap.mmap` would keep a duplicate of `fd` for ever, and a user who keeps a thousand results would
        run out of descriptors. So the memory is laid over an anonymous mapping, which then owns its place.
        That one counts as writable for Python: hand out no more than a read-only view of `read_only` memory.
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
    """Hands out places of `size` bytes in the order in which, by and large, they are given back. Pure.

    A ring of which nothing is held starts again at 0, in memory that was used lately.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._next = 0
        self._held: deque[int] = deque()
        """Where the places that are held start, the oldest first."""
        self._free: set[int] = set()
        """Those of them that were given back after an older one that is still held."""

    def take(self, size: int) -> int | None:
        """The start of a place of `size` bytes (1 or more), or None when there is none now."""
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
