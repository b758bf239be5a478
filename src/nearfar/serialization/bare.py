"""Bare values: numbers, None, short strings and bytes, and tuples of a few of those.

None of them can change, so they may be packed at any time; msgpack packs and reads them faster than pickle,
and reading them runs nothing. In a pool of one machine a batch of them is packed as a whole
(`nearfar.worker.channel`). Between machines, a value that is bare is a blob of its own (`pack_bare`).
"""

from __future__ import annotations

from typing import Any

import msgpack

MOST_BARE = 8
"""Arguments of one call that may be bare."""
SHORT = 200
"""Characters or bytes that a bare argument may have: a batch of them has room in one message."""
NUMBERS = frozenset({int, float, bool, type(None)})
"""Types whose values are bare, however many bytes they have."""
BARE = b"\x91"
"""The first byte of a bare value on its way between machines: a msgpack array of that value. The blobs of
`nearfar.serialization` begin otherwise."""
LONGEST_BARE = 1024
"""Bytes that it may have there, so that little can be made of it before anyone asks for it."""


def are_bare(values: tuple[Any, ...]) -> bool:
    """Whether these can stand in a message as they are: a few numbers, None, short strings and bytes.

    None of them can change later, so they may be packed at any time. A few strings and integers msgpack
    refuses all the same: `pack` raises `OverflowError` or `ValueError`, and they must be pickled.
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


def pack_bare(value: Any) -> bytes | None:
    """The blob of a value that is bare, which reads faster than its pickle and runs nothing; None for any
    other value."""
    if not is_bare(value):
        return None
    try:
        blob: bytes = msgpack.packb((value,))
    except (OverflowError, ValueError):  # an integer, or a string, that is not for msgpack
        return None
    return blob if len(blob) <= LONGEST_BARE else None


def unpack_bare(blob: Any) -> Any:
    """The value of a blob that begins with `BARE`. Raises `ValueError` for one that is malformed or too long,
    and what msgpack raises."""
    if len(blob) > LONGEST_BARE:
        raise ValueError(f"a bare value of {len(blob)} bytes")
    return msgpack.unpackb(blob, use_list=False)[0]
