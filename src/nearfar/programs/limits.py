"""How many files a program may open: as many as the system lets it, and enough to work at all."""

from __future__ import annotations

from nearfar.net import descriptors
from nearfar.net.descriptors import ENOUGH as ENOUGH

LEAST = 64
"""Descriptors: every program works with so many, for a few peers."""


def lift_limit() -> str | None:
    """Raise the soft limit of open files towards the hard one; a sentence if even that is too few."""
    allowed = descriptors.lift_limit()
    if allowed < LEAST:
        return (
            f"only {allowed} files may be open at a time, and it takes {LEAST}: raise the limit (ulimit -n)"
        )
    return None
