"""Unpack msgpack from a peer without allocating room for what it only announces.

A msgpack list begins with its length, and the reader allocates that many elements at once. Five bytes may
announce as many elements as the whole message has bytes, and lists may be nested a thousand deep: a message
of a megabyte could make the reader allocate eight gigabytes. So `unpack` first skips over the value, which
allocates nothing, and fails if anything is missing.
"""

from __future__ import annotations

from typing import Any

import msgpack

HARMLESS = 16 * 1024
"""Bytes: what a shorter message can make the reader allocate is little, and soon freed."""


def unpack(data: Any, longest: int, **options: Any) -> Any:
    """The value in `data`, without lists longer than `longest`. Raises what msgpack raises."""
    if len(data) > HARMLESS:
        check(data)
    return msgpack.unpackb(
        data, strict_map_key=False, max_array_len=min(longest, max(1, len(data))), **options
    )


def long_lists(data: bytes) -> bool:
    """False if surely no list in `data` has more than 15 elements, except one at its very beginning."""
    return data.find(b"\xdd", 1) >= 0 or data.find(b"\xdc", 1) >= 0


def check(data: Any) -> None:
    """Raise what msgpack raises unless `data` begins with a complete value, in which all lengths are true."""
    unpacker = msgpack.Unpacker(max_buffer_size=len(data))
    unpacker.feed(data)
    unpacker.skip()
