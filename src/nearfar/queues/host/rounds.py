"""Rounds of questions: before the host says "no", every end tells what it knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nearfar.errors import ProtocolError
from nearfar.queues.host.desk import Desk
from nearfar.queues.host.peers import MOST_ROUNDS, Peer
from nearfar.queues.wire import Kind

PATIENCE = 1.0
"""Seconds after which a round ends without those who have not answered: a frozen end must not stop all."""

Then = Callable[[float], None]


@dataclass(slots=True)
class Round:
    """One round, and what to do when it is over."""

    asker: Peer
    missing: set[str]
    then: Then
    deadline: float
    always: bool


class Rounds:
    """The rounds under way."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._rounds: dict[int, Round] = {}
        self._last = 0

    def start(
        self,
        asker: Peer,
        then: Then,
        now: float,
        *,
        recall: bool = False,
        whom: Iterable[Peer] | None = None,
        always: bool = False,
    ) -> None:
        """Ask every other end (or those of `whom`), then call `then(now)`, unless the asker is
        gone by then (or `always`).

        With `recall` they also return the room and the items that lie unused with them. Raises
        `ProtocolError` for an asker that asks too much at a time.
        """
        if asker.rounds >= MOST_ROUNDS:
            raise ProtocolError(f"{asker.uid} asks more than {MOST_ROUNDS} things at a time")
        ends = self._desk.peers.values() if whom is None else whom
        others = [p for p in ends if p is not asker and (p.produces or p.consumes)]
        self._last += 1
        for other in others:
            self._desk.send(other, Kind.SYNC, self._last, recall, now=now)
        if others:
            asker.rounds += 1
            missing = {other.session for other in others}
            self._rounds[self._last] = Round(asker, missing, then, now + PATIENCE, always)
        else:
            then(now)

    def reply(self, number: int, session: str, now: float) -> None:
        """`session` has told what it knows."""
        pending = self._rounds.get(number)
        if pending is not None:
            pending.missing.discard(session)
            if not pending.missing:
                self._finish(number, now)

    def excuse(self, session: str, now: float) -> None:
        """`session` is gone: nobody waits for it."""
        for number in list(self._rounds):
            self.reply(number, session, now)

    def expire(self, now: float) -> None:
        """End the rounds that took too long."""
        while self._rounds:
            number = next(iter(self._rounds))  # the oldest, whose time is over first
            if now < self._rounds[number].deadline:
                return
            self._finish(number, now)

    def postpone(self, seconds: float) -> None:
        """The host stood still: nobody could be heard meanwhile."""
        for pending in self._rounds.values():
            pending.deadline += seconds

    def deadline(self, otherwise: float) -> float:
        """When `expire` is wanted next."""
        return next(iter(self._rounds.values())).deadline if self._rounds else otherwise

    def _finish(self, number: int, now: float) -> None:
        over = self._rounds.pop(number)
        over.asker.rounds -= 1
        if over.always or self._desk.peers.get(over.asker.session) is over.asker:
            over.then(now)
