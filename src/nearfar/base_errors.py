"""Errors of `nearfar.errors` that a download in one process needs.

The others come with `BrokenProcessPool`, whose import loads all of multiprocessing: 15 ms.
"""

from __future__ import annotations


class NearfarError(Exception):
    """The base class of nearfar's own errors."""


class AddressError(NearfarError, ValueError):
    """An address that cannot be parsed, bound, or used with these options."""


class KeysError(NearfarError, ValueError):
    """A folder of keys that cannot be used: a file is missing, cannot be read, or others can read it."""


class ProtocolError(NearfarError, ValueError):
    """A frame that does not follow the protocol."""


class QueueLost(NearfarError, ConnectionError):
    """No host answers at the queue's address, or it went away and did not return in time."""


for _each in (NearfarError, AddressError, KeysError, ProtocolError, QueueLost):
    _each.__module__ = "nearfar.errors"  # where programs find it
