"""The only package that touches pickle and cloudpickle.

Who calls `loads`, or any other reader in here, answers for where the bytes came from: a pickle may run
any code.

`calls` and `loader` are the two ends of a task's way to a worker; `results` and `failures` travel home.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from multiprocessing.reduction import ForkingPickler
from typing import Any

SIMPLE = frozenset({type(None), bool, int, float, str, bytes})
"""Types whose pickles name nothing, and which no registry can have pickled otherwise."""
_REGISTERED: dict[type, Any] = ForkingPickler._extra_reducers  # type: ignore[attr-defined]


def _all_registered() -> dict[type, Any]:
    return {**copyreg.dispatch_table, **_REGISTERED}


def _sizes_registered() -> tuple[int, int]:
    return len(copyreg.dispatch_table), len(_REGISTERED)


class FamilyPickler(pickle.Pickler):
    """`ForkingPickler` without what its constructor costs: half the time of pickling a small item.

    Call `refresh` before making one, so that it knows the types that were registered in the meantime.
    """

    # A dict of its own: a ChainMap of both registries costs a microsecond for each object that is looked up.
    dispatch_table = _all_registered()
    _sizes = _sizes_registered()

    @classmethod
    def refresh(cls) -> None:
        if cls._sizes != (sizes := _sizes_registered()):
            cls.dispatch_table = _all_registered()
            cls._sizes = sizes


def dumps(item: Any) -> bytes:
    """`item` for any process. Raises what pickling raises."""
    return pickle.dumps(item, protocol=5)


def dumps_for_family(item: Any) -> bytes:
    """`item` for a child, parent or sibling, as the standard's queues pickle it. Raises what that raises."""
    if type(item) in SIMPLE:
        return pickle.dumps(item, protocol=5)
    buffer = io.BytesIO()
    FamilyPickler.refresh()
    FamilyPickler(buffer).dump(item)
    return buffer.getvalue()


def loads(data: bytes | bytearray) -> Any:
    """Read a pickle, which may run any code: only from a peer that is trusted. Raises what it raises."""
    return pickle.loads(data)
