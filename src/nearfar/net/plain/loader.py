"""Bytes to a function and its arguments, in the worker process; `calls` is the other end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nearfar.errors import ItemError, Untrusted
from nearfar.net.imports import here
from nearfar.net.plain import PLAIN
from nearfar.net.plain.payloads import unpack

_CALL, _PREPARE = 0, 3
_NOTHING: dict[str, Any] = {}


class PlainLoader:
    """Reads what `PlainCalls` wrote, and nothing else."""

    def __init__(self, find: Callable[[bytes], Callable[..., Any]]) -> None:
        """`find` makes a function of its name, or raises for what is not to be run."""
        self._find = find

    def load(
        self, function: bytes, mode: int, blob: bytes | memoryview, buffers: Sequence[Any], client: str
    ) -> tuple[Callable[..., Any], Any, dict[str, Any]]:
        """The function, its positional arguments (of a chunk: its items), and its keyword arguments.

        Raises `Untrusted` for a pickle and for a function that is not to be run, `ItemError` for what is no
        call, `ImportError` for what this host cannot import. Then nothing of the call has run.
        """
        if blob[:1] != PLAIN or not function:
            raise Untrusted(
                f"{here()} reads no pickle: make the pool with plain=True, which sends functions by"
                " name and plain data"
            )
        values, keywords = unpack(blob, buffers)
        if mode not in (_CALL, _PREPARE):
            return self._find(function), values, _NOTHING
        if keywords is None:
            return self._find(function), tuple(values), _NOTHING
        if type(keywords) is dict and all(type(key) is str for key in keywords):
            return self._find(function), tuple(values), keywords
        raise ItemError(f"a {type(keywords).__name__} came in the place of keyword arguments")
