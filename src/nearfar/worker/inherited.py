"""An initializer that reaches its worker through the start of the process, as the standard's does.

So it may have arguments that cannot be pickled, or only for a child: locks, queues, open files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Inherited = tuple[Callable[..., object], tuple[Any, ...]]
"""The function and its arguments."""

_inherited: Inherited | None = None


def inherit(given: Inherited | None) -> None:
    """Called once, by the worker's process itself."""
    global _inherited
    _inherited = given


def initialize() -> None:
    """Run what was inherited; what travels in its place."""
    assert _inherited is not None
    function, args = _inherited
    function(*args)
