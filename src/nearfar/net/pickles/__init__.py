"""The only package that touches pickle and cloudpickle.

Who calls `loads`, or any other reader in here, answers for where the bytes came from: a pickle may run
any code.

`calls` and `loader` are the two ends of a task's way to a worker; `results` and `failures` travel home.
"""

from __future__ import annotations

import io
import pickle
from multiprocessing.reduction import ForkingPickler
from typing import Any


class FamilyPickler(pickle.Pickler):
    """`ForkingPickler` without what its constructor costs: half the time of pickling a small item."""

    # The table is a view of both registries, so types registered later are found, too.
    dispatch_table = ForkingPickler(io.BytesIO()).dispatch_table


def dumps(item: Any) -> bytes:
    """`item` for any process. Raises what pickling raises."""
    return pickle.dumps(item, protocol=5)


def dumps_for_family(item: Any) -> bytes:
    """`item` for a child, parent or sibling, as the standard's queues pickle it. Raises what that raises."""
    buffer = io.BytesIO()
    FamilyPickler(buffer).dump(item)
    return buffer.getvalue()


def loads(data: bytes) -> Any:
    """Read a pickle, which may run any code: only from a peer that is trusted. Raises what it raises."""
    return pickle.loads(data)
