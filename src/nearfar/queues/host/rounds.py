"""Rounds of questions: before the host says "no", every end tells what it knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

PATIENCE = 1.0
"""Seconds after which a round ends without those who have not answered: a frozen end must not stop all."""


@dataclass(slots=True)
class Round:
    """One round, and what to do when it is over."""

    missing: set[str]
    then: Callable[[float], None]
    deadline: float


class Rounds:
    """The rounds under way."""

    def __init__(self) -> None:
        self._rounds: dict[int, Round] = {}
        self._last = 0

    def start(self, sessions: set[str], then: Callable[[float], None], now: float) -> int:
        """Wait for `sessions`, then call `then(now)`: at once if there are none. Returns the round's number."""
        self._last += 1
        if sessions:
            self._rounds[self._last] = Round(sessions, then, now + PATIENCE)
        else:
            then(now)
        return self._last

    def reply(self, number: int, session: str, now: float) -> None:
        """`session` has told what it knows."""
        pending = self._rounds.get(number)
        if pending is None:
            return
        pending.missing.discard(session)
        if not pending.missing:
            del self._rounds[number]
            pending.then(now)

    def excuse(self, session: str, now: float) -> None:
        """`session` is gone: nobody waits for it."""
        for number in list(self._rounds):
            self.reply(number, session, now)

    def expire(self, now: float) -> None:
        """End the rounds that took too long."""
        for number, pending in list(self._rounds.items()):
            if now >= pending.deadline and self._rounds.pop(number, None):
                pending.then(now)

    def deadline(self, otherwise: float) -> float:
        """When `expire` is wanted next."""
        return min((pending.deadline for pending in self._rounds.values()), default=otherwise)
