"""A function's name and its arguments to bytes; `loader` is the other end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import BuiltinFunctionType, FunctionType
from typing import Any

from nearfar.errors import ItemError
from nearfar.net.plain import PlainName
from nearfar.net.plain.payloads import DATA, fits, pack

Parts = tuple[PlainName, bytes, list[bytes]]

_FUNCTIONS = (FunctionType, BuiltinFunctionType, type(lru_cache(abs)))


class PlainCalls:
    """As `nearfar.net.pickles.calls.CallPickler`, without pickle. Threads may share it.

    Its methods raise `ItemError` for a function that has no name at the top of a module which workers can
    import, too, and for arguments that are no plain data. Functions that it has named are kept alive.
    """

    def __init__(self) -> None:
        self._names: dict[int, PlainName] = {}
        self._named: list[Any] = []

    def dump_call(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any] | None = None
    ) -> Parts:
        """The function field, the blob and the large bytes of ``func(*args, **kwargs)``."""
        name = self._name(func)
        keywords = dict(kwargs) if kwargs else None
        try:
            return name, *pack(args, keywords)
        except ItemError as error:
            raise _refusal(name, args, keywords or {}, error) from None

    def dump_chunk(self, func: Callable[..., Any], items: list[Any] | tuple[Any, ...] | range) -> Parts:
        """The same for the calls of `func` with each of `items`."""
        name = self._name(func)
        try:
            return name, *pack(items)
        except ItemError as error:
            raise _refusal(name, items, {}, error) from None

    def _name(self, func: Any) -> PlainName:
        name = self._names.get(id(func))
        if name is None:
            name = name_of(func)
            self._named.append(func)
            self._names[id(func)] = name
        return name


def name_of(func: Any) -> PlainName:
    """The name by which a worker finds `func`. Raises `ItemError`, which says why there is none."""
    if not isinstance(func, _FUNCTIONS):
        article = "a class" if isinstance(func, type) else f"an object of type {type(func).__qualname__}"
        raise _nameless(f"{article} is none", func)
    module, name = func.__module__, func.__qualname__
    if "<" in name or "." in name:
        raise _nameless("it stands inside something else, not at the top of a module", func)
    if module in ("__main__", "__mp_main__"):
        raise _nameless(
            "workers do not have this program's own __main__: put it into a module of its own", func
        )
    if getattr(sys.modules.get(module or ""), name, None) is not func:
        raise _nameless(f"{module}.{name} is not this function now", func)
    return PlainName(f"{_public(module, name, func)}:{name}".encode())


def _public(module: str, name: str, func: Any) -> str:
    """The module to ask for `func`: its own, or if that is private, the package above it that exports `func`.

    Workers let nobody into the private corners of a package that they offer.
    """
    parts = module.split(".")
    private = next((place for place, part in enumerate(parts) if part.startswith("_")), len(parts))
    for count in range(private, 0, -1) if private < len(parts) else ():
        space = vars(sys.modules.get(".".join(parts[:count]), object))
        if space.get(name) is func and name in space.get("__all__", ()):
            return ".".join(parts[:count])
    return module


def _nameless(reason: str, func: Any) -> ItemError:
    shown = getattr(func, "__qualname__", None) or type(func).__qualname__
    return ItemError(f"a plain pool calls functions by their names; {shown} cannot be called so: {reason}")


def _refusal(name: bytes, values: Sequence[Any], keywords: Mapping[str, Any], error: ItemError) -> ItemError:
    """What to tell of arguments that cannot travel: which one it is, if it is one."""
    places = [*((str(place), value) for place, value in enumerate(values, 1)), *keywords.items()]
    for place, value in places:
        if not fits(value):
            return ItemError(
                f"argument {place} of {name.decode()}, of type {type(value).__qualname__}, is or holds what a"
                f" plain pool does not send: it sends {DATA}"
            )
    return error
