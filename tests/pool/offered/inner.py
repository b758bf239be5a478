"""A module below the allowed package."""

from __future__ import annotations


def exported(x: int) -> int:
    return x + 100


def unexported(x: int) -> int:
    return x + 200
