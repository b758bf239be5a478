"""What clients' arguments and results weigh, here and with the agents that keep results. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nearfar.coordinator.parts import size_of
from nearfar.net.budget import EACH, Budget

UNBOUNDED = 1 << 62
"""Bytes: the bound of a coordinator that has none."""
LEAST = 16 << 20
"""The smallest bound that there may be: a message of many small tasks, or answers, must fit into a share."""


class Accounts:
    """Of `most` bytes, one half is for arguments on their way to workers, one for results on their way back.

    Of each, a client may have no more than it leaves free (`Budget`). Where a client does not take its
    results, its tasks are held back; what its workers had begun by then stays with their agents if there is
    no room for it here, and is fetched later.
    """

    def __init__(self, most: int) -> None:
        """`most`: 0 for no bound."""
        self.largest = most // 4
        """Bytes that one task, or one answer, may have; 0: any number."""
        self.arguments = Budget(most // 2 or UNBOUNDED)
        self.results = Budget(most // 2 or UNBOUNDED)
        self.keepers: dict[str, Budget] = {}
        """What agents keep, by their sessions."""

    def too_large(self, size: int) -> bool:
        """True for one task, or one answer, that can never be taken in."""
        return 0 < self.largest < size

    def enter(self, agent: str, most: int) -> None:
        """An agent's session begins: how much it may keep (0: any number)."""
        self.keepers[agent] = Budget(most or UNBOUNDED)

    def leave(self, agent: str) -> None:
        """It is over."""
        self.keepers.pop(agent, None)

    def keep(self, agent: str, client: str, size: int) -> bool:
        """An agent keeps so many bytes more for a client, or, with a negative number, fewer; returns whether
        that becomes too much."""
        keeper = self.keepers.get(agent)
        if keeper is None:
            return False
        # what a session kept that had the same name before is not this one's
        keeper.add(client, max(size, -keeper.held.get(client, 0)))
        return keeper.strained(client)

    def forget(self, client: str) -> None:
        """A client is gone."""
        for budget in (self.arguments, self.results, *self.keepers.values()):
            budget.forget(client)

    def eased(self, client: str) -> bool:
        """True if workers may bring more for a client that was held back."""
        return self.results.eased(client) and all(each.eased(client) for each in self.keepers.values())


def weight(blob: Any, buffers: Sequence[Any]) -> int:
    """Bytes that a task or an answer costs here."""
    return EACH + size_of(blob, buffers)


def too_large(what: str, size: int, most: int) -> str:
    """What a client is told of arguments or a result that do not fit."""
    return (
        f"the {what} of {size} bytes cannot travel: the coordinator takes at most {most} bytes at a time, a"
        " quarter of its --max-bytes; send less, or start it with more"
    )
