"""The bytes of messages between processes of one command: in shared memory, written once and read in place.

A queue would copy them four times: into a pickle, into a pipe, out of it, and out of the pickle.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from multiprocessing.reduction import DupFd
from typing import Any

from nearfar.net.shared_memory import Ring, allowed, create, map_shared

SIZE = 24 * 1024 * 1024
"""Bytes: what a producer has on its way at most, and some room for the gaps at the end."""
LEAST = 4096
"""Bytes below which to share a piece costs more than to copy it."""

Place = tuple[int, int, int]
"""Which part of a message, and from where to where its bytes lie."""


class Arena:
    """Shared memory of one producer and all consumers, inherited by them. Only the producer writes.

    It is as large as ``ulimit -f`` lets a file be, at most: what has no room in it is copied.
    """

    def __init__(self, size: int = SIZE) -> None:
        self._size = allowed(size)
        self._descriptor = create(self._size)
        self._map: mmap.mmap | None = None
        self._view = memoryview(b"")
        self._ring = Ring(self._size)

    def __getstate__(self) -> tuple[int, Any]:
        return self._size, DupFd(self._descriptor)

    def __setstate__(self, state: tuple[int, Any]) -> None:
        self._size, given = state
        self._descriptor = given.detach()
        self._map, self._view, self._ring = None, memoryview(b""), Ring(self._size)

    def lay_out(self, message: list[Any]) -> tuple[list[Place], int | None]:
        """Move the bytes of `message`, its own and the last field of each of its rows, to this memory.

        Returns where they are, and what is to be given back later. Where there is no room, nothing is moved.
        """
        parts = [(index, _bytes_of(part)) for index, part in enumerate(message)]
        found = [(index, data) for index, data in parts if data is not None]
        total = sum(len(data) for _, data in found)
        start = self._ring.take(total) if total else None
        if start is None:
            return [], None
        view, at, places = self._bytes(), start, list[Place]()
        for index, data in found:
            end = at + len(data)
            view[at:end] = data
            places.append((index, at, end))
            _put(message, index, None)
            at = end
        return places, start

    def give_back(self, start: int) -> None:
        """Say that nobody reads what `lay_out` moved to `start` any more."""
        self._ring.give_back(start)

    def fill_in(self, message: list[Any], places: list[Place]) -> None:
        """Put views of the bytes where `lay_out` took them; good until the producer knows of the answer."""
        view = self._bytes() if places else self._view
        for index, start, end in places:
            _put(message, index, view[start:end])

    def close(self) -> None:
        """Let go of the memory, here. Views of it stay good."""
        self._view = memoryview(b"")
        if self._map is not None:
            with suppress(BufferError):
                self._map.close()
            self._map = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _bytes(self) -> memoryview:
        if self._map is None:
            self._map = map_shared(self._descriptor, self._size)
            self._view = memoryview(self._map)
        return self._view


def _bytes_of(part: Any) -> bytes | None:
    if type(part) is list and part:
        part = part[-1]
    return part if type(part) is bytes and len(part) >= LEAST else None


def _put(message: list[Any], index: int, value: Any) -> None:
    part = message[index]
    if type(part) is list:
        part[-1] = value
    else:
        message[index] = value
