"""Every error that nearfar raises by itself.

::

    Exception
    ├── queue.Full, queue.Empty      the standard ones, as multiprocessing raises them
    ├── ShutDown                     queue.ShutDown where the standard library has it (3.13)
    └── NearfarError
        ├── AddressError             (ValueError)       an address that cannot be read or bound
        ├── ItemError                (TypeError)        an item that cannot travel, or arrived unreadable
        ├── ProtocolError            (ValueError)       a frame that does not follow the protocol
        ├── QueueLost                (ConnectionError)  no host answers at the queue's address
        ├── ProducerLost                                a producer died before it said goodbye
        └── Untrusted                (PermissionError)  pickle, or a peer, that trust does not cover
"""

from __future__ import annotations

import queue
import sys

__all__ = [
    "AddressError",
    "Empty",
    "Full",
    "ItemError",
    "NearfarError",
    "ProducerLost",
    "ProtocolError",
    "QueueLost",
    "ShutDown",
    "Untrusted",
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


class Untrusted(NearfarError, PermissionError):
    """Pickle, or a peer, that trust does not cover."""
