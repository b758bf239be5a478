"""What a field of any wire may be: checks of one value each."""

from __future__ import annotations

from typing import Any

LONGEST_NAME = 200
"""Characters of a name: of an end, an agent, a worker, a tag. All of them are printable."""
LONGEST_TEXT = 10_000
"""Characters of what is told to a person: it may hold anything, and is escaped where it is shown."""
SHORTEST_LEASE, LONGEST_LEASE = 0.001, 1e6
"""Seconds: less would have a peer do nothing but beat, more is no number that a poll takes."""


def natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def positive(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 63


def flag(value: Any) -> bool:
    return type(value) is bool


def text(value: Any) -> bool:
    return type(value) is str and len(value) <= LONGEST_TEXT


def lease(value: Any) -> bool:
    return type(value) in (int, float) and SHORTEST_LEASE <= value <= LONGEST_LEASE


def name(value: Any) -> bool:
    return type(value) is str and 0 < len(value) <= LONGEST_NAME and value.isprintable()
