"""How many drafts may keep their descriptors: what this process may open, less what all else takes."""

from __future__ import annotations

import resource
from collections.abc import Collection
from pathlib import Path

from nearfar.download.store.draft import Draft

OTHERS = 32
"""Descriptors left to connections, the manifest and directories, beyond those that are open at the start."""
LEAST = 4
"""Drafts that are open at a time, however few descriptors there are."""


class Room:
    """Keeps the number of open drafts within the limit of open files, as it was at the start."""

    def __init__(self) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        here = Path("/proc/self/fd")
        taken = sum(1 for _ in here.iterdir()) if here.is_dir() else OTHERS
        self._most = None if soft == resource.RLIM_INFINITY else max(LEAST, soft - taken - OTHERS)

    def make(self, drafts: Collection[Draft]) -> None:
        """Before another is opened: where `drafts` have no more room, put those to rest that are whole."""
        if self._most is None or len(drafts) < self._most:
            return
        holding = [draft for draft in drafts if draft.descriptor is not None]
        if len(holding) >= self._most:
            for draft in holding:
                draft.rest()
