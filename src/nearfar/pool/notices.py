"""What a pool says of itself in the log: what its callers wait for in vain."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import suppress

from nearfar.coordinator.patience import Patience

log = logging.getLogger("nearfar.pool")


class Notices:
    """Found under an engine's lock, and told without it: a handler is others' code, and may use the pool."""

    def __init__(self) -> None:
        self._patience = Patience()
        self.found: deque[str] = deque()
        """What there is to tell."""

    def look(self, missing: str, now: float) -> None:
        """As `Patience.look`."""
        if said := self._patience.look(missing, now):
            self.found.append(said)

    def deadline(self) -> float | None:
        """As `Patience.deadline`."""
        return self._patience.deadline()

    def tell(self) -> None:
        """Log what was found. From any thread."""
        while self.found:
            with suppress(IndexError):  # another thread tells, too
                log.warning("%s", self.found.popleft())


def no_workers(address: str | None) -> str:
    """What is missing in a pool that nobody has joined."""
    return f"no worker has joined {address} yet; start one with: nearfar worker --connect {address}"
