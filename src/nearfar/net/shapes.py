"""What a field of any wire may be: checks of one value each."""

from __future__ import annotations

from typing import Any

LONGEST_NAME = 200


def natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def positive(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 63


def flag(value: Any) -> bool:
    return type(value) is bool


def name(value: Any) -> bool:
    return type(value) is str and 0 < len(value) <= LONGEST_NAME and value.isprintable()
