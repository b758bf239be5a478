"""How many files a program may open: as many as the system lets it, and enough to work at all."""

from __future__ import annotations

import resource

LEAST = 64
"""Descriptors: every program works with so many, for a few peers."""
ENOUGH = 32_768
"""For as many peers as there may be (`nearfar.net.sockets.MOST_PEERS`). More are not asked for: some systems
allow a billion, and there are libraries that walk through them."""


def lift_limit() -> str | None:
    """Raise the soft limit of open files towards the hard one; a sentence if even that is too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < LEAST:
        return (
            f"only {allowed} files may be open at a time, and it takes {LEAST}: raise the limit (ulimit -n)"
        )
    return None
