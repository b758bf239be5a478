"""The private line between a worker process and its parent: a pair of sockets that keeps messages apart.

A message is sent whole or not at all, and read whole. What was sent and not read can still be read by the
sender, who keeps a copy of the other end: so the parent calls back what a worker has not begun, and knows of
a dead one exactly what it had.
"""

from __future__ import annotations

import errno
import os
import socket
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import msgpack

from nearfar.worker.messages import LARGEST, Buffer, Extra, packer
from nearfar.worker.segments import Receiver, Sender

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


class End:
    """One end of the line. Not for several threads at once."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self._buffer = bytearray(LARGEST)
        self._view = memoryview(self._buffer)
        self.pack = packer()
        self._sender: Sender | None = None
        self._receiver: Receiver | None = None
        self.receives = False
        """Whether large parts have come, so that `extra` may have something to say."""
        self._unsaid: list[int] = []
        """Segments that are free again, of which a message told that has not arrived."""

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, words: Sequence[Any], parts: Sequence[Buffer] = (), fds: Sequence[int] = ()) -> Extra:
        """Send ``[extra, *words]``, the `parts` in shared memory; returns the `extra`, for `take_back`.

        Raises `OSError` or `MemoryError`, having sent nothing: `BlockingIOError` where the other side does
        not read. `OverflowError` or `ValueError` where something that is bare cannot be packed.
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
        if len(message) > LARGEST:  # it would be cut off
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        if fds:
            socket.send_fds(self.socket, [message], list(fds))
        else:
            self.socket.send(message)

    def extra(self) -> Extra:
        """What a message without large parts has to say about segments."""
        released = self._receiver.take_released() if self._receiver is not None else []
        if self._unsaid:
            released = self._unsaid + released
            self._unsaid = []
        return (None, released) if released else None

    def take_back(self, extra: Extra, fds: Sequence[int] = ()) -> None:
        """The message with this `extra`, and with these `fds`, has not arrived, and will not."""
        if extra is None:
            return
        descriptor, released = extra
        self._unsaid += released
        if descriptor is not None and self._sender is not None:
            self._sender.unplace(descriptor, fds)

    def receive(self) -> tuple[Sequence[Any], Iterator[Buffer], list[int]] | None:
        """The next message without its `extra`, its large parts, and descriptors that came with it.

        None at the end of the line. Raises `BlockingIOError` on an end that does not block, if there is none,
        and what msgpack raises: there is only a parent or a child at the other end.
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
            raise BlockingIOError from None  # the system could not hand it out now, and has it still
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
            self._sender = Sender()
        descriptor, fds = self._sender.place(parts)  # may raise: before what it says would be lost
        extra = self.extra()
        return (descriptor, extra[1] if extra else []), fds

    def _map(self, extra: Sequence[Any], fds: list[int]) -> Sequence[Buffer]:
        descriptor, released = extra
        if released and self._sender is not None:
            self._sender.released(released)
        if descriptor is None:
            return ()
        if self._receiver is None:
            self._receiver = Receiver()
            self.receives = True
        return self._receiver.map(descriptor, fds)


def unread(theirs: socket.socket) -> int:
    """Read back what the other side sent to `theirs` and nobody has read; returns how many messages.

    Raises `OSError`, having taken none.
    """
    count = 0
    while True:
        try:
            start, ancillary, _, _ = theirs.recvmsg(1, _ANCILLARY, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return count
        except OSError:
            if count:  # those are taken out already
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
