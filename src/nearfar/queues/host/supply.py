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
"""Items that a producer may be granted besides what it asked for, where items are bounded."""
MOST_BYTES_AHEAD = 4 << 20
"""The same in bytes, where these are."""
MOST_PRODUCERS = 10_000
"""Producers that the ledger remembers: when there are more, it forgets some of those that have left."""


class Supply:
    """Grants room in turn, so that no producer starves another.

    A producer that asks holds no room: it returned what its next item does not fit into. So it is given
    nothing, or enough for that item, and no two wait for what the other has. While the first in line waits
    for a large item, smaller ones may pass it: as many bytes as the whole queue may have, and then it is its
    turn. So nobody waits while there is room, unless others take items and make more.

    Where only bytes are bounded, as many items are granted as bytes: none has fewer than one.
    """

    def __init__(self, desk: Desk, ledger: Ledger, rounds: Rounds) -> None:
        self._desk = desk
        self._ledger = ledger
        self._rounds = rounds
        self.needy: dict[str, None] = {}
        """The sessions that wait for room, in line."""
        self._ahead: dict[str, Peer] = {}
        """Those who were granted more than they asked for, and may still have it."""
        self._recalling = False
        self._first = ""
        """The session that was first in line when room was last granted."""
        self._passed = 0
        """Bytes granted to others since it is, and did not fit."""
        self._producing = 0
        self.tags: list[str] = []
        """Those that the producers were told."""
        self.newcomers: list[Peer] = []
        """Producers that were not told any."""

    def join(self, peer: Peer, now: float, *, helper: bool) -> None:
        """A session begins to put."""
        peer.produces = True
        self._producing += 1
        self._forget_some()
        self.newcomers.append(peer)
        if self._ledger.enter(peer.uid, now, helper=helper).news:
            self._ledger.newsworthy.add(peer.uid)

    def end(self, peer: Peer, *, cleanly: bool) -> None:
        """A session ends; what it may not have heard is told again if its producer returns."""
        self._producing -= 1
        self.needy.pop(peer.session, None)
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
            if self._ledger.maxsize or self._ledger.maxbytes:
                self._check_room(peer, count, len(body))
            self._ledger.store(peer.uid, first, count, body, to)

    def need(self, peer: Peer, message: Message, now: float) -> None:
        if not peer.produces:
            return
        items, size, least, returned, returned_size, ask = message.fields
        peer.needs, peer.least = (items, size), least
        self.take_back(peer, returned, returned_size)
        if peer.in_need:
            self.needy[peer.session] = None
        else:
            self.needy.pop(peer.session, None)
            self._ahead[peer.session] = peer  # it may have been granted what it does not want any more
        self.grant(now)
        if ask and peer.in_need:
            self._rounds.start(peer, lambda later: self._answer(peer, ask, later), now, recall=True)
        elif ask:
            self._answer(peer, ask, now)
        elif peer.in_need:
            self._recall(now)

    def grant(self, now: float) -> None:
        """Give out room, a share to each that is in need.

        When that is done, the last gets more than it asked for, if there is plenty: so that it need not ask
        for each item. What of that is not used comes back when another is in need.
        """
        most = self._ledger.room()[0] if self._ledger.maxsize else len(self.needy)
        line = list(islice(self.needy, max(0, most)))
        if line and line[0] != self._first:
            self._first, self._passed = line[0], 0
        waits = False
        for session in line:
            size = self._give(self._desk.peers[session], now)
            if size and waits:
                self._passed += size
            waits = waits or session in self.needy
            if waits and self._passed >= self._ledger.maxbytes > 0:
                return

    def take_back(self, peer: Peer, items: int, size: int) -> None:
        """A producer returned room that it does not use."""
        granted = self._ledger.producers[peer.uid].granted
        items, size = min(items, granted[0]), min(size, granted[1])
        self._ledger.grant(peer.uid, -items, -size)
        peer.granted = (peer.granted[0] - items, peer.granted[1] - size)

    def tell_news(self, now: float) -> None:
        """Tell producers what became of their items."""
        for uid in self._ledger.newsworthy:
            peer = self._desk.peers.get(self._desk.session_of.get(uid, ""))
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
        for peer in self.newcomers if tags == self.tags else self._desk.peers.values():
            if peer.produces and self._desk.peers.get(peer.session) is peer:
                self._desk.send(peer, Kind.TAGS, tags, now=now)
        self.tags = tags
        self.newcomers.clear()

    def _check_room(self, peer: Peer, count: int, size: int) -> None:
        ledger = self._ledger
        items, bytes_ = ledger.producers[peer.uid].granted
        if count > items:
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

    def _give(self, peer: Peer, now: float) -> int:
        """Grant `peer` its share of the room, if its next item fits; returns the bytes.

        Where bytes are bounded, and it wants more, it asks again, and says how large its next item is.
        """
        items, size = self._grantable(peer)
        if items or size:
            more, more_bytes = self._surplus(peer, items, size)
            if more or more_bytes:
                self._ahead[peer.session] = peer
            items, size = items + more, size + more_bytes
            self._ledger.grant(peer.uid, items, size)
            peer.granted = (peer.granted[0] + items, peer.granted[1] + size)
            self._desk.send(peer, Kind.ROOM, items, size, now=now)
        if not peer.in_need or size:
            self.needy.pop(peer.session, None)
        return size

    def _grantable(self, peer: Peer) -> tuple[int, int]:
        """Items and bytes of what `peer` asked for that it can have; (0, 0) if its next item does not fit."""
        (items, size), (free, free_bytes) = peer.unmet, self._ledger.room()
        sharers = max(1, len(self.needy))
        if self._ledger.maxbytes:
            least = max(0, peer.least - peer.granted[1])
            if least > free_bytes:
                return 0, 0
            size = min(size, max(least, free_bytes // sharers))
        if not self._ledger.maxsize:
            return size, size
        if items:
            items = min(items, max(1, free // sharers)) if free > 0 else 0
            if not items:
                return 0, 0
        return items, size if self._ledger.maxbytes else 0

    def _surplus(self, peer: Peer, items: int, size: int) -> tuple[int, int]:
        """Items and bytes more than the last who is in need asked for: the others may come any time."""
        ledger = self._ledger
        if len(self.needy) > 1 or size < peer.unmet[1] or (ledger.maxsize and items < peer.unmet[0]):
            return 0, 0
        free, free_bytes = ledger.room()
        parts = 2 * self._producing
        more = min(MOST_AHEAD, max(0, free - items) // parts)
        more_bytes = min(MOST_BYTES_AHEAD, max(0, free_bytes - size) // parts)
        if not ledger.maxbytes:
            return more, 0
        if not ledger.maxsize:
            return more_bytes, more_bytes
        return (more, more_bytes) if more and more_bytes else (0, 0)

    def _recall(self, now: float) -> None:
        """Somebody waits for room: have it back where it lies unused."""
        if self._recalling or not self._ahead or not self.needy:
            return
        asker = self._desk.peers[next(iter(self.needy))]
        whom = [peer for session, peer in self._ahead.items() if session not in self.needy]
        self._ahead.clear()
        if whom and asker.rounds < MOST_ROUNDS:
            self._recalling = True
            self._rounds.start(asker, self._recalled, now, recall=True, whom=whom, always=True)

    def _recalled(self, now: float) -> None:
        self._recalling = False
        self.grant(now)
        self._recall(now)

    def _answer(self, peer: Peer, ask: int, now: float) -> None:
        self.grant(now)
        if peer.in_need:  # whoever asks does not wait in line: it may have all that is free
            self._give(peer, now)
        self._desk.answer(peer, ask, not peer.in_need, now)
