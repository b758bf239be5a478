"""What a task returned, to bytes and back."""

from __future__ import annotations

import pickle
import sys
from typing import Any

from nearfar.net.pickles import SIMPLE
from nearfar.net.pickles.family import dump_parts_for_family, is_mistaken
from nearfar.net.pickles.parts import BY_VALUE, NAMES_SOMETHING, UNSUITED, Buffers, dump_parts

_MAIN = b"_main__"


def dump_result(
    value: Any, *, main: bool = False, family: bool = False
) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """`value` and its buffers of 32 KiB or more, which are parts of it, not copies.

    `family` says that the client who reads it is this process's parent, `main` that its `__main__` is this
    process's, too. Raises what pickling raises.
    """
    if type(value) in SIMPLE:
        return pickle.dumps(value, 5), []
    try:
        blob, buffers = dump_parts(value)
    except UNSUITED as error:
        return _dump_otherwise(value, main, family, error)
    if NAMES_SOMETHING in blob and ((_MAIN in blob and not main) or is_mistaken(blob, family)):
        return _dump_otherwise(value, main, family, None)
    return blob, buffers


def load_result(blob: bytes | memoryview, buffers: Buffers = ()) -> Any:
    """What `dump_result` dumped, in the client's process. Raises what unpickling raises.

    A class that the client sent by value comes back as the client's own, unchanged.
    """
    if blob[:1] != BY_VALUE:
        return pickle.loads(blob, buffers=buffers)
    from nearfar.net.pickles.cloud import KnownClasses, load_by_value

    return load_by_value(memoryview(blob)[1:], buffers, KnownClasses().substitutes())


def _dump_otherwise(
    value: Any, main: bool, family: bool, error: Exception | None
) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """Pickle what plain pickle cannot, or not rightly. Raises its `error` if nothing can."""
    parts = dump_parts_for_family(value) if family else None
    if parts is not None and (main or _MAIN not in parts[0]):
        return parts
    from nearfar.net.pickles.cloud import dump_by_value

    try:
        return dump_by_value(value, vars(sys.modules["__main__"]) if main else None, family)
    except UNSUITED:
        if error is None:
            raise
        raise error from None
