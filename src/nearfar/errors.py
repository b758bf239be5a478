"""Every error that nearfar raises by itself.

::

    Exception
    ├── queue.Full, queue.Empty      the standard ones, as multiprocessing raises them
    ├── ShutDown                     queue.ShutDown where the standard library has it (3.13)
    └── NearfarError
        ├── AddressError             (ValueError)       an address that cannot be read or bound
        ├── KeysError                (ValueError)       keys that cannot be read, or that others can read
        ├── ItemError                (TypeError)        an item that cannot travel, or arrived unreadable
        ├── ProtocolError            (ValueError)       a frame that does not follow the protocol
        ├── QueueLost                (ConnectionError)  no host answers at the queue's address
        ├── ProducerLost                                a producer died before it said goodbye
        ├── WorkerLost               (BrokenProcessPool) a worker died while it ran this task
        ├── TaskTimeout              (TimeoutError)     a task ran longer than its timeout, and was killed
        ├── RemoteError                                 a task's exception that could not come home as itself
        ├── PoolBroken               (BrokenProcessPool) a pool that can run nothing any more
        │   ├── InitializerFailed                       the initializer raised, or its worker died in it
        │   └── CoordinatorLost      (ConnectionError)  no coordinator answers at the pool's address
        └── Untrusted                (PermissionError)  pickle, or a peer, that trust does not cover
            └── NotAdmitted          (PoolBroken)       the keys of this side and the other do not fit

`BrokenProcessPool` (of `concurrent.futures.process`, a `BrokenExecutor`) is what programs written for the
standard's executor catch when a worker dies.
"""

from __future__ import annotations

import queue
import sys
from concurrent.futures.process import BrokenProcessPool

__all__ = [
    "AddressError",
    "CoordinatorLost",
    "Empty",
    "Full",
    "InitializerFailed",
    "ItemError",
    "KeysError",
    "NearfarError",
    "NotAdmitted",
    "PoolBroken",
    "ProducerLost",
    "ProtocolError",
    "QueueLost",
    "RemoteError",
    "ShutDown",
    "TaskTimeout",
    "Untrusted",
    "WorkerLost",
]

Empty = queue.Empty
Full = queue.Full

if sys.version_info >= (3, 13):
    ShutDown = queue.ShutDown
else:

    class ShutDown(Exception):
        """Raised by put and get on a queue that was shut down, as `queue.ShutDown` of Python 3.13."""


class NearfarError(Exception):
    """The root of nearfar's own errors."""


class AddressError(NearfarError, ValueError):
    """An address that cannot be read, bound or reached as asked."""


class KeysError(NearfarError, ValueError):
    """A folder of keys that cannot be used: a file is missing, cannot be read, or others can read it."""


class ItemError(NearfarError, TypeError):
    """An item that cannot travel, or one that arrived and cannot be read."""


class ProtocolError(NearfarError, ValueError):
    """A frame that does not follow the protocol."""


class QueueLost(NearfarError, ConnectionError):
    """No host answers at the queue's address, or it went away and did not return in time."""


class ProducerLost(NearfarError):
    """A producer died before it said goodbye, so the stream's end is not what was counted.

    `names` holds the producers, as ``host-pid-suffix``.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(f"lost before saying goodbye: {', '.join(names)}")
        self.names = names


class WorkerLost(NearfarError, BrokenProcessPool):
    """A worker died, or its machine fell silent, while it ran this task.

    The task may have run in part, or to its end. The pool itself goes on: only this task is lost, where the
    standard's executor would be broken as a whole. `worker` is its name, `host` and `pid` say where it was,
    and `how` what became of it (``killed by SIGKILL``, ``exited with code 3``, ``silent for 10 s``).
    """

    def __init__(self, worker: str, host: str, pid: int, how: str, task: str = "") -> None:
        super().__init__(worker, host, pid, how, task)
        self.worker = worker
        self.host = host
        self.pid = pid
        self.how = how
        self.task = task
        """What ran, for a person: ``module:function``."""

    def __str__(self) -> str:
        ran = f" while it ran {self.task}" if self.task else ""
        return f"worker {self.worker} (pid {self.pid} on {self.host}) {self.how}{ran}"


class TaskTimeout(NearfarError, TimeoutError):
    """A task ran longer than its timeout, and its worker was killed."""


class RemoteError(NearfarError):
    """Stands for a task's exception that could not be read here. Its `__cause__` shows the traceback.

    `kind` is that exception's type (``module.name``), `message` what it said.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" if self.message else self.kind


class PoolBroken(NearfarError, BrokenProcessPool):
    """A pool that can run nothing any more."""


class InitializerFailed(PoolBroken):
    """The initializer raised (see `__cause__`), or its worker died in it."""


class CoordinatorLost(PoolBroken, ConnectionError):
    """No coordinator answers at the pool's address, or it went away and did not return in time."""


class Untrusted(NearfarError, PermissionError):
    """Pickle, or a peer, that trust does not cover."""


class NotAdmitted(Untrusted, PoolBroken):
    """The keys of this side and of the other do not fit; the message says which and what helps.

    A queue's calls raise it; of a pool, every task comes to this end.
    """
