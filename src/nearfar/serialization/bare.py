"""Bare values: numbers, None, short strings and bytes, and tuples of a few of those.

They are immutable, so they may be packed at any time; msgpack packs and reads them faster than pickle, and
reading them executes nothing. In a pool of one machine, a batch of them is packed as a whole
(`nearfar.worker.channel`). Between machines, a bare value, or the tuple of one call's bare arguments, is a
blob of its own (`pack_bare`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import msgpack

MOST_BARE = 8
"""Arguments of one call that may be bare."""
SHORT = 200
"""Characters or bytes that a bare argument may have: a batch of them fits into one message."""
NUMBERS = frozenset({int, float, bool, type(None)})
"""Types whose values are bare, however many bytes they have."""
BARE = b"\x91"
"""The first byte of a bare value between machines: a msgpack array of that value. Other blobs of
`nearfar.serialization` begin with another byte."""
LONGEST_BARE = 1024
"""Bytes that it may have there, which limits the memory that its decoding can use."""


class _Packer(threading.local):
    """Each thread's own: to make one costs more than to pack a bare value."""

    def __init__(self) -> None:
        self.pack: Callable[[Any], bytes] = msgpack.Packer().pack


packer = _Packer()


def are_bare(values: tuple[Any, ...]) -> bool:
    """Whether these can be put in a message unpickled: a few numbers, None, short strings and bytes.

    They are immutable, so they may be packed at any time. msgpack refuses a few strings and integers: then
    `pack` raises `OverflowError` or `ValueError`, and they must be pickled.
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
    """The same for one value, which may be a tuple of such values."""
    kind = type(value)
    if kind in NUMBERS:
        return True
    if kind is str or kind is bytes:
        return len(value) <= SHORT
    return kind is tuple and are_bare(value)


def pack_bare(value: Any) -> bytes | None:
    """The blob of a bare value, which reads faster than its pickle and executes nothing; None for any other
    value."""
    if not is_bare(value):
        return None
    try:
        blob = packer.pack((value,))
    except (OverflowError, ValueError):  # an integer, or a string, that msgpack refuses
        return None
    return blob if len(blob) <= LONGEST_BARE else None


def unpack_bare(blob: Any) -> Any:
    """The value of a blob that begins with `BARE`. Raises `ValueError` if it is malformed or too long, and
    what msgpack raises."""
    if len(blob) > LONGEST_BARE:
        raise ValueError(f"a bare value of {len(blob)} bytes")
    return msgpack.unpackb(blob, use_list=False)[0]
