"""How many bytes a service keeps for its peers, for each and in all. Pure."""

from __future__ import annotations

EACH = 512
"""Bytes that a message or a task costs besides what it carries."""


class Budget:
    """`most` bytes, for holders by name. Bytes are never refused here: ask `fits` first.

    No holder is to have more than it leaves free. So one alone may have half of all; where several take as
    much as they may, each has the same, and as much again is free for the next who comes: nobody who takes
    what it is given waits behind those who do not.

    Who is refused may say that it still wants them (`want`): those that come after it do not get between.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0
        """Bytes of all holders."""
        self.held: dict[str, int] = {}
        self.wanted: dict[str, int] = {}
        """Who waits, in order, and for how many bytes more."""

    @property
    def largest(self) -> int:
        """Bytes that one holder can have at most, if nobody else has any."""
        return self.most // 2

    def fits(self, name: str, size: int) -> bool:
        """True if `name` may have so many bytes more."""
        free = self.most - self.used - size
        for other, wanted in self.wanted.items():
            if other == name:
                break
            free -= wanted
        return self.held.get(name, 0) + size <= free

    def want(self, name: str, size: int) -> None:
        """`name` waits for so many bytes more, or, with none, for nothing; it has to say so again and again,
        or to be forgotten. More than it can ever have counts as nothing."""
        if not 0 < size <= self.largest - self.held.get(name, 0):
            self.wanted.pop(name, None)
        else:
            self.wanted[name] = size

    def strained(self, name: str) -> bool:
        """True if `name` has more than half of what it may have: what makes more for it is to stop."""
        return 2 * self.held.get(name, 0) > self.most - self.used

    def eased(self, name: str) -> bool:
        """True if it has less than a quarter of that."""
        return 4 * self.held.get(name, 0) <= self.most - self.used

    def add(self, name: str, size: int) -> None:
        """`name` has so many bytes more, or, with a negative number, fewer."""
        self.used += size
        held = self.held.get(name, 0) + size
        if held:
            self.held[name] = held
        else:
            self.held.pop(name, None)

    def forget(self, name: str) -> None:
        """`name` has nothing any more, and wants nothing."""
        self.wanted.pop(name, None)
        self.used -= self.held.pop(name, 0)
