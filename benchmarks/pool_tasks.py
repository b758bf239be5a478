"""What the pools run: a module of its own, which workers elsewhere can import."""

from __future__ import annotations

import time
from collections.abc import Sized
from typing import Any


def same(value: Any) -> Any:
    """The cheapest call there is."""
    return value


def size(value: Sized) -> int:
    return len(value)


def doubled(array: Any) -> Any:
    """A new array as large as the old one."""
    return array * 2


def spin(seconds: float) -> float:
    """Keep a processor busy."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    return seconds
