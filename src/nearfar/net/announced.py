"""Unpacking what may announce more than it holds.

A list of msgpack says first how long it is, and its reader makes room for so many at once. Five bytes may
announce as many as the whole message has bytes, and lists may stand in each other a thousand deep: a megabyte
would have eight gigabytes made room for. To skip over a value makes no room, and fails where anything is
missing.
"""

from __future__ import annotations

from typing import Any

import msgpack

HARMLESS = 16 * 1024
"""Bytes: the room that a shorter message can announce is little, and soon given back."""


def unpack(data: Any, longest: int, **options: Any) -> Any:
    """The one value in `data`, no list of which may be longer than `longest`. Raises what msgpack raises."""
    if len(data) > HARMLESS:
        check(data)
    return msgpack.unpackb(
        data, strict_map_key=False, max_array_len=min(longest, max(1, len(data))), **options
    )


def long_lists(data: bytes) -> bool:
    """False if certainly no list in `data`, but the one that it may begin with, is of more than 15."""
    return data.find(b"\xdd", 1) >= 0 or data.find(b"\xdc", 1) >= 0


def check(data: Any) -> None:
    """Raise what msgpack raises unless `data` begins with a whole value: then nothing in it lies."""
    unpacker = msgpack.Unpacker(max_buffer_size=len(data))
    unpacker.feed(data)
    unpacker.skip()
