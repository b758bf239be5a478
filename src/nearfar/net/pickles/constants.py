"""Values that cannot change, and what stays of a namespace's values for later."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import FunctionType, ModuleType
from typing import Any

_SCALARS = frozenset({type(None), bool, int, float, complex, str, bytes, type(...), range})


MUTABLE = object()
"""Stands in the place of a value that may change."""

_DEFINITIONS = (type, FunctionType, ModuleType, type(lru_cache(abs)))


def lasting(names: Mapping[str, Any]) -> dict[str, Any]:
    """The definitions, modules and constants in `names`; `MUTABLE` for the rest, which is not kept alive."""
    return {
        name: value if isinstance(value, _DEFINITIONS) or is_constant(value) else MUTABLE
        for name, value in names.items()
    }


def is_constant(value: Any) -> bool:
    """Whether `value` is a scalar, or a tuple or frozenset of constants."""
    kind = type(value)
    return kind in _SCALARS or (kind in (tuple, frozenset) and all(map(is_constant, value)))
