"""Batches that are to be taken back from workers, each as soon as that is safe."""

from __future__ import annotations

from math import inf

from nearfar.worker.listener import Listener
from nearfar.worker.member import Member

AGAIN = 0.001
"""Seconds between two attempts to take back what a worker that is about to begin has not read."""


class Recalls:
    """Asks at once, and again until there is an answer, which the listener gets."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._waiting: dict[str, Member] = {}
        self._next = inf

    def ask(self, member: Member) -> None:
        """`Listener.returned` follows, now or later; or the worker's death."""
        if not self._try(member):
            self._waiting[member.name] = member
            self._next = 0.0

    def forget(self, name: str) -> None:
        """It is dead."""
        self._waiting.pop(name, None)

    def deadline(self) -> float:
        """When `tick` wants to be called."""
        return self._next if self._waiting else inf

    def tick(self, now: float) -> None:
        """Ask again."""
        if now >= self._next and self._waiting:
            self._next = now + AGAIN
            for name, member in list(self._waiting.items()):
                if self._try(member):
                    self._waiting.pop(name, None)

    def _try(self, member: Member) -> bool:
        count = member.recall()
        if count is None:
            return False
        self._listener.returned(member.name, count)
        return True
