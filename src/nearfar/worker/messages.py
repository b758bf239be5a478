"""What stands in the messages between a worker process and its parent, each one msgpack array.

Down, a batch: ``[extra, client, function, mode, *payloads]``.
Up, answers: ``[extra, number, spent, *answers]``, each ``[status, payload, []]``; `number` counts the answers
before these, `spent` is in microseconds. A first ``[nil, READY]`` says that the worker is there.

A payload is a blob, or the number of its buffers: then the blob and they lie in shared memory, in this
order. `extra` is nil, or ``[descriptor or nil, segments that are free again]`` (`nearfar.worker.segments`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import msgpack

from nearfar.worker.segments.memory import INLINE

LARGEST = 1 << 20
"""Bytes of a message."""
READY = -1

Buffer = Any
"""Anything with the buffer protocol: bytes, a memoryview, a `pickle.PickleBuffer`."""
Extra = Sequence[Any] | None


class Payload(Protocol):
    """What a task carries."""

    @property
    def blob(self) -> Buffer: ...
    @property
    def buffers(self) -> Sequence[Buffer]: ...


class Row(NamedTuple):
    """A task as it travels between machines."""

    function: bytes
    mode: int
    blob: Buffer
    buffers: Sequence[Buffer] = ()


def gather(payloads: Iterable[Payload]) -> tuple[list[Any], list[Buffer]]:
    """The payloads as they stand in a message, and the parts that are to travel beside it."""
    inline: list[Any] = []
    parts: list[Buffer] = []
    for payload in payloads:
        blob, buffers = payload.blob, payload.buffers
        if not buffers and len(blob) <= INLINE:
            inline.append(blob)
        else:
            inline.append(len(buffers))
            parts.append(blob)
            parts.extend(buffers)
    return inline, parts


def scatter(payload: Any, parts: Iterator[Buffer]) -> tuple[Buffer, Sequence[Buffer]]:
    """The blob and the buffers of a payload; `parts` goes on from one to the next. Raises `StopIteration`."""
    if type(payload) is not int:
        return payload, ()
    return next(parts), [next(parts) for _ in range(payload)]


def pack(words: Any) -> bytes:
    """Any message, or any part of one."""
    packed: bytes = msgpack.packb(words)
    return packed


def packer() -> Callable[[Any], bytes]:
    """A `pack` for many small parts, in half the time. Not for several threads at once."""
    own: Callable[[Any], bytes] = msgpack.Packer().pack
    return own


def unpack(data: Buffer) -> list[Any]:
    """A message of `pack`. Raises what msgpack raises: there is only a parent or a child at the other end."""
    words: list[Any] = msgpack.unpackb(data)
    return words


def unpack_first(data: Buffer, count: int) -> list[Any]:
    """The first `count` of what `pack` packed, end to end. Raises what msgpack raises."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(data)
    return [unpacker.unpack() for _ in range(count)]


def join(extra: Extra, number: int, spent: int, count: int, answers: bytes) -> bytes:
    """A message up, of `count` answers that are packed already."""
    return b"\xdd" + (3 + count).to_bytes(4, "big") + pack(extra) + pack(number) + pack(spent) + answers
