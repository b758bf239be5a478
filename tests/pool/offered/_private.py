"""A private module, of which the package exports a function."""

from __future__ import annotations


def published(x: int) -> int:
    return x + 300


def kept(x: int) -> int:
    return x + 400
