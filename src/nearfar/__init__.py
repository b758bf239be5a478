"""nearfar: one queue and one pool, near or far.

::

    q = Queue(5)                                  # near: multiprocessing.Queue
    q = Queue(5, "tcp://127.0.0.1:5555")          # far: this process hosts the queue
    q = Queue.connect("tcp://127.0.0.1:5555")     # far: any other process

    with Pool(4) as pool: ...                             # near: four worker processes
    with Pool(4, address="tcp://127.0.0.1:5556") as pool: # the same four, and every worker that joins there
    with Pool.connect("tcp://127.0.0.1:5556") as pool:    # client of a separate coordinator
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # not from typing, whose import would slow down the start of programs
if TYPE_CHECKING:
    from typing import Any

    from nearfar.errors import (
        AddressError,
        CoordinatorLost,
        Empty,
        Full,
        InitializerFailed,
        ItemError,
        KeysError,
        NearfarError,
        NotAdmitted,
        PoolBroken,
        ProducerLost,
        ProtocolError,
        QueueLost,
        RemoteError,
        ShutDown,
        TaskTimeout,
        Untrusted,
        WorkerLost,
    )
    from nearfar.pool.engine import PoolPromises
    from nearfar.pool.executor import Executor
    from nearfar.pool.pool import Pool
    from nearfar.queues.base import BaseJoinableQueue, BaseQueue, Delivery, Promises
    from nearfar.queues.factory import JoinableQueue, Queue
    from nearfar.worker.lifetime import WorkerInfo, current_worker

__version__ = "0.1.0"

__all__ = [
    "AddressError",
    "BaseJoinableQueue",
    "BaseQueue",
    "CoordinatorLost",
    "Delivery",
    "Empty",
    "Executor",
    "Full",
    "InitializerFailed",
    "ItemError",
    "JoinableQueue",
    "KeysError",
    "NearfarError",
    "NotAdmitted",
    "Pool",
    "PoolBroken",
    "PoolPromises",
    "ProducerLost",
    "Promises",
    "ProtocolError",
    "Queue",
    "QueueLost",
    "RemoteError",
    "ShutDown",
    "TaskTimeout",
    "Untrusted",
    "WorkerInfo",
    "WorkerLost",
    "__version__",
    "current_worker",
]

_HOMES = {
    "nearfar.pool.executor": ("Executor",),
    "nearfar.pool.engine": ("PoolPromises",),
    "nearfar.pool.pool": ("Pool",),
    "nearfar.queues.base": ("BaseJoinableQueue", "BaseQueue", "Delivery", "Promises"),
    "nearfar.queues.factory": ("JoinableQueue", "Queue"),
    "nearfar.worker.lifetime": ("WorkerInfo", "current_worker"),
}
"""The modules of the public names, except errors."""
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: so a pool does not load queues, and a program can set its signal
    handlers before it loads anything."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF.get(name, "nearfar.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
