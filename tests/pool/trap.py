"""A module that is not allowed: no client may have it imported."""

from __future__ import annotations


def spring() -> None:
    """Does nothing: importing the module is the attack."""
