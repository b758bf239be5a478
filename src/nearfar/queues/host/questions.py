"""The host's answers to questions about the queue as a whole."""

from __future__ import annotations

from nearfar.errors import ProtocolError
from nearfar.queues.host.desk import Desk
from nearfar.queues.host.ledger import Ledger
from nearfar.queues.host.peers import MOST_HEAVY, MOST_JOINS, OpenLane, Peer
from nearfar.queues.host.rounds import Rounds
from nearfar.queues.wire import Kind, Message

MOST_COUNTED = (1 << 63) - 1
"""What a figure is told to be at most: that of late items grows with whatever peers say."""
LETTERS_PER_ANSWER = 1000
LETTER_BYTES_PER_ANSWER = 512 * 1024


class Questions:
    """Size, join, shutdown, figures, dead letters."""

    def __init__(self, desk: Desk, ledger: Ledger, rounds: Rounds) -> None:
        self._desk = desk
        self._ledger = ledger
        self._rounds = rounds
        self.shut = False
        """True from the moment that ends are told; for the ledger, only when they all know."""
        self.joiners: list[tuple[Peer, int]] = []
        """Those who wait for everything to be done, and their asks."""
        self._died_when_read = 0
        """How many items had died when somebody last read the dead letters."""

    def ask(self, peer: Peer, message: Message, now: float) -> None:
        ask, what, argument = message.fields
        desk = self._desk
        match what:
            case "fence" | "flush":
                desk.answer(peer, ask, None, now)
            case "late":
                self._ledger.late += argument if type(argument) is int else 0
                desk.answer(peer, ask, None, now)
            case "underway bytes" | "underway parts":
                peer.underway[what] = argument if type(argument) is int else 0
                desk.answer(peer, ask, None, now)
            case "lane":
                desk.actions.append(OpenLane(peer.session, ask))
            case "size":
                self._rounds.start(peer, lambda later: desk.answer(peer, ask, self._ledger.size, later), now)
            case "join":
                self._join(peer, ask, now)
            case "shutdown":
                self._shut_down(peer, ask, argument is True, now)
            case "dead letters":
                self._tell_letters(peer, ask, now)
            case "counts":
                desk.answer(peer, ask, self.counts(), now)
            case _:
                desk.answer(peer, ask, None, now)

    def settle(self, now: float) -> None:
        """Answer those who wait for everything to be done."""
        if self._ledger.unsettled == 0:
            joiners, self.joiners = self.joiners, []
            for peer, ask in joiners:
                peer.joins -= 1
                self._desk.answer(peer, ask, None, now)

    def counts(self) -> dict[str, int]:
        """The whole of the ledger in figures."""
        ledger = self._ledger
        helpers = [ledger.producers[peer.uid].helper for peer in self._desk.peers.values() if peer.produces]
        return {
            "stored": ledger.stored,
            "settled": ledger.settled,
            "dead": ledger.died,
            "dropped": ledger.dropped,
            "undeliverable": ledger.undeliverable,
            "late": min(ledger.late, MOST_COUNTED),
            "unsettled": ledger.unsettled,
            "size": ledger.size,
            "maxsize": ledger.maxsize,
            "bytes": ledger.size_bytes,
            "unsettled bytes": min(ledger.lent.used, MOST_COUNTED),
            "ends": len(self._desk.peers),
            "producers": helpers.count(False),
            "helpers": helpers.count(True),
            "consumers": len(ledger.consumers),
            "lost producers": len(ledger.lost),
            "underway bytes": self._underway("underway bytes"),
            "underway parts": self._underway("underway parts"),
            "unread letters": ledger.died - self._died_when_read,
        }

    def _underway(self, what: str) -> int:
        return min(sum(peer.underway.get(what, 0) for peer in self._desk.peers.values()), MOST_COUNTED)

    def _join(self, peer: Peer, ask: int, now: float) -> None:
        if peer.joins >= MOST_JOINS:
            raise ProtocolError(f"{peer.uid} joins more than {MOST_JOINS} times at once")
        peer.joins += 1
        self._rounds.start(peer, lambda _: self.joiners.append((peer, ask)), now)

    def _tell_letters(self, peer: Peer, ask: int, now: float) -> None:
        peer.heavy = [number for number in peer.heavy if number > peer.out.received]
        if len(peer.heavy) >= MOST_HEAVY:
            raise ProtocolError(f"{peer.uid} asks for dead letters, and does not take them")
        self._desk.answer(peer, ask, self._dead_letters(), now)
        peer.heavy.append(peer.out.sent)
        self._died_when_read = self._ledger.died

    def _shut_down(self, peer: Peer, ask: int, immediate: bool, now: float) -> None:
        self.shut = True
        for other in self._desk.peers.values():
            self._desk.send(other, Kind.SHUT, immediate, now=now)

        def answer(later: float) -> None:
            self._ledger.close(immediate=immediate)
            self._desk.answer(peer, ask, None, later)

        self._rounds.start(peer, answer, now)

    def _dead_letters(self) -> list[list[object]]:
        """The latest, as many as fit into an answer."""
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
