"""A module that is not allowed: no client may have it imported."""

from __future__ import annotations


def spring() -> None:
    """Nothing: that the module was imported is the harm."""
