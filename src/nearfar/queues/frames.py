"""Messages end to end in a pipe, each behind a word that tells its length and its kind.

A pickle of less than 2 GiB is framed as `multiprocessing.connection` does it. The standard writes and reads
each message by itself. Here several small ones are one write, and one read brings those that are in the pipe:
two system calls for an item cost more than the item. A large one is copied into the pipe and out of it, and
nowhere else.
"""

from __future__ import annotations

import array
import fcntl
import io
import os
import select
import struct
import termios
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from nearfar.net.shield import Shield

__all__ = [
    "HEADER",
    "PAGE",
    "TOGETHER",
    "Message",
    "Raw",
    "capacity",
    "frame",
    "read",
    "read_waiting",
    "unread",
    "write",
]

SMALL = 32 * 1024
"""Bytes of a message that most likely lies in the pipe as a whole."""
TOGETHER = 500
"""Messages in one write: the kernel takes up to 1,024 pieces, and each message is two."""
LEAST = 8
"""Bytes of a frame with the shortest item: no pickle has fewer than four."""
STUCK = 1.0
"""Seconds in the middle of a message without a byte, after which its writer counts as stuck."""

PAGE = select.PIPE_BUF
"""Bytes that a pipe takes in whole, and at once if it is writable at all."""
WIDE = 1 << 20
"""Bytes of a pipe that large messages go through: as much as any user may ask for."""

_WORD = struct.Struct("!I")
HEADER = _WORD.size
"""Bytes before a message of less than 2 GiB."""
_RAW = 0x80000000
_LONG = 0x7FFFFFFF
"""A length that says: the true one follows in 8 bytes."""
_LENGTH = struct.Struct("!Q")


@dataclass(slots=True)
class Raw:
    """A message that is no pickle: these bytes are the item itself."""

    body: bytes

    def __len__(self) -> int:
        return len(self.body)


Message = bytes | Raw
"""A pickle, or bytes that are the item itself."""


def frame(message: Message) -> bytes:
    """What stands before `message`."""
    size = len(message)
    kind = _RAW if isinstance(message, Raw) else 0
    return _WORD.pack(size | kind) if size < _LONG else _WORD.pack(_LONG | kind) + _LENGTH.pack(size)


def write(descriptor: int, messages: Sequence[Message]) -> None:
    """All of them, each in its frame, in one system call if they are not too many. Raises `OSError`."""
    for at in range(0, len(messages), TOGETHER):
        parts = []
        for message in messages[at : at + TOGETHER]:
            parts.append(frame(message))
            parts.append(message.body if isinstance(message, Raw) else message)
        written = os.writev(descriptor, parts)
        if written < sum(map(len, parts)):  # a signal came, or there were many bytes
            _write_rest(descriptor, parts, written)


def _write_rest(descriptor: int, parts: list[bytes], written: int) -> None:
    for part in parts:
        at = min(written, len(part))
        written -= at
        with memoryview(part) as view:
            while at < len(view):
                at += os.write(descriptor, view[at:])


def read(descriptor: int) -> Message:
    """The next message; waits for it. Raises `EOFError` where nobody can write any more, and `OSError`."""
    header = os.read(descriptor, HEADER)
    if len(header) == HEADER:
        (word,) = _WORD.unpack(header)
        size = word & _LONG
        if size <= SMALL:
            body = os.read(descriptor, size) if size else b""
            if len(body) == size:
                return Raw(body) if word & _RAW else body
            header += body
    return _message(descriptor, header)


def read_waiting(descriptor: int, most: int) -> list[Message]:
    """Up to `most` messages of those that lie there, without empty ones. Raises as `read` does.

    Ctrl-C waits until they are whole, but for one whose writer is stuck in the middle: there it tears the
    pipe, as it does with the standard's.
    """
    found: list[Message] = []
    with Shield() as shield:
        waiting = unread(descriptor)
        while waiting > 0 and len(found) < most:
            # No more than so many messages can begin in that many bytes, whatever their sizes are.
            chunk = os.read(descriptor, min(waiting, LEAST * (most - len(found))))
            waiting -= len(chunk)
            if begun := _cut(chunk, found):
                message = _complete(descriptor, begun, shield, there=waiting > 0)
                waiting -= len(frame(message)) + len(message) - len(begun)
                if message:
                    found.append(message)
    return found


def _cut(chunk: bytes, found: list[Message]) -> bytes:
    """Add the whole messages of a chunk to `found`; returns what begins another."""
    at, end = 0, len(chunk)
    while at + HEADER <= end:
        (word,) = _WORD.unpack_from(chunk, at)
        start, size = at + HEADER, word & _LONG
        if size == _LONG and start + _LENGTH.size <= end:
            (size,) = _LENGTH.unpack_from(chunk, start)
            start += _LENGTH.size
        after = start + size
        if after > end:
            break
        if size:
            body = chunk[start:after]
            found.append(Raw(body) if word & _RAW else body)
        at = after
    return chunk[at:]


def _complete(descriptor: int, begun: bytes, shield: Shield, *, there: bool) -> Message:
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


def _message(descriptor: int, begun: bytes) -> Message:
    """The message of a frame of which so much has been read."""
    begun = _longer(descriptor, begun, HEADER)
    (word,) = _WORD.unpack_from(begun)
    start, size = HEADER, word & _LONG
    if size == _LONG:
        start += _LENGTH.size
        begun = _longer(descriptor, begun, start)
        (size,) = _LENGTH.unpack_from(begun, HEADER)
    body = _longer(descriptor, begun[start:], size)
    return Raw(body) if word & _RAW else body


def _longer(descriptor: int, begun: bytes, size: int) -> bytes:
    """`begun`, and what follows it in the pipe, up to `size` bytes in all; not a byte more is read.

    What has not begun yet comes straight into the bytes that are returned: a buffer of one byte is one that
    nothing is read into.
    """
    if 0 < size - len(begun) <= SMALL:
        begun += os.read(descriptor, size - len(begun))
    rest = size - len(begun)
    if rest <= 0:
        return begun
    with io.FileIO(descriptor, closefd=False) as file:
        found = io.BufferedReader(file, 1).read(rest)
    if len(found) < rest:
        raise EOFError
    return begun + found if begun else found


def capacity(descriptor: int) -> int:
    """Bytes that the pipe holds at most, once it was made as large as this user may make it."""
    with suppress(OSError):  # too many pages in the pipes of this user
        if fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ) < WIDE:
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, WIDE)
    return fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ)


def unread(descriptor: int) -> int:
    """Bytes that are in the pipe."""
    count = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.FIONREAD, count)
    return count[0]
