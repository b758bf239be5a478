"""Answers that agents need not keep any longer, until they are told so. Pure."""

from __future__ import annotations

from nearfar.coordinator.desk import Desk

LARGE_WEIGHS = 64
"""A large answer is released at once: it holds memory that its worker could use again."""


class Releases:
    """Of all clients."""

    def __init__(self, desk: Desk) -> None:
        self.numbers: dict[str, dict[str, list[int]]] = {}
        """By the agents' sessions and the clients."""
        self.weight = 0
        """How many these are; a large one counts for many."""
        self.since: float | None = None
        """When the first of them was released."""
        self._desk = desk

    def add(self, uid: str, numbers: list[int], origin: str, *, large: bool = False) -> None:
        """The agent of the session `origin` need not keep these answers; `large`: one of them is."""
        self.numbers.setdefault(origin, {}).setdefault(uid, []).extend(numbers)
        self.weight += len(numbers) + LARGE_WEIGHS if large else len(numbers)
        if self.since is None:
            self.since = self._desk.now

    def clear(self) -> None:
        """The agents were told."""
        self.numbers.clear()
        self.weight = 0
        self.since = None
