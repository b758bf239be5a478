"""All errors that nearfar itself raises.

::

    Exception
    ├── queue.Full, queue.Empty      the standard library's, as in multiprocessing
    ├── ShutDown                     queue.ShutDown, if the standard library has it (3.13)
    └── NearfarError
        ├── AddressError             (ValueError)       an address that cannot be parsed or bound
        ├── KeysError                (ValueError)       keys that cannot be read, or that others can read
        ├── ItemError                (TypeError)        an item that cannot be sent, or arrived unreadable
        ├── ProtocolError            (ValueError)       a frame that does not follow the protocol
        ├── QueueLost                (ConnectionError)  no host answers at the queue's address
        ├── ProducerLost                                a producer died before it closed its queue
        ├── WorkerLost               (BrokenProcessPool) a worker died while it ran this task
        ├── TaskTimeout              (TimeoutError)     a task ran longer than its timeout, and was killed
        ├── RemoteError                                 replaces a task's exception that cannot be read here
        ├── PoolBroken               (BrokenProcessPool) a pool that can no longer run tasks
        │   ├── InitializerFailed                       the initializer raised, or its worker died in it
        │   └── CoordinatorLost      (ConnectionError)  no coordinator answers at the pool's address
        └── Untrusted                (PermissionError)  a pickle from, or a call by, a peer without trust
            └── NotAdmitted          (PoolBroken)       the keys of this side and the other do not match

Programs written for the standard library's executor catch `BrokenProcessPool` (of
`concurrent.futures.process`, a `BrokenExecutor`) when a worker dies.
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
        """Raised by put and get on a queue that was shut down, like `queue.ShutDown` of Python 3.13."""


class NearfarError(Exception):
    """The base class of nearfar's own errors."""


class AddressError(NearfarError, ValueError):
    """An address that cannot be parsed, bound, or used with these options."""


class KeysError(NearfarError, ValueError):
    """A folder of keys that cannot be used: a file is missing, cannot be read, or others can read it."""


class ItemError(NearfarError, TypeError):
    """An item that cannot be sent, or one that arrived and cannot be read."""


class ProtocolError(NearfarError, ValueError):
    """A frame that does not follow the protocol."""


class QueueLost(NearfarError, ConnectionError):
    """No host answers at the queue's address, or it went away and did not return in time."""


class ProducerLost(NearfarError):
    """A producer died before it closed its queue, so its stream may be incomplete.

    `names` lists the producers, as ``host-pid-suffix``.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(f"lost before saying goodbye: {', '.join(names)}")
        self.names = names


class WorkerLost(NearfarError, BrokenProcessPool):
    """A worker died, or its machine fell silent, while it ran this task.

    The task may have run in part, or to its end. The pool continues: only this task is lost, where the
    standard library's executor would be broken as a whole. `worker` is its name, `host` and `pid` its place
    (empty and 0 if its engine does not tell), and `how` the cause (``killed by SIGKILL``, ``exited with code
    3``, ``was lost with its agent: it was silent for 10 s``).
    """

    def __init__(self, worker: str, host: str, pid: int, how: str, task: str = "") -> None:
        super().__init__(worker, host, pid, how, task)
        self.worker = worker
        self.host = host
        self.pid = pid
        self.how = how
        self.task = task
        """The task's function, as text: ``module:function``."""

    def __str__(self) -> str:
        ran = f" while it ran {self.task}" if self.task else ""
        place = f" (pid {self.pid} on {self.host})" if self.pid else ""
        return f"worker {self.worker}{place} {self.how}{ran}"


class TaskTimeout(NearfarError, TimeoutError):
    """A task ran longer than its timeout, and its worker was killed."""


class RemoteError(NearfarError):
    """Replaces a task's exception that could not be read here. Its `__cause__` shows the traceback.

    `kind` is that exception's type (``module.name``), `message` its message.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" if self.message else self.kind


class PoolBroken(NearfarError, BrokenProcessPool):
    """A pool that can no longer run tasks."""


class InitializerFailed(PoolBroken):
    """The initializer raised (see `__cause__`), or its worker died in it."""


class CoordinatorLost(PoolBroken, ConnectionError):
    """No coordinator answers at the pool's address, or it went away and did not return in time."""


class Untrusted(NearfarError, PermissionError):
    """A pickle from a peer that is not trusted with it, or a call or a connection that is not allowed."""


class NotAdmitted(Untrusted, PoolBroken):
    """The keys of this side and of the other do not match; the message says which, and what to do.

    Calls of a queue raise it, and every task of a pool ends with it.
    """
