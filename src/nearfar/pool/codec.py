"""The two encodings of a client's calls, pickled and plain; answers are decoded in the same one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from nearfar.serialization import plain as answers
from nearfar.serialization.pickles import results
from nearfar.serialization.pickles.calls import CallPickler
from nearfar.serialization.plain import PLAIN, PlainCalls

__all__ = ["ClientCodec", "load_any_error", "pickled", "without_pickle"]


class ClientCodec(NamedTuple):
    """How calls are written, and the errors of initializers read."""

    dump_call: Callable[
        [Callable[..., Any], Sequence[Any], Mapping[str, Any] | None], tuple[bytes, bytes, Sequence[Any]]
    ]
    dump_chunk: Callable[[Callable[..., Any], Any], tuple[bytes, bytes, Sequence[Any]]]
    load_error: Callable[[Any], BaseException]
    names: Mapping[int, bytes] = {}
    """The function fields, by the functions' ids, of functions whose arguments may be sent bare."""
    plain: bool = False


def pickled(*, far: bool, main: Mapping[str, Any]) -> ClientCodec:
    """Anything that can be pickled; `far` and `main` as for `CallPickler`.

    Answers may run any code here: their sender must be trusted.
    """
    pickler = CallPickler(far=far, main=main)
    return ClientCodec(pickler.dump_call, pickler.dump_chunk, load_any_error, {} if far else pickler.names)


def without_pickle() -> ClientCodec:
    """Functions by name and plain data; nothing that is received is unpickled."""
    calls = PlainCalls()
    return ClientCodec(calls.dump_call, calls.dump_chunk, answers.load_error, plain=True)


def load_any_error(blob: bytes | memoryview) -> BaseException:
    """An error, pickled or as the text of a plain worker. Never raises."""
    return answers.load_error(blob) if blob[:1] == PLAIN else results.load_error(blob)
