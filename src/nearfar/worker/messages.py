"""What stands in the messages between a worker process and its parent, each one msgpack array.

Down, a batch: ``[extra, client, function, mode, *payloads]``.
Up, answers: ``[extra, number, spent, *answers]``, each ``[status, payload, []]``, or ``[value]`` for a value
that is bare; `number` counts the answers before these, `spent` is in microseconds. A first ``[nil, READY]``
says that the worker is there.

A payload is a blob, or the number of its buffers: then the blob and they lie in shared memory, in this
order; or an array of arguments that are bare. What is bare (`are_bare`) stands in the message as it is:
msgpack packs a whole batch of it at once, for a fraction of what pickling each by itself takes. `extra` is
nil, or ``[descriptor or nil, segments that are free again]`` (`nearfar.worker.segments`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import msgpack

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


def are_bare(values: tuple[Any, ...]) -> bool:
    """Whether these can stand in a message as they are: a few numbers, None, short strings and bytes.

    None of them can change later, so they may be packed at any time. A few strings and integers msgpack
    refuses all the same: `pack` raises `OverflowError` or `ValueError`, and they are to be pickled.
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
    """The same of one value, which may be a tuple of such values."""
    kind = type(value)
    if kind in NUMBERS:
        return True
    if kind is str or kind is bytes:
        return len(value) <= SHORT
    return kind is tuple and are_bare(value)


def scatter(payload: Any, parts: Iterator[Buffer]) -> tuple[Buffer, Sequence[Buffer]]:
    """The blob and the buffers of a payload; `parts` goes on from one to the next. Raises `StopIteration`."""
    if type(payload) is not int:
        return payload, ()
    return next(parts), [next(parts) for _ in range(payload)]


def packer() -> Callable[[Any], bytes]:
    """Packs a message, or a part of one. Not for several threads at once."""
    own: Callable[[Any], bytes] = msgpack.Packer().pack
    return own


def unpack_first(data: Buffer, count: int) -> list[Any]:
    """The first `count` of what `pack` packed, end to end. Raises what msgpack raises."""
    unpacker = msgpack.Unpacker(use_list=False)
    unpacker.feed(data)
    return [unpacker.unpack() for _ in range(count)]


def join(head: bytes, count: int, answers: bytes) -> bytes:
    """A message up: `head` is its first three words, packed; then come `count` answers, packed already."""
    return b"\xdd" + (3 + count).to_bytes(4, "big") + head[1:] + answers
