"""What stands in the messages between a worker process and its parent."""

from __future__ import annotations

from enum import IntEnum


class Mode(IntEnum):
    """How a task calls its function."""

    CALL = 0
    """``function(*args, **kwargs)``"""
    MAP = 1
    """``[function(x) for x in chunk]``"""
    STARMAP = 2
    """``[function(*x) for x in chunk]``"""


class Status(IntEnum):
    """What became of a task."""

    VALUE = 0
    ERROR = 1
