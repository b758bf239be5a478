"""Bytes to a function and its arguments, in the worker process; `calls` is the other end."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from nearfar.errors import ItemError
from nearfar.net.pickles.constants import MUTABLE, lasting
from nearfar.net.pickles.names import MAINS, find
from nearfar.net.pickles.parts import BY_VALUE, WITH_CHANGEABLE_FUNCTION, WITH_FUNCTION, Buffers

if TYPE_CHECKING:
    from nearfar.net.pickles.mains import Namespace

_CALL = 0
_NOTHING: dict[str, Any] = {}


class CallLoader:
    """Reads what a `CallPickler` wrote. One in each worker process, for one thread.

    `main_of` names the client whose `__main__` this process has as its own, because it was forked from it
    or imported its main module; None: no client's. `far` is what that client's pickler was told. Make the
    loader before any task runs.
    """

    def __init__(self, main_of: str | None = None, *, far: bool = True) -> None:
        self._far = far
        self._named: dict[bytes, Callable[..., Any]] = {}
        self._spaces: dict[str, Namespace] = {}
        self._main_of = main_of
        self._start = {} if main_of is None else lasting(vars(sys.modules["__main__"]))

    def load(
        self, function: bytes, mode: int, blob: bytes | memoryview, buffers: Buffers, client: str
    ) -> tuple[Callable[..., Any], Any, dict[str, Any]]:
        """The function, its positional arguments (of a chunk: its items), and its keyword arguments.

        Without keyword arguments, and for a chunk (`mode` is not 0), the last is one empty dict for all: not
        to be changed. `client` says whose `__main__` is meant. Raises `ImportError` for what this host
        cannot import, `ItemError` for what is no call, and what unpickling raises.
        """
        if function:
            func = self.find(function)
            if blob[:1] == BY_VALUE:
                payload = self.space(client).load(memoryview(blob)[1:], buffers)
            else:
                payload = pickle.loads(blob, buffers=buffers)
        else:
            func, payload = self._load_with_function(blob, buffers, client)
        if mode != _CALL or type(payload) is tuple:
            return func, payload, _NOTHING
        return func, *_split(payload)

    def find(self, function: bytes) -> Callable[..., Any]:
        """The function of that name. Raises `ImportError` and `ItemError`."""
        func = self._named.get(function)
        if func is None:
            func = self._named[bytes(function)] = self._find(bytes(function))
        return func

    def space(self, client: str) -> Namespace:
        """The globals of a client's `__main__`, as far as they have come here."""
        space = self._spaces.get(client)
        if space is None:
            from nearfar.net.pickles.mains import Namespace

            if client == self._main_of:
                space = Namespace(vars(sys.modules["__main__"]), self._start, self._far)
            else:
                space = Namespace({}, {}, self._far)
            self._spaces[client] = space
        return space

    def forget(self, client: str) -> None:
        """Drop what was kept of a client that will not come again."""
        self._spaces.pop(client, None)

    def _find(self, function: bytes) -> Callable[..., Any]:
        module, _, name = function.decode(errors="replace").partition(":")
        # A task may since have put another under that name.
        found = self._start.get(name, MUTABLE) if module in MAINS else MUTABLE
        if found is MUTABLE:
            found = find(function)
        if not callable(found):
            raise ItemError(f"{function!r} is not the name of a function")
        return cast(Callable[..., Any], found)

    def _load_with_function(self, blob: bytes | memoryview, buffers: Buffers, client: str) -> tuple[Any, Any]:
        mark = blob[:1]
        if mark in (WITH_FUNCTION, WITH_CHANGEABLE_FUNCTION):
            end = 5 + int.from_bytes(blob[1:5], "big")
            space = self.space(client)
            if mark == WITH_FUNCTION:
                func = space.load_kept(bytes(blob[5:end]))
            else:
                func = space.load(memoryview(blob)[6:end], ())
            return func, self._load(memoryview(blob)[end:], buffers, client)
        pair = self._load(blob, buffers, client)
        if type(pair) is not tuple or len(pair) != 2 or not callable(pair[0]):
            raise ItemError(f"a {type(pair).__name__} came in the place of a function and its arguments")
        return pair

    def _load(self, blob: bytes | memoryview, buffers: Buffers, client: str) -> Any:
        if blob[:1] == BY_VALUE:
            return self.space(client).load(memoryview(blob)[1:], buffers)
        return pickle.loads(blob, buffers=buffers)


def _split(payload: Any) -> tuple[Any, dict[str, Any]]:
    if type(payload) is list and len(payload) == 2:
        args, kwargs = payload
        if type(args) is tuple and type(kwargs) is dict:
            return args, kwargs
    raise ItemError(f"a {type(payload).__name__} came in the place of arguments")
