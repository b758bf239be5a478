"""The functions that the tests' plain workers allow, next to everything that an attacker may try to reach."""

from __future__ import annotations

import os
import sys
from functools import lru_cache, partial
from subprocess import getoutput
from typing import Any

from tests.pool.offered._private import published
from tests.pool.offered.inner import exported, unexported

__all__ = ["exported", "published"]

HIDDEN = (getoutput, unexported)
asked: list[str] = []
prepared: list[str] = []
sys.modules[f"{__name__}.system"] = os
twice = partial(int.__mul__, 2)


class Door:
    """A class, a method, and a bound one."""

    @staticmethod
    def knock() -> None:
        prepared.append("knocked")

    def enter(self) -> None:
        prepared.append("entered")


enter = Door().enter


def __getattr__(name: str) -> Any:
    asked.append(name)
    raise AttributeError(name)


def double(x: int, *, plus: int = 0) -> int:
    return 2 * x + plus


@lru_cache
def cached(x: int) -> int:
    return 3 * x


def _quiet() -> None:
    prepared.append("crept in")


def pid() -> int:
    return os.getpid()


def imported(names: list[str]) -> list[str]:
    """Which of `names` this process has imported."""
    return [name for name in names if name in sys.modules]


def prepare(word: str) -> None:
    if word == "fail":
        raise ValueError("no such word")
    prepared.append(word)


def preparations() -> list[str]:
    return prepared


def back(*values: Any, **more: Any) -> Any:
    return (values, more) if more else values


def itself() -> Any:
    """What does not travel."""
    return Door()


def complain(text: str) -> None:
    raise KeyError(text)


def leave() -> None:
    raise SystemExit(5)
