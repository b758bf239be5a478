"""Errors that a coordinator makes, described for the wire: no pickle, so a coordinator never reads one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import msgpack

from nearfar.errors import InitializerFailed, NearfarError, ProtocolError, TaskTimeout, WorkerLost
from nearfar.net.complaints import shown

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
