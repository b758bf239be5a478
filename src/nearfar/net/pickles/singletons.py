"""Objects that a module holds and that programs compare by identity, such as `dataclasses.MISSING`.

A copy of one is another object, so ``value is MISSING`` would be wrong where the copy is read. Such an object
travels as the name under which its module holds it.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from nearfar.net.pickles.names import MAINS

_held: dict[type, dict[int, tuple[Any, str]]] = {}
_bare: dict[int, tuple[Any, str, str]] = {}
_bare_modules = 0


def place_of(thing: Any) -> tuple[str, str] | None:
    """The module and the name that hold `thing`, an object without any state; None for any other."""
    kind = type(thing)
    if kind is object:
        if _bare_modules != len(sys.modules):
            _index_bare()
        held = _bare.get(id(thing))
        return held and held[1:]
    known = _held.get(kind)
    if known is None:
        known = _held[kind] = _instances(kind)
    found = known.get(id(thing))
    return (kind.__module__, found[1]) if found else None


def held_by(module: str, name: str) -> Any:
    """What `module` holds as `name`; a new bare object where this process has no such module."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return object()


def _index_bare() -> None:
    """Find the instances of `object` itself in all modules but the program's own."""
    global _bare_modules
    _bare_modules = len(sys.modules)
    _bare.clear()
    for module_name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and module_name not in MAINS and vars(module).get("__spec__"):
            for name, value in list(vars(module).items()):
                if type(value) is object:
                    _bare.setdefault(id(value), (value, module_name, name))


def _instances(kind: type) -> dict[int, tuple[Any, str]]:
    """Those instances of `kind` without state that the module of `kind` holds, by id."""
    module = sys.modules.get(kind.__module__)
    usual = all(getattr(kind, way) is getattr(object, way) for way in ("__reduce__", "__reduce_ex__"))
    if kind.__module__ in MAINS or module is None or not usual:
        return {}
    return {
        id(value): (value, name)
        for name, value in list(vars(module).items())
        if type(value) is kind and _is_stateless(value)
    }


def _is_stateless(value: Any) -> bool:
    try:
        _, _, state, items, pairs = value.__reduce_ex__(4)
    except Exception:  # what cannot be reduced is no sentinel
        return False
    return state is None and items is None and pairs is None
