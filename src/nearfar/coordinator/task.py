"""A task, its states and outcomes, and the errors that a coordinator makes without pickle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from enum import IntEnum
from typing import Any

import msgpack

from nearfar.errors import InitializerFailed, NearfarError, ProtocolError, TaskTimeout, WorkerLost
from nearfar.net.validation import shown


class Mode(IntEnum):
    """How a task calls its function."""

    CALL = 0
    """``function(*args, **kwargs)``"""
    MAP = 1
    """``[function(x) for x in chunk]``"""
    STARMAP = 2
    """``[function(*x) for x in chunk]``"""
    PREPARE = 3
    """``function(*args)``, without its value: an initializer."""


class TaskStatus(IntEnum):
    """The status of a task that a worker ran."""

    VALUE = 0
    ERROR = 1
    TOO_LARGE = 2
    """It ran, and its answer has more bytes than the coordinator accepts: the blob is their number."""


class TaskOutcome(IntEnum):
    """How a task ended, as sent to its client: the first two are those of `TaskStatus`."""

    VALUE = 0
    ERROR = 1
    FAILED = 2
    """No worker answered; the blob is a failure's description (`describe`)."""


class TaskState(IntEnum):
    """Where a task is. A task that has received its outcome never changes again."""

    NEW = 0
    WAITING = 1
    GIVEN = 2
    """A worker has it, and may have begun."""
    SETTLED = 3


class Task:
    """One call, or one chunk of calls. Slots, and defaults in the class, as there may be a million tasks."""

    __slots__ = ("blob", "buffers", "client", "function", "mode", "state")

    timeout: float | None = None
    """Seconds that it may run, from its start; then its worker is killed."""
    retries: int = 0
    """How often it may run again after the loss of its worker."""
    told: bool = False
    """Whether its outcome was delivered to it."""
    loud: bool = False
    """Whether users' callbacks run when its outcome is delivered."""
    losses: int = 0
    """Workers that were lost while they ran it."""

    hollow: bool = False
    """True while it cannot be assigned to another worker, because an earlier coordinator assigned it: its
    arguments may not be known, or another agent may claim it."""

    client: str
    """The name of its client: in a worker it runs with that client's globals."""
    function: bytes
    """``module:qualname``, or empty if the function is inside the blob."""
    mode: int
    blob: bytes | tuple[Any, ...]
    """The arguments: pickled, or, in a pool whose workers are all local, an unpickled tuple
    (`nearfar.worker.channel`)."""
    buffers: Sequence[Any]
    """Large parts that are sent beside the blob."""
    state: TaskState

    def describe(self) -> str:
        """The name of its function, for messages to users."""
        return shown(self.function.decode(errors="replace")) or "a function sent by value"

    def lose(self) -> None:
        """Count a worker that was lost while it ran this. Called only for tasks with `retries`."""
        raise NotImplementedError

    def answered(self, status: int, blob: Any, buffers: Sequence[Any]) -> None:
        """End with a worker's answer, still pickled. Either this or `failed` is called, and only once."""
        raise NotImplementedError

    def returned(self, value: Any) -> None:
        """As `answered`, with a value that is not pickled."""
        raise NotImplementedError

    def failed(self, error: BaseException) -> None:
        """End with `error`, without an answer."""
        raise NotImplementedError


LONGEST = 2000
"""Characters of a coordinator's description of a failure."""


class Unread(InitializerFailed):
    """A client's initializer raised: `blob` is the error as its worker pickled it."""

    def __init__(self, blob: Any) -> None:
        super().__init__("the initializer raised")
        self.blob = bytes(blob)


def describe(error: BaseException) -> bytes:
    """The description of `error`, for `read`."""
    match error:
        case WorkerLost():
            fields: tuple[Any, ...] = (error.worker, error.host, error.pid, error.how, error.task)
        case Unread():
            fields = (error.blob,)
        case CancelledError():
            fields = ()
        case _:
            fields = (str(error),)
    name = next(name for name, kind in _KINDS.items() if isinstance(error, kind))
    described: bytes = msgpack.packb((name, *fields))
    return described


def read(description: Any, read_error: Callable[[bytes], BaseException]) -> BaseException:
    """The error described; `read_error` reads what an initializer raised. Raises `ProtocolError`."""
    try:
        name, *fields = msgpack.unpackb(description)
        match name, fields:
            case "WorkerLost", [str(), str(), int(), str(), str()]:
                worker, host, pid, how, task = fields
                return WorkerLost(shown(worker), shown(host), pid, shown(how, LONGEST), shown(task))
            case "InitializerRaised", [bytes() as blob]:
                return read_error(blob)
            case "CancelledError", []:
                return CancelledError()
            case (("TaskTimeout" | "InitializerFailed" | "NearfarError"), [str() as text]):
                return _TOLD[name](shown(text, LONGEST))
    except (ValueError, TypeError, MemoryError, msgpack.UnpackException) as error:
        raise ProtocolError(f"not a failure: {error!r}") from error
    raise ProtocolError("not a failure")


_KINDS: dict[str, type[BaseException]] = {
    "WorkerLost": WorkerLost,
    "TaskTimeout": TaskTimeout,
    "InitializerRaised": Unread,
    "InitializerFailed": InitializerFailed,
    "CancelledError": CancelledError,
    "NearfarError": BaseException,
}
"""Subclasses before their bases."""
_TOLD = {"TaskTimeout": TaskTimeout, "InitializerFailed": InitializerFailed, "NearfarError": NearfarError}
