"""nearfar: one queue and one pool, near or far.

::

    q = Queue(5)                                  # near: multiprocessing.Queue
    q = Queue(5, "tcp://127.0.0.1:5555")          # far: this process hosts the queue
    q = Queue.connect("tcp://127.0.0.1:5555")     # far: any other process
"""

from nearfar.errors import (
    AddressError,
    Empty,
    Full,
    ItemError,
    NearfarError,
    ProducerLost,
    ProtocolError,
    QueueLost,
    ShutDown,
    Untrusted,
)
from nearfar.queues.base import BaseJoinableQueue, BaseQueue, Delivery, Promises
from nearfar.queues.front import JoinableQueue, Queue

__version__ = "0.1.0.dev0"

__all__ = [
    "AddressError",
    "BaseJoinableQueue",
    "BaseQueue",
    "Delivery",
    "Empty",
    "Full",
    "ItemError",
    "JoinableQueue",
    "NearfarError",
    "ProducerLost",
    "Promises",
    "ProtocolError",
    "Queue",
    "QueueLost",
    "ShutDown",
    "Untrusted",
    "__version__",
]
