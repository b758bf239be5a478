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

NAMES_SOMETHING = b"\x93"
"""The opcode that is in every pickle that refers to a class or function (and by chance in others)."""

UNSUITED = (pickle.PicklingError, AttributeError, TypeError)
"""What plain pickle raises for what cloudpickle may yet take: lambdas, local classes, modules."""


def dump_parts(value: Any) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """`value` in plain pickle, and its buffers of `BESIDE` bytes or more. Raises what pickling raises."""
    buffers: list[pickle.PickleBuffer] = []
    return pickle.dumps(value, 5, buffer_callback=partial(keep_large, buffers)), buffers


def keep_large(buffers: list[pickle.PickleBuffer], buffer: pickle.PickleBuffer) -> bool:
    """A `buffer_callback` for `partial`: moves large ones to `buffers`, leaves small ones in the pickle."""
    try:
        large = buffer.raw().nbytes >= BESIDE
    except BufferError:  # not contiguous: pickle says so in its own words
        return True
    if large:
        buffers.append(buffer)
    return not large
