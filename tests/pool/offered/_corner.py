"""A private module: no client may have it imported."""

from __future__ import annotations


def spring() -> None:
    """Nothing: that the module was imported is the harm."""
