"""Values to a plain blob and back, with the large bytes among them beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nearfar.errors import ItemError, ProtocolError
from nearfar.net import codec
from nearfar.net.plain import PLAIN

BESIDE = 32 * 1024
"""Length from which bytes travel beside the blob, uncopied, instead of in it."""

DATA = "numbers, strings, bytes, lists, tuples, sets and dicts"
"""What travels, for a person."""


def pack(values: Sequence[Any], more: Any = None) -> tuple[bytes, list[bytes]]:
    """`values` and `more` as a blob, and the large bytes among the values. Raises `ItemError`."""
    beside = [place for place, value in enumerate(values) if type(value) is bytes and len(value) >= BESIDE]
    left = list(values)
    for place in beside:
        left[place] = None
    return PLAIN + codec.encode([left, beside, more], trusted=False), [values[place] for place in beside]


def unpack(blob: bytes | memoryview, buffers: Sequence[Any]) -> tuple[list[Any], Any]:
    """What `pack` packed. Raises `ItemError` for anything else, and `Untrusted` for a pickle inside."""
    try:
        (found,) = codec.decode(bytes(memoryview(blob)[1:]), 1, trusted=False)
    except ProtocolError as error:
        raise ItemError(f"plain data that cannot be read: {error}") from error
    match found:
        case [list() as values, list() as beside, more] if len(beside) == len(buffers):
            for place, buffer in zip(beside, buffers, strict=True):
                if type(place) is not int or not 0 <= place < len(values):
                    break
                values[place] = bytes(buffer)
            else:
                return values, more
    raise ItemError("plain data of the wrong shape")


def fits(value: Any) -> bool:
    """Whether `value` may stand in a blob."""
    try:
        codec.encode(value, trusted=False)
    except ItemError:
        return False
    return True
