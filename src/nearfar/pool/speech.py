"""The two ways in which a client words calls: in pickles, and plainly; it reads answers as it asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from nearfar.net.pickles import failures
from nearfar.net.pickles.calls import CallPickler
from nearfar.net.plain import PLAIN, answers
from nearfar.net.plain.calls import PlainCalls

__all__ = ["Speech", "load_any_error", "pickled", "without_pickle"]


class Speech(NamedTuple):
    """How calls are written, and the errors of initializers read."""

    dump_call: Callable[
        [Callable[..., Any], Sequence[Any], Mapping[str, Any] | None], tuple[bytes, bytes, Sequence[Any]]
    ]
    dump_chunk: Callable[[Callable[..., Any], Any], tuple[bytes, bytes, Sequence[Any]]]
    load_error: Callable[[Any], BaseException]
    names: Mapping[int, bytes] = {}
    """The function fields, by the ids of the functions, of those whose arguments may travel bare."""
    plain: bool = False


def pickled(*, far: bool, main: Mapping[str, Any]) -> Speech:
    """Anything that can be pickled; `far` and `main` as for `CallPickler`.

    Answers may run any code here: whoever gives them has to be trusted.
    """
    pickler = CallPickler(far=far, main=main)
    return Speech(pickler.dump_call, pickler.dump_chunk, load_any_error, {} if far else pickler.names)


def without_pickle() -> Speech:
    """Functions by name and plain data; nothing that comes is unpickled, whoever sends it."""
    calls = PlainCalls()
    return Speech(calls.dump_call, calls.dump_chunk, answers.load_error, plain=True)


def load_any_error(blob: bytes | memoryview) -> BaseException:
    """An error as it was pickled, or in the words of a worker that pickles nothing. Never raises."""
    return answers.load_error(blob) if blob[:1] == PLAIN else failures.load_error(blob)
