"""Functions by value whose pickle need not be made again for each call."""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

from nearfar.serialization.pickles.pickler import is_constant

NamesIt = Callable[[Any], object]
"""Returns a true value for an object that is sent by name."""

MOST_KEPT = 256
"""Functions that are kept alive here, at most: a program may make new ones for ever."""

_MISSING = object()
_GLOBALS = frozenset(
    {"LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
)


class KeptFunctions:
    """A cache of pickles of functions that provably have not changed since.

    Such a function, and each that it refers to by value, has no closure, no attributes and constant
    defaults; each global that they refer to is a module, a constant, or an object sent by name; and all are
    still the same objects.
    """

    def __init__(self, by_name: NamesIt, dump: Callable[[Any], bytes]) -> None:
        self._by_name = by_name
        self._dump = dump
        self._kept: dict[int, tuple[FunctionType, _Kept | None]] = {}  # by id; keeps the function alive

    def get(self, function: FunctionType) -> bytes | None:
        """The pickle of `function`; None if it must be pickled for each call. Raises what pickling raises."""
        place = id(function)
        known, kept = self._kept.get(place, (None, None))
        if known is not None and (kept is None or kept.still_holds()):
            return None if kept is None else kept.blob
        facts = list_facts(function, self._by_name)
        made = None if facts is None else _Kept(facts, self._dump(function))
        if len(self._kept) >= MOST_KEPT:
            self._kept.clear()
        self._kept[place] = function, made
        return None if made is None else made.blob


class _Kept:
    """A function's pickle and the facts on which it depends."""

    __slots__ = ("blob", "facts", "modules")

    def __init__(self, facts: _Facts, blob: bytes) -> None:
        self.facts = facts
        self.blob = blob
        self.modules = len(sys.modules)  # the pickle lists a package's imported submodules

    def still_holds(self) -> bool:
        functions, names = self.facts
        if self.modules != len(sys.modules):
            return False
        for function, code, defaults in functions:
            if (
                function.__code__ is not code
                or function.__defaults__ is not defaults
                or function.__kwdefaults__
                or function.__dict__
            ):
                return False
        return all(space.get(name, _MISSING) is value for space, name, value in names)


_Facts = tuple[list[tuple[FunctionType, CodeType, Any]], list[tuple[dict[str, Any], str, Any]]]


def list_facts(function: FunctionType, by_name: NamesIt) -> _Facts | None:
    """The functions sent with `function`, itself first, and their globals; None if any may change."""
    functions: list[tuple[FunctionType, CodeType, Any]] = []
    names: list[tuple[dict[str, Any], str, Any]] = []
    waiting = [function]
    while waiting:
        each = waiting.pop()
        if any(each is seen for seen, _, _ in functions):
            continue
        if not _is_plain(each, by_name):
            return None
        functions.append((each, each.__code__, each.__defaults__))
        for name in dict.fromkeys(_global_names(each.__code__)):
            value = each.__globals__.get(name, _MISSING)
            names.append((each.__globals__, name, value))
            if value is _MISSING or _is_fixed(value, by_name):
                continue
            if type(value) is not FunctionType:
                return None
            waiting.append(value)
    return functions, names


def _is_plain(function: FunctionType, by_name: NamesIt) -> bool:
    return (
        function.__closure__ is None
        and not function.__dict__
        and not function.__kwdefaults__
        and is_constant(function.__defaults__)
        and all(_is_fixed(value, by_name) for value in function.__annotations__.values())
    )


def _is_fixed(value: Any, by_name: NamesIt) -> bool:
    if isinstance(value, ModuleType):
        return sys.modules.get(value.__name__) is value
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        return bool(by_name(value))
    return is_constant(value)


def _global_names(code: CodeType) -> Iterator[str]:
    for step in dis.get_instructions(code):
        if step.opname in _GLOBALS:
            yield step.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _global_names(constant)
