"""The two ways in which a worker hears calls and answers them: in pickles, and plainly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nearfar.net.pickles import failures
from nearfar.net.pickles.loader import CallLoader
from nearfar.net.pickles.names import find
from nearfar.net.pickles.results import dump_result
from nearfar.net.plain import PLAIN, answers
from nearfar.net.plain.loader import PlainLoader
from nearfar.net.plain.names import Allowed
from nearfar.worker.messages import Buffer

__all__ = ["Speech", "Speeches"]


@dataclass(frozen=True, slots=True)
class Speech:
    """How calls are read, and answers written."""

    find: Callable[[bytes], Callable[..., Any]]
    """The function of a name, for arguments that are bare."""
    load: Callable[[bytes, int, Any, Sequence[Any], str], tuple[Callable[..., Any], Any, dict[str, Any]]]
    dump_result: Callable[[Any], tuple[bytes, Sequence[Buffer]]]
    dump_error: Callable[[BaseException], bytes]
    dump_unsendable: Callable[[BaseException, Any], bytes]
    harmless: bool
    """Whether a call that could not be read has certainly run nothing of its client's."""
    bare: bool
    """Whether values may be sent as they are (`nearfar.worker.messages`)."""


class Speeches:
    """Of one worker process. Make it before any task runs."""

    def __init__(self, main_of: str | None, *, far: bool, plain: Sequence[str] | None) -> None:
        """`main_of` and `far` as for `CallLoader`. `plain`: what may be called (`Allowed`), by a worker that
        reads no pickle; None: one that reads both, and answers as it was asked.
        """
        look_up = find if plain is None else Allowed(plain).find
        self._plain = Speech(
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

    def choose(self, client: str, blob: Buffer | tuple[Any, ...]) -> Speech:
        """That of a client whose call's blob this is. The blob says what it wants; a worker that reads no
        pickle never does.
        """
        if blob[:1] == PLAIN:
            return self._plain
        return self._of_main if client == self._main_of else self._of_others


def _pickled(loader: CallLoader, *, main: bool, far: bool) -> Speech:
    # No partial: it would cost each task a dict of its keywords.
    def dump(value: Any) -> tuple[bytes, Sequence[Buffer]]:
        return dump_result(value, main=main, family=not far)

    def dump_error(error: BaseException) -> bytes:
        return failures.dump_error(error, main=main)

    return Speech(
        loader.find,
        loader.load,
        dump,
        dump_error,
        failures.dump_unsendable,
        harmless=False,
        bare=not far,
    )
