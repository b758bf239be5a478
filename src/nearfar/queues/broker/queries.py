"""Queries about the queue as a whole, and the barrier that precedes each negative answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nearfar.errors import ProtocolError
from nearfar.queues.broker.ledger import Ledger
from nearfar.queues.broker.sessions import MOST_HEAVY, MOST_JOINS, MOST_ROUNDS, OpenLane, Peer, PeerTable
from nearfar.queues.messages import QueueMessage, QueueMessageType

PATIENCE = 1.0
"""Seconds after which a barrier ends without the missing answers: a frozen client must not block others."""

Then = Callable[[float], None]


@dataclass(slots=True)
class Barrier:
    """One round of SYNC and SYNCED, and the callback for its end."""

    asker: Peer
    missing: set[str]
    then: Then
    deadline: float
    always: bool


class Barriers:
    """The barriers under way."""

    def __init__(self, peer_table: PeerTable) -> None:
        self._peer_table = peer_table
        self._barriers: dict[int, Barrier] = {}
        self._last = 0

    def start(
        self,
        asker: Peer,
        then: Then,
        now: float,
        *,
        recall: bool = False,
        only: Iterable[Peer] | None = None,
        always: bool = False,
    ) -> None:
        """Ask every other client (or those of `only`) to report, then call `then(now)`, if the asker is
        still there (or with `always`).

        With `recall` they also return unused room and items. Raises `ProtocolError` for an asker with too
        many questions at a time.
        """
        if asker.rounds >= MOST_ROUNDS:
            raise ProtocolError(f"{asker.uid} asks more than {MOST_ROUNDS} things at a time")
        ends = self._peer_table.sessions.values() if only is None else only
        others = [p for p in ends if p is not asker and (p.produces or p.consumes)]
        self._last += 1
        for other in others:
            self._peer_table.send(other, QueueMessageType.SYNC, self._last, recall, now=now)
        if others:
            asker.rounds += 1
            missing = {other.name for other in others}
            self._barriers[self._last] = Barrier(asker, missing, then, now + PATIENCE, always)
        else:
            then(now)

    def reply(self, number: int, session: str, now: float) -> None:
        """Record that `session` has reported everything."""
        pending = self._barriers.get(number)
        if pending is not None:
            pending.missing.discard(session)
            if not pending.missing:
                self._finish(number, now)

    def excuse(self, session: str, now: float) -> None:
        """Stop waiting for `session`, which is gone."""
        for number in list(self._barriers):
            self.reply(number, session, now)

    def expire(self, now: float) -> None:
        """End the barriers that took too long."""
        while self._barriers:
            number = next(iter(self._barriers))  # the oldest, whose deadline is the first
            if now < self._barriers[number].deadline:
                return
            self._finish(number, now)

    def postpone(self, seconds: float) -> None:
        """Extend the deadlines: the broker was suspended and could not receive answers meanwhile."""
        for pending in self._barriers.values():
            pending.deadline += seconds

    def deadline(self, otherwise: float) -> float:
        """When to call `expire` next."""
        return next(iter(self._barriers.values())).deadline if self._barriers else otherwise

    def _finish(self, number: int, now: float) -> None:
        over = self._barriers.pop(number)
        over.asker.rounds -= 1
        if over.always or self._peer_table.sessions.get(over.asker.name) is over.asker:
            over.then(now)


MOST_COUNTED = (1 << 63) - 1
"""The largest figure that is sent: the number of late items grows with whatever peers report."""
LETTERS_PER_ANSWER = 1000
LETTER_BYTES_PER_ANSWER = 512 * 1024


class Queries:
    """Size, join, shutdown, figures, dead letters."""

    def __init__(self, peer_table: PeerTable, ledger: Ledger, rounds: Barriers) -> None:
        self._peer_table = peer_table
        self._ledger = ledger
        self._barriers = rounds
        self.shut = False
        """True once SHUT was sent to the clients; the ledger is closed when all have answered."""
        self.joiners: list[tuple[Peer, int]] = []
        """Clients that wait until every item is done, with the numbers of their questions."""
        self._died_when_read = 0
        """How many items had died when the dead letters were last read."""

    def ask(self, peer: Peer, message: QueueMessage, now: float) -> None:
        ask, what, argument = message.fields
        peer_table = self._peer_table
        match what:
            case "fence" | "flush":
                peer_table.answer(peer, ask, None, now)
            case "late":
                self._ledger.late += argument if type(argument) is int else 0
                peer_table.answer(peer, ask, None, now)
            case "underway bytes" | "underway parts":
                peer.underway[what] = argument if type(argument) is int else 0
                peer_table.answer(peer, ask, None, now)
            case "inline":
                peer.inline = True
                peer_table.answer(peer, ask, None, now)
            case "lane":
                peer_table.actions.append(OpenLane(peer.name, ask))
            case "size":
                self._barriers.start(
                    peer, lambda later: peer_table.answer(peer, ask, self._ledger.size, later), now
                )
            case "join":
                self._join(peer, ask, now)
            case "shutdown":
                self._shut_down(peer, ask, argument is True, now)
            case "dead letters":
                self._tell_letters(peer, ask, now)
            case "requeue":
                count = self._ledger.requeue_dead()
                self._died_when_read = self._ledger.died
                peer_table.answer(peer, ask, count, now)
            case "counts":
                peer_table.answer(peer, ask, self.counts(), now)
            case _:
                peer_table.answer(peer, ask, None, now)

    def settle(self, now: float) -> None:
        """Answer the clients that wait for every item to be done, if it is."""
        if self._ledger.unsettled == 0:
            joiners, self.joiners = self.joiners, []
            for peer, ask in joiners:
                peer.joins -= 1
                self._peer_table.answer(peer, ask, None, now)

    def counts(self) -> dict[str, int]:
        """The figures of the ledger and of the sessions."""
        ledger = self._ledger
        helpers = [
            ledger.producers[peer.uid].helper for peer in self._peer_table.sessions.values() if peer.produces
        ]
        return {
            "stored": ledger.stored,
            "settled": ledger.settled,
            "redelivered": ledger.redelivered,
            "dead": ledger.died,
            "dropped": ledger.dropped,
            "undeliverable": ledger.undeliverable,
            "late": min(ledger.late, MOST_COUNTED),
            "unsettled": ledger.unsettled,
            "size": ledger.size,
            "maxsize": ledger.maxsize,
            "bytes": ledger.size_bytes,
            "unsettled bytes": min(ledger.lent.used, MOST_COUNTED),
            "ends": len(self._peer_table.sessions),
            "producers": helpers.count(False),
            "helpers": helpers.count(True),
            "consumers": len(ledger.consumers),
            "lost producers": len(ledger.lost),
            "underway bytes": self._underway("underway bytes"),
            "underway parts": self._underway("underway parts"),
            "unread letters": ledger.died - self._died_when_read,
        }

    def _underway(self, what: str) -> int:
        return min(
            sum(peer.underway.get(what, 0) for peer in self._peer_table.sessions.values()), MOST_COUNTED
        )

    def _join(self, peer: Peer, ask: int, now: float) -> None:
        if peer.joins >= MOST_JOINS:
            raise ProtocolError(f"{peer.uid} joins more than {MOST_JOINS} times at once")
        peer.joins += 1
        self._barriers.start(peer, lambda _: self.joiners.append((peer, ask)), now)

    def _tell_letters(self, peer: Peer, ask: int, now: float) -> None:
        peer.heavy = [number for number in peer.heavy if number > peer.channel.out.received]
        if len(peer.heavy) >= MOST_HEAVY:
            raise ProtocolError(f"{peer.uid} asks for dead letters, and does not take them")
        self._peer_table.answer(peer, ask, self._dead_letters(), now)
        peer.heavy.append(peer.channel.out.sent)
        self._died_when_read = self._ledger.died

    def _shut_down(self, peer: Peer, ask: int, immediate: bool, now: float) -> None:
        self.shut = True
        for other in self._peer_table.sessions.values():
            self._peer_table.send(other, QueueMessageType.SHUT, immediate, now=now)

        def answer(later: float) -> None:
            self._ledger.close(immediate=immediate)
            self._peer_table.answer(peer, ask, None, later)

        self._barriers.start(peer, answer, now)

    def _dead_letters(self) -> list[list[object]]:
        """The latest dead letters, as many as fit into an answer."""
        letters: list[list[object]] = []
        size = 0
        for letter in reversed(self._ledger.dead):
            size += len(letter.body) + sum(len(line.encode()) for line in (letter.producer, *letter.history))
            if len(letters) == LETTERS_PER_ANSWER or size > LETTER_BYTES_PER_ANSWER:
                break
            letters.append(
                [letter.count, letter.body, letter.producer, letter.attempts, list(letter.history)]
            )
        return letters[::-1]
