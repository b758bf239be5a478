"""A task: what a worker is to run once, as the coordinator sees it, which never reads what it carries."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from nearfar.net.complaints import shown


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


class Status(IntEnum):
    """What became of a task that a worker ran."""

    VALUE = 0
    ERROR = 1
    TOO_LARGE = 2
    """It ran, and its answer has more bytes than the coordinator takes: the blob is their number."""


class Outcome(IntEnum):
    """What became of a task, as a client is told: the first two are those of `Status`."""

    VALUE = 0
    ERROR = 1
    FAILED = 2
    """No worker answered; the blob is a failure's description (`coordinator.failures`)."""


class State(IntEnum):
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
    """The arguments: pickled, or in a pool of this process alone, where they are bare
    (`nearfar.worker.messages`), a tuple as it is."""
    buffers: Sequence[Any]
    """Large parts that travel beside the blob."""
    state: State

    def describe(self) -> str:
        """What it runs, for a person."""
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
        """It will have no answer."""
        raise NotImplementedError
