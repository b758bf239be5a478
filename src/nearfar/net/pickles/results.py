"""What a task returned, to bytes and back."""

from __future__ import annotations

import pickle
import sys
from typing import Any

from nearfar.net.pickles.parts import BY_VALUE, NAMES_SOMETHING, UNSUITED, Buffers, dump_parts

_SIMPLE = frozenset({type(None), bool, int, float, str, bytes})


def dump_result(value: Any, *, main: bool = False) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """`value` and its buffers of 32 KiB or more, which are parts of it, not copies.

    `main` says that this process's `__main__` is that of the client who reads it. Raises what pickling
    raises.
    """
    if type(value) in _SIMPLE:
        return pickle.dumps(value, 5), []
    try:
        blob, buffers = dump_parts(value)
    except UNSUITED as error:
        return _dump_by_value(value, main, error)
    if NAMES_SOMETHING in blob and not main and b"_main__" in blob:
        return _dump_by_value(value, main, None)
    return blob, buffers


def load_result(blob: bytes | memoryview, buffers: Buffers = ()) -> Any:
    """What `dump_result` dumped, in the client's process. Raises what unpickling raises.

    A class that the client sent by value comes back as the client's own, unchanged.
    """
    if blob[:1] != BY_VALUE:
        return pickle.loads(blob, buffers=buffers)
    from nearfar.net.pickles.cloud import KnownClasses, load_by_value

    return load_by_value(memoryview(blob)[1:], buffers, KnownClasses().substitutes())


def _dump_by_value(
    value: Any, main: bool, error: Exception | None
) -> tuple[bytes, list[pickle.PickleBuffer]]:
    from nearfar.net.pickles.cloud import dump_by_value

    try:
        return dump_by_value(value, vars(sys.modules["__main__"]) if main else None)
    except UNSUITED:
        if error is None:
            raise
        raise error from None
