"""The private channel between a worker process and its parent: its messages, its sockets, and result buffers.

Messages
    Each is one msgpack array. To the worker, a batch: ``[extra, client, function, mode, *payloads]``. From
    the worker, answers: ``[extra, number, spent, *answers]``, each ``[status, payload, []]``, or ``[value]``
    for a bare value; `number` counts the answers before these, `spent` is in microseconds. A first
    ``[nil, READY]`` reports that the worker has started.

    A payload is a blob; or the number of its buffers, when the blob and the buffers lie in shared memory, in
    this order; or an array of bare arguments. Bare values (`are_bare`) are in the message without pickle:
    msgpack packs a whole batch of them at once, for a fraction of the cost of pickling each one. `extra` is
    nil, or ``[descriptor or nil, segments that are free again]`` (`nearfar.serialization.shared_memory`).

Sockets
    `make_pair` makes a pair of sockets that keeps messages apart: a message is sent whole or not at all, and
    read whole. The sender keeps a copy of the other end and can read back what was sent and not yet read: so
    the parent revokes batches that a worker has not begun, and knows exactly what a dead worker had read.

Result buffers
    A worker killed between two tasks of a batch must not lose finished answers, and a message for each tiny
    task would cost more than the task. So a `ResultBuffer` in shared memory holds each answer before the next
    task starts; the worker sends a few at a time, and the parent reads the rest.
"""

from __future__ import annotations

import errno
import mmap
import os
import socket
import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import msgpack

from nearfar.serialization import shared_memory
from nearfar.serialization.shared_memory import SegmentReceiver, SegmentSender

LARGEST = 1 << 20
"""Bytes of a message."""
READY = -1
MOST_BARE = 8
"""Arguments of one call that may be bare."""
SHORT = 200
"""Characters or bytes that a bare argument may have: a batch of them has room in one message."""
NUMBERS = frozenset({int, float, bool, type(None)})
"""Types whose values are bare, however many bytes they have."""

Buffer = Any
"""Anything with the buffer protocol: bytes, a memoryview, a `pickle.PickleBuffer`."""
Extra = Sequence[Any] | None


class Payload(Protocol):
    """The content of a task."""

    @property
    def blob(self) -> Buffer: ...
    @property
    def buffers(self) -> Sequence[Buffer]: ...


class TaskRow(NamedTuple):
    """A task as sent between machines."""

    function: bytes
    mode: int
    blob: Buffer
    buffers: Sequence[Buffer] = ()


def are_bare(values: tuple[Any, ...]) -> bool:
    """Whether a message can contain these without pickle: a few numbers, None, short strings and bytes.

    None of them can change later, so they may be packed at any time. msgpack refuses a few strings and
    integers: then `pack` raises `OverflowError` or `ValueError`, and they must be pickled.
    """
    if len(values) > MOST_BARE:
        return False
    if NUMBERS.issuperset(map(type, values)):
        return True
    for value in values:
        kind = type(value)
        if kind not in NUMBERS and ((kind is not str and kind is not bytes) or len(value) > SHORT):
            return False
    return True


def is_bare(value: Any) -> bool:
    """As `are_bare`, for one value, which may be a tuple of such values."""
    kind = type(value)
    if kind in NUMBERS:
        return True
    if kind is str or kind is bytes:
        return len(value) <= SHORT
    return kind is tuple and are_bare(value)


def scatter(payload: Any, parts: Iterator[Buffer]) -> tuple[Buffer, Sequence[Buffer]]:
    """The blob and the buffers of a payload, taken from `parts`. Raises `StopIteration`."""
    if type(payload) is not int:
        return payload, ()
    return next(parts), [next(parts) for _ in range(payload)]


def packer() -> Callable[[Any], bytes]:
    """Packs a message, or a part of one. Not for several threads at once."""
    own: Callable[[Any], bytes] = msgpack.Packer().pack
    return own


def unpack_first(data: Buffer, count: int) -> list[Any]:
    """The first `count` packed values in `data`. Raises what msgpack raises."""
    unpacker = msgpack.Unpacker(use_list=False)
    unpacker.feed(data)
    return [unpacker.unpack() for _ in range(count)]


def join(head: bytes, count: int, answers: bytes) -> bytes:
    """A message to the parent: `head` is its first three values, packed; then `count` packed answers."""
    return b"\xdd" + (3 + count).to_bytes(4, "big") + head[1:] + answers


MOST_DESCRIPTORS = 8
_CLOSED = (errno.EBADF, errno.ENOTSOCK, errno.EINVAL)
_ANCILLARY = socket.CMSG_SPACE(MOST_DESCRIPTORS * array("i").itemsize)


def make_pair() -> tuple[socket.socket, socket.socket]:
    """The parent's end, which never blocks, and the worker's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        for end in (ours, theirs):
            # twice what a message may have: the kernel counts its own bookkeeping, too
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * LARGEST)
        ours.setblocking(False)
    except BaseException:
        ours.close()
        theirs.close()
        raise
    return ours, theirs


class ChannelEnd:
    """One end of the channel. Not for several threads at once."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self._buffer = bytearray(LARGEST)
        self._view = memoryview(self._buffer)
        self.pack = packer()
        self._sender: SegmentSender | None = None
        self._receiver: SegmentReceiver | None = None
        self.receives = False
        """Whether large parts were received, so that `extra` may have segments to report."""
        self._unsaid: list[int] = []
        """Free segments that were reported in a message that did not arrive."""

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, words: Sequence[Any], parts: Sequence[Buffer] = (), fds: Sequence[int] = ()) -> Extra:
        """Send ``[extra, *words]``, the `parts` in shared memory; returns the `extra`, for `take_back`.

        Raises `OSError` or `MemoryError`, having sent nothing: `BlockingIOError` if the other side does
        not read; `OverflowError` or `ValueError` if a bare value cannot be packed.
        """
        new: Sequence[int] = ()
        extra: Extra = None
        if parts:
            extra, new = self._place(parts)
        elif self.receives:
            extra = self.extra()
        try:
            self.send_packed(self.pack((extra, *words)), [*fds, *new])
        except (OSError, OverflowError, ValueError):
            self.take_back(extra, new)
            raise
        for each in new:
            os.close(each)
        return extra

    def send_packed(self, message: bytes, fds: Sequence[int] = ()) -> None:
        """Send one message. Raises `OSError`."""
        if len(message) > LARGEST:  # it would be truncated
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        if fds:
            socket.send_fds(self.socket, [message], list(fds))
        else:
            self.socket.send(message)

    def extra(self) -> Extra:
        """The `extra` of a message without large parts."""
        released = self._receiver.take_released() if self._receiver is not None else []
        if self._unsaid:
            released = self._unsaid + released
            self._unsaid = []
        return (None, released) if released else None

    def take_back(self, extra: Extra, fds: Sequence[int] = ()) -> None:
        """The message with this `extra` and these `fds` will never arrive."""
        if extra is None:
            return
        descriptor, released = extra
        self._unsaid += released
        if descriptor is not None and self._sender is not None:
            self._sender.unplace(descriptor, fds)

    def receive(self) -> tuple[Sequence[Any], Iterator[Buffer], list[int]] | None:
        """The next message without its `extra`, its large parts, and its other descriptors.

        None if the other end is closed. Raises `BlockingIOError` if a non-blocking end has no message, and
        what msgpack raises: the other end is only ever a parent or a child.
        """
        try:
            size, ancillary, _, _ = self.socket.recvmsg_into([self._buffer], _ANCILLARY)
        except OSError as error:
            if (
                isinstance(error, ConnectionError)
                or error.errno in _CLOSED
                or self.socket.gettimeout() is None
            ):
                raise
            raise BlockingIOError from None  # the system lacked resources, and still has the message
        if not size:
            return None
        fds = _descriptors(ancillary) if ancillary else []
        try:
            extra, *words = msgpack.unpackb(self._view[:size], use_list=False)
            return words, iter(self._map(extra, fds)) if extra is not None else iter(()), fds
        except BaseException:
            while fds:
                os.close(fds.pop())
            raise

    def close(self) -> None:
        for side in (self._sender, self._receiver):
            if side is not None:
                side.close()
        self.socket.close()

    def _place(self, parts: Sequence[Buffer]) -> tuple[Extra, list[int]]:
        if self._sender is None:
            self._sender = SegmentSender()
        descriptor, fds = self._sender.place(parts)  # may raise: before anything is lost
        extra = self.extra()
        return (descriptor, extra[1] if extra else []), fds

    def _map(self, extra: Sequence[Any], fds: list[int]) -> Sequence[Buffer]:
        descriptor, released = extra
        if released and self._sender is not None:
            self._sender.released(released)
        if descriptor is None:
            return ()
        if self._receiver is None:
            self._receiver = SegmentReceiver()
            self.receives = True
        return self._receiver.map(descriptor, fds)


def unread(theirs: socket.socket) -> int:
    """Read back the messages sent to `theirs` that were not read; returns their number.

    Raises `OSError`, having taken none.
    """
    count = 0
    while True:
        try:
            start, ancillary, _, _ = theirs.recvmsg(1, _ANCILLARY, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return count
        except OSError:
            if count:  # those were removed already
                return count
            raise
        if not start:
            return count
        for descriptor in _descriptors(ancillary):
            os.close(descriptor)
        count += 1


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    found = array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


SIZE = 64 * 1024
_HEAD = struct.Struct("=QII")
"""The number of answers before the first one stored; of stored answers; and their bytes."""
_BEGUN = struct.Struct("=Q")
_START = _HEAD.size + _BEGUN.size


def create() -> int:
    """A descriptor of empty shared memory without a name. Raises OSError."""
    return shared_memory.create(SIZE)


class ResultBuffer:
    """One side's view of a buffer: the worker adds and removes answers, the parent reads them."""

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

        A batch that is no longer in the socket may not have begun: the kernel may give it to a dying process.
        """
        self._begun += 1
        _BEGUN.pack_into(self._memory, _HEAD.size, self._begun)

    def begun(self) -> int:
        """For the parent: how many batches were begun."""
        count: int = _BEGUN.unpack_from(self._memory, _HEAD.size)[0]
        return count

    def add(self, answer: bytes) -> bool:
        """Store one answer; False if there is no room for it."""
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
        """All stored answers, end to end."""
        return self._memory[_START : self._end]

    def empty(self, first: int) -> None:
        """Remove all answers, which have been sent; the next answer is number `first`, from 0."""
        self._first = first
        self._count = 0
        self._end = _START
        _HEAD.pack_into(self._memory, 0, first, 0, 0)

    def look(self) -> tuple[int, int, bytes]:
        """For the parent: the first answer's number, how many there are, and their bytes.

        While the worker lives, the bytes may not be visible yet: read twice, some milliseconds apart, and
        use only as many answers of the second reading as the first one counted.
        """
        first, count, size = _HEAD.unpack_from(self._memory, 0)
        if size > SIZE - _START:
            return first, 0, b""
        return first, count, self._memory[_START : _START + size]

    def close(self) -> None:
        self._memory.close()
