"""The receiver's side of segments: what is mapped, and whether anybody still looks at it."""

from __future__ import annotations

import mmap
import os
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

from nearfar.errors import ProtocolError
from nearfar.net.shared_memory import map_shared
from nearfar.worker.segments.descriptor import Descriptor, layout
from nearfar.worker.segments.memory import IDLE, export, exported, size_of

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

__all__ = ["Receiver"]

USES = 4096
"""Segments in use at a time; the kernel allows a process 65,530 mappings in all."""


class _Forks:
    """How often this process forked. A child keeps looking at what its parent has ceased to use."""

    count = 0

    @classmethod
    def add(cls) -> None:
        cls.count += 1


os.register_at_fork(before=_Forks.add)


class _Use(weakref.ref[Any]):
    """One use of a segment: a weak reference to what all views of this use keep alive."""

    __slots__ = ("forks", "number")

    number: int
    forks: int

    def __new__(cls, exporter: Buffer, number: int, ended: Callable[[Self], None]) -> Self:
        """`ended` may be called in any thread, in the middle of anything: it must be atomic."""
        use = super().__new__(cls, exporter, ended)
        use.number = number
        use.forks = _Forks.count
        return use

    def __init__(self, exporter: Buffer, number: int, ended: Callable[[Self], None]) -> None:
        super().__init__(exporter, ended)  # type: ignore[call-arg]  # typeshed has only its __new__


class Receiver:
    """Shows payloads in place.

    Not safe to be used by two threads at once, but views may come to their end in any thread at any time. A
    child process that inherits one must leave it alone; views that it inherited stay as they are.
    """

    def __init__(self, idle: int = IDLE, uses: int = USES) -> None:
        """`idle`: bytes of mapped segments that may lie unused. `uses`: how many may be in use; payloads
        beyond are copied out.
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
        """How many segments are in use, or were when `take_released` was last called."""
        return len(self._uses)

    def map(self, descriptor: bytes | memoryview, fds: list[int]) -> list[memoryview]:
        """The parts that were placed: writable, and unchanged by anybody else while there is a view of them.

        `fds` are the file descriptors that came with the message; if the descriptor needs one, the first is
        taken out of the list, and closed. Raises OSError or MemoryError if there is no room to map it: the
        sender will hear that the segment is released. Raises ProtocolError for what no `Sender` sends; all
        of `fds` are closed then, and taken out of the list.
        """
        try:
            return self._map(Descriptor.decode(descriptor), fds)
        except ProtocolError:
            while fds:
                os.close(fds.pop())
            raise

    def take_released(self) -> list[int]:
        """What to tell `Sender.released`: a segment's number, or its complement (~) if it is gone here."""
        waiting, self._lingering = self._lingering, []
        while self._ended:
            waiting.append(self._ended.popleft())
        for use in waiting:
            # A use that ends as part of a circle of garbage is told before the finalizers of that circle
            # run, and they may still read it, or even save it: so the mapping has the last word.
            if exported(self._mapped[use.number]):
                self._lingering.append(use)
            else:
                self._end(use)
        released, self._released = self._released, []
        return released

    def close(self) -> None:
        """Give up all that is not in use. Views stay good, and their memory goes with the last of them."""
        self._uses.clear()
        self._lingering.clear()
        self._ended.clear()
        self._mapped.clear()
        self._idle = 0

    def _map(self, told: Descriptor, fds: list[int]) -> list[memoryview]:
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

    def _check(self, told: Descriptor, fds: list[int]) -> int:
        """The size of the segment that is told of, if it may be used now."""
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
        """Release a segment, and unmap it if it is not to be used `again`, or too much would lie idle."""
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
