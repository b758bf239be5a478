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
    """``function(*args)``, and its value is dropped: an initializer."""


class TaskStatus(IntEnum):
    """What became of a task that a worker ran."""

    VALUE = 0
    ERROR = 1
    TOO_LARGE = 2
    """It ran, and its answer has more bytes than the coordinator takes: the blob is their number."""


class TaskOutcome(IntEnum):
    """How a task ended, as its client is told: the first two are those of `TaskStatus`."""

    VALUE = 0
    ERROR = 1
    FAILED = 2
    """No worker answered; the blob is a failure's description (`describe`)."""


class TaskState(IntEnum):
    """Where a task is. A task that is told its outcome never changes again."""

    NEW = 0
    WAITING = 1
    GIVEN = 2
    """A worker has it, and may have begun."""
    SETTLED = 3


class Task:
    """One call, or one chunk of calls. Slots, and defaults in the class: there may be a million of them."""

    __slots__ = ("blob", "buffers", "client", "function", "mode", "state")

    timeout: float | None = None
    """Seconds that it may run, from its start; then its worker is killed."""
    retries: int = 0
    """How often it may run again after the loss of its worker."""
    told: bool = False
    """Whether it knows its outcome."""
    loud: bool = False
    """Whether callers' code runs when it is told its outcome."""
    losses: int = 0
    """Workers that were lost while they ran it."""

    hollow: bool = False
    """True while it can't be given to another worker, since an earlier coordinator gave it to this one: what
    it carries may not be known, or others may come and say that they have it."""

    client: str
    """Whose it is: its globals in a worker are that client's."""
    function: bytes
    """``module:qualname``, or nothing if the function travels inside the blob."""
    mode: int
    blob: bytes | tuple[Any, ...]
    """The arguments: pickled, or, where they are bare (`nearfar.worker.channel`), a tuple as it is, which is
    packed when it is sent."""
    buffers: Sequence[Any]
    """Large parts that travel beside the blob."""
    state: TaskState

    def describe(self) -> str:
        """The name of its function, for messages to users."""
        return shown(self.function.decode(errors="replace")) or "a function sent by value"

    def lose(self) -> None:
        """One more worker was lost while it ran this. Asked only of tasks with `retries`."""
        raise NotImplementedError

    def answered(self, status: int, blob: Any, buffers: Sequence[Any]) -> None:
        """A worker ran it: what it said, unread. Called once at most, as is `failed`; one of them ends it."""
        raise NotImplementedError

    def returned(self, value: Any) -> None:
        """As `answered`, of a value that came as it is."""
        raise NotImplementedError

    def failed(self, error: BaseException) -> None:
        """End with `error`, without an answer."""
        raise NotImplementedError


LONGEST = 2000
"""Characters of what a coordinator tells of a failure, for a person."""


class Unread(InitializerFailed):
    """A client's initializer raised: `blob` is the error as its worker pickled it."""

    def __init__(self, blob: Any) -> None:
        super().__init__("the initializer raised")
        self.blob = bytes(blob)


def describe(error: BaseException) -> bytes:
    """What `read` makes an error of."""
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
"""The most special first."""
_TOLD = {"TaskTimeout": TaskTimeout, "InitializerFailed": InitializerFailed, "NearfarError": NearfarError}
