"""Messages end to end in a pipe, each behind its length, as `multiprocessing.connection` frames them.

The standard writes and reads each by itself. Here several small ones are one write, and one read brings
those that lie there: two system calls for an item cost more than the item.
"""

from __future__ import annotations

import array
import fcntl
import os
import select
import struct
import termios
from collections.abc import Sequence

from nearfar.net.shield import Shield

__all__ = ["HEADER", "TOGETHER", "Message", "frame", "read", "read_waiting", "write"]

SMALL = 32 * 1024
"""Bytes of a message that most likely lies in the pipe as a whole."""
TOGETHER = 500
"""Messages in one write: the kernel takes up to 1,024 pieces, and each message is two."""
LEAST = 8
"""Bytes of a frame with the shortest item: no pickle has fewer than four."""
STUCK = 1.0
"""Seconds in the middle of a message without a byte, after which its writer counts as stuck."""

Message = bytes | bytearray

_SIZE = struct.Struct("!i")
HEADER = _SIZE.size
"""Bytes before a message of less than 2 GiB."""
_LARGE = struct.Struct("!Q")
_MOST = 0x7FFFFFFF
_TOO_LONG = b"\xff\xff\xff\xff"
"""A length of -1: the true one follows in 8 bytes."""


def frame(message: Message) -> bytes:
    """What stands before `message`."""
    size = len(message)
    return _SIZE.pack(size) if size <= _MOST else _TOO_LONG + _LARGE.pack(size)


def write(descriptor: int, messages: Sequence[Message]) -> None:
    """All of them, each in its frame, in one system call if they are not too many. Raises `OSError`."""
    for at in range(0, len(messages), TOGETHER):
        parts: list[Message] = []
        for message in messages[at : at + TOGETHER]:
            parts += (frame(message), message)
        written = os.writev(descriptor, parts)
        if written < sum(map(len, parts)):  # a signal came, or there were many bytes
            _write(descriptor, b"".join(parts), written)


def read(descriptor: int) -> Message:
    """The next message; waits for it. Raises `EOFError` where nobody can write any more, and `OSError`."""
    header = os.read(descriptor, _SIZE.size)
    if len(header) == _SIZE.size:
        (size,) = _SIZE.unpack(header)
        if 0 <= size <= SMALL:
            message = os.read(descriptor, size) if size else b""
            if len(message) == size:
                return message
            header += message
    return _message(descriptor, bytearray(header))


def read_waiting(descriptor: int, most: int) -> list[Message]:
    """Up to `most` messages of those that lie there, without empty ones. Raises as `read` does.

    Ctrl-C waits until they are whole, but for one whose writer is stuck in the middle: there it tears the
    pipe, as it does with the standard's.
    """
    found: list[Message] = []
    with Shield() as shield:
        waiting = _waiting(descriptor)
        while waiting > 0 and len(found) < most:
            # No more than so many messages can begin in that many bytes, whatever their sizes are.
            chunk = os.read(descriptor, min(waiting, LEAST * (most - len(found))))
            waiting -= len(chunk)
            if begun := _cut(chunk, found):
                waiting += len(begun)
                message = _complete(descriptor, begun, shield, there=waiting > len(begun))
                waiting -= _SIZE.size + len(message)
                if message:
                    found.append(message)
    return found


def _cut(chunk: bytes, found: list[Message]) -> bytearray:
    """Add the whole messages of a chunk to `found`; returns what begins another."""
    at, end = 0, len(chunk)
    while at + _SIZE.size <= end:
        (size,) = _SIZE.unpack_from(chunk, at)
        after = at + _SIZE.size + size
        if size < 0 or after > end:
            break
        if size:
            found.append(chunk[at + _SIZE.size : after])
        at = after
    return bytearray(chunk[at:])


def _complete(descriptor: int, begun: bytearray, shield: Shield, *, there: bool) -> bytearray:
    """The message whose frame begins with these bytes; some more are `there`."""
    depth = 0 if there or _come_soon(descriptor) else shield.lower()
    try:
        return _message(descriptor, begun)
    finally:
        shield.lift(depth)


def _come_soon(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(STUCK * 1000))


def _message(descriptor: int, begun: bytearray) -> bytearray:
    """The message of a frame of which so much has been read."""
    (size,) = _SIZE.unpack(_exactly(descriptor, _SIZE.size, begun))
    if size < 0:
        (size,) = _LARGE.unpack(_exactly(descriptor, _LARGE.size, begun))
    return _exactly(descriptor, size, begun)


def _exactly(descriptor: int, size: int, begun: bytearray) -> bytearray:
    """So many bytes, those first that were read before, which are taken out of `begun`."""
    found = bytearray(size)
    at = min(size, len(begun))
    found[:at] = begun[:at]
    del begun[:at]
    with memoryview(found) as view:
        while at < size:
            count = os.readv(descriptor, [view[at:]])
            if not count:
                raise EOFError
            at += count
    return found


def _waiting(descriptor: int) -> int:
    """Bytes that lie in the pipe."""
    count = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.FIONREAD, count)
    return count[0]


def _write(descriptor: int, data: bytes, at: int) -> None:
    with memoryview(data) as view:
        while at < len(view):
            at += os.write(descriptor, view[at:])
