"""The host's side towards producers: room under the bound, items in, and what became of them."""

from __future__ import annotations

from itertools import islice

from nearfar.errors import ProtocolError
from nearfar.queues.host.desk import Desk
from nearfar.queues.host.ledger import Ledger
from nearfar.queues.host.peers import MOST_ROUNDS, Peer
from nearfar.queues.host.records import News, Outcome, State
from nearfar.queues.host.rounds import Rounds
from nearfar.queues.wire import Kind, Message, share_of_answers

NEWS_PER_MESSAGE = 1000
MOST_AHEAD = 1024
"""Items that a producer may be granted besides what it asked for."""
MOST_PRODUCERS = 10_000
"""Producers that the ledger remembers: when there are more, it forgets some of those that have left."""


class Supply:
    """Grants room in turn, so that no producer starves another."""

    def __init__(self, desk: Desk, ledger: Ledger, rounds: Rounds) -> None:
        self._desk = desk
        self._ledger = ledger
        self._rounds = rounds
        self._needy: dict[str, None] = {}
        self._ahead: dict[str, Peer] = {}
        """Those who were granted more than they asked for, and may still have it."""
        self._recalling = False
        self._producing = 0
        self._tags: list[str] = []
        self._newcomers: list[Peer] = []

    def join(self, peer: Peer, now: float, *, helper: bool) -> None:
        """A session begins to put."""
        peer.produces = True
        self._producing += 1
        self._forget_some()
        self._newcomers.append(peer)
        if self._ledger.enter(peer.uid, now, helper=helper).news:
            self._ledger.newsworthy.add(peer.uid)

    def end(self, peer: Peer, *, cleanly: bool) -> None:
        """A session ends; what it may not have heard is told again if its producer returns."""
        self._producing -= 1
        self._needy.pop(peer.session, None)
        self._ahead.pop(peer.session, None)
        told = [message for _, message in peer.out.unacked() if message.kind is Kind.SETTLED]
        rows = [row for message in told for row in message.fields[0]]
        news = [News(first, count, Outcome(outcome), answer) for first, count, outcome, answer in rows]
        self._ledger.producers[peer.uid].news[:0] = news
        self._ledger.leave(peer.uid, State.GONE if cleanly else State.LOST, min(peer.heard, peer.said))

    def put(self, peer: Peer, message: Message, now: float) -> None:
        """Raises `ProtocolError` for items that nobody granted room for."""
        first, count, to = message.fields
        if peer.produces:
            body = message.body or b""
            self._check_room(peer, count, len(body))
            self._ledger.store(peer.uid, first, count, body, to)

    def need(self, peer: Peer, message: Message, now: float) -> None:
        if not peer.produces:
            return
        items, size, ask = message.fields
        peer.needs = (items, size)
        self._needy[peer.session] = None
        self.grant(now)
        if ask and peer.in_need:
            self._rounds.start(peer, lambda later: self._answer(peer, ask, later), now, recall=True)
        elif ask:
            self._answer(peer, ask, now)
        elif peer.in_need:
            self._recall(now)

    def grant(self, now: float) -> None:
        """Give out room: a share of the items to each; where bytes are bounded, all it asked or nothing.

        When that is done, the last gets more than it asked for, if there is plenty: so that it need not ask
        for each item. What of that is not used comes back when another is in need.
        """
        most = self._ledger.room()[0] if self._ledger.maxsize else len(self._needy)
        for session in list(islice(self._needy, max(0, most))):
            peer = self._desk.peers[session]
            items, size = self._grantable(peer)
            if items or size:
                items += self._surplus(items)
                if items > peer.unmet[0]:
                    self._ahead[session] = peer
                self._ledger.grant(peer.uid, items, size)
                peer.granted = (peer.granted[0] + items, peer.granted[1] + size)
                self._desk.send(peer, Kind.ROOM, items, size, now=now)
            if not peer.in_need:
                del self._needy[session]

    def take_back(self, peer: Peer, items: int, size: int) -> None:
        """A producer returned room that it does not use."""
        granted = self._ledger.producers[peer.uid].granted
        items, size = min(items, granted[0]), min(size, granted[1])
        self._ledger.grant(peer.uid, -items, -size)
        peer.granted = (peer.granted[0] - items, peer.granted[1] - size)

    def tell_news(self, now: float) -> None:
        """Tell producers what became of their items."""
        for uid in self._ledger.newsworthy:
            peer = self._desk.peer_of(uid)
            if peer is None or not peer.produces:
                continue
            news = self._ledger.producers[uid].news
            rows = [[n.first, n.count, int(n.outcome), n.answer] for n in news]
            news.clear()
            while rows:
                share = share_of_answers(rows, NEWS_PER_MESSAGE)
                self._desk.send(peer, Kind.SETTLED, rows[:share], now=now)
                del rows[:share]
        self._ledger.newsworthy.clear()

    def tell_tags(self, now: float) -> None:
        """Tell producers under which names consumers can be addressed, when that changes."""
        tags = self._ledger.shared_tags
        for peer in self._newcomers if tags == self._tags else self._desk.peers.values():
            if peer.produces and self._desk.peers.get(peer.session) is peer:
                self._desk.send(peer, Kind.TAGS, tags, now=now)
        self._tags = tags
        self._newcomers.clear()

    def _check_room(self, peer: Peer, count: int, size: int) -> None:
        ledger = self._ledger
        items, bytes_ = ledger.producers[peer.uid].granted
        if (ledger.maxsize or ledger.maxbytes) and count > items:
            raise ProtocolError(f"{peer.uid} puts {count} items, with room for {items}")
        if ledger.maxbytes and size > bytes_:
            raise ProtocolError(f"{peer.uid} puts {size} bytes, with room for {bytes_}")

    def _forget_some(self) -> None:
        producers = self._ledger.producers
        if len(producers) < MOST_PRODUCERS:
            return
        absent = [each for each in producers.values() if each.state is not State.OPEN]
        absent.sort(key=lambda each: each.state is State.LOST)  # those may come back
        for each in absent[: MOST_PRODUCERS // 10]:
            del producers[each.name]
            self._ledger.newsworthy.discard(each.name)

    def _grantable(self, peer: Peer) -> tuple[int, int]:
        items, size = peer.unmet
        free, free_bytes = self._ledger.room()
        if self._ledger.maxbytes:
            fits = size <= free_bytes and (not self._ledger.maxsize or items <= free)
            return (items, size) if fits else (0, 0)
        return (min(items, max(1, free // len(self._needy))) if free > 0 else 0, 0)

    def _surplus(self, items: int) -> int:
        """Items more than the last who is in need asked for: the others may come any time."""
        if self._ledger.maxbytes or len(self._needy) > 1:
            return 0
        return min(MOST_AHEAD, (self._ledger.room()[0] - items) // (2 * self._producing))

    def _recall(self, now: float) -> None:
        """Somebody waits for room: have it back where it lies unused."""
        if self._recalling or not self._ahead:
            return
        asker = self._desk.peers[next(iter(self._needy))]
        whom = [peer for session, peer in self._ahead.items() if session not in self._needy]
        self._ahead.clear()
        if whom and asker.rounds < MOST_ROUNDS:
            self._recalling = True
            self._rounds.start(asker, self._recalled, now, recall=True, whom=whom, always=True)

    def _recalled(self, now: float) -> None:
        self._recalling = False
        self.grant(now)
        if self._needy:
            self._recall(now)

    def _answer(self, peer: Peer, ask: int, now: float) -> None:
        self.grant(now)
        granted = not peer.in_need
        peer.needs = peer.granted
        self._needy.pop(peer.session, None)
        self._desk.answer(peer, ask, granted, now)
