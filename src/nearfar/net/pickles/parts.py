"""A pickle and the large buffers beside it."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from functools import partial
from typing import Any

Buffers = Sequence[Any]
"""What `dump_parts` left beside a pickle, or anything with the same bytes, in the same order."""

BESIDE = 32 * 1024
"""Bytes from which a buffer travels beside its pickle, uncopied, instead of in it."""

BY_VALUE = b"C"
"""The first byte before a pickle that cloudpickle wrote. A plain one begins with 0x80."""

WITH_FUNCTION = b"F"
"""The first byte of a blob that holds a function's pickle and then, by itself, that of its arguments."""

WITH_CHANGEABLE_FUNCTION = b"G"
"""The same for a function that was pickled for this call, and is looked at part by part."""

NAMES_SOMETHING = b"\x93"
"""The opcode that is in every pickle that refers to a class or function (and by chance in others)."""

UNSUITED = (pickle.PicklingError, AttributeError, TypeError)
"""What plain pickle raises for what cloudpickle may yet take: lambdas, local classes, modules."""


def dump_parts(value: Any) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """`value` in plain pickle, and its buffers of `BESIDE` bytes or more. Raises what pickling raises."""
    buffers: list[pickle.PickleBuffer] = []
    return pickle.dumps(value, 5, buffer_callback=partial(keep_large, buffers)), buffers


class _Beside:
    """Stands for large bytes in a pickle, so that they travel beside it: pickle itself would copy them."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> tuple[type[bytes], tuple[pickle.PickleBuffer]]:
        return bytes, (pickle.PickleBuffer(self.data),)


def with_bytes_beside(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a call, to be pickled: large bytes among them will travel beside the pickle."""
    for each in args:
        if type(each) is bytes and len(each) >= BESIDE:
            return tuple(_Beside(x) if type(x) is bytes and len(x) >= BESIDE else x for x in args)
    return args


def keep_large(buffers: list[pickle.PickleBuffer], buffer: pickle.PickleBuffer) -> bool:
    """A `buffer_callback` for `partial`: moves large ones to `buffers`, leaves small ones in the pickle."""
    try:
        large = buffer.raw().nbytes >= BESIDE
    except BufferError:  # not contiguous: pickle says so in its own words
        return True
    if large:
        buffers.append(buffer)
    return not large
