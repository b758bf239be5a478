"""The two formats in which a worker reads calls and writes answers: pickle, and plain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nearfar.serialization import plain as answers
from nearfar.serialization.names import find
from nearfar.serialization.pickles import results
from nearfar.serialization.pickles.calls import CallLoader
from nearfar.serialization.pickles.results import dump_result
from nearfar.serialization.plain import PLAIN, Allowed, PlainLoader
from nearfar.worker.channel import Buffer

__all__ = ["WorkerCodec", "WorkerCodecs"]


@dataclass(frozen=True, slots=True)
class WorkerCodec:
    """Reads calls, and writes answers, in one format."""

    find: Callable[[bytes], Callable[..., Any]]
    """The function of a name, for bare arguments."""
    load: Callable[[bytes, int, Any, Sequence[Any], str], tuple[Callable[..., Any], Any, dict[str, Any]]]
    dump_result: Callable[[Any], tuple[bytes, Sequence[Buffer]]]
    dump_error: Callable[[BaseException], bytes]
    dump_unsendable: Callable[[BaseException, Any], bytes]
    harmless: bool
    """Whether a call that cannot be read has certainly run no code of its client."""
    bare: bool
    """Whether values may be sent bare (`nearfar.worker.channel`)."""


class WorkerCodecs:
    """The codecs of one worker process. Make it before any task runs."""

    def __init__(self, main_of: str | None, *, far: bool, plain: Sequence[str] | None) -> None:
        """`main_of` and `far` as for `CallLoader`. `plain`: what may be called (`Allowed`) in a worker that
        reads no pickle; None: it reads both formats, and answers in the format of the call.
        """
        look_up = find if plain is None else Allowed(plain).find
        self._plain = WorkerCodec(
            look_up,
            PlainLoader(look_up).load,
            answers.dump_result,
            answers.dump_error,
            answers.dump_unsendable,
            harmless=True,
            bare=False,
        )
        self._main_of = main_of
        self._of_main = self._of_others = self._plain
        if plain is None:
            loader = CallLoader(main_of, far=far)
            self._of_main, self._of_others = (_pickled(loader, main=main, far=far) for main in (True, False))

    def choose(self, client: str, blob: Buffer | tuple[Any, ...]) -> WorkerCodec:
        """The codec for a call of `client`: its blob shows the format. In a worker that reads no pickle,
        always the plain one.
        """
        if blob[:1] == PLAIN:
            return self._plain
        return self._of_main if client == self._main_of else self._of_others


def _pickled(loader: CallLoader, *, main: bool, far: bool) -> WorkerCodec:
    # No partial: it would cost each task a dict of its keywords.
    def dump(value: Any) -> tuple[bytes, Sequence[Buffer]]:
        return dump_result(value, main=main, family=not far)

    def dump_error(error: BaseException) -> bytes:
        return results.dump_error(error, main=main)

    return WorkerCodec(
        loader.find,
        loader.load,
        dump,
        dump_error,
        results.dump_unsendable,
        harmless=False,
        bare=not far,
    )
