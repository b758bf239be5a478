"""Values that cannot change, and what stays of a namespace's values for later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import FunctionType, ModuleType
from typing import Any

_SCALARS = frozenset({type(None), bool, int, float, complex, str, bytes, type(...), range})


MUTABLE = object()
"""Stands in the place of a value that may change."""

_INNER = (type, FunctionType, type(lru_cache(abs)))
_DEFINITIONS = (*_INNER, ModuleType)


def lasting(names: Mapping[str, Any]) -> dict[str, Any]:
    """The definitions, modules and constants in `names`; `MUTABLE` for the rest, which is not kept alive.

    What is defined in a class among them stands there, too, under its ``__qualname__``.
    """
    kept = {
        name: value if isinstance(value, _DEFINITIONS) or is_constant(value) else MUTABLE
        for name, value in names.items()
    }
    for name, value in list(kept.items()):
        if isinstance(value, type):
            kept.update(defined_in(value, name))
    return kept


def defined_in(kind: type, name: str) -> Iterator[tuple[str, Any]]:
    """The classes and functions that are defined in the class called `name`, and in these, by
    ``__qualname__``; nothing if `kind` has another name.
    """
    if kind.__qualname__ != name:
        return
    for key, value in list(vars(kind).items()):
        inner = value.__func__ if isinstance(value, staticmethod) else value
        if not isinstance(inner, _INNER):
            continue
        qualname = f"{name}.{key}"
        if inner.__module__ == kind.__module__ and inner.__qualname__ == qualname:
            yield qualname, inner
            if isinstance(inner, type):
                yield from defined_in(inner, qualname)


def is_constant(value: Any) -> bool:
    """Whether `value` is a scalar, or a tuple or frozenset of constants."""
    kind = type(value)
    return kind in _SCALARS or (kind in (tuple, frozenset) and all(map(is_constant, value)))
