"""The broker's side towards producers: it grants room, stores their items, and reports the outcomes."""

from __future__ import annotations

from itertools import islice
from math import inf

from nearfar.errors import ProtocolError
from nearfar.queues.broker.ledger import Ledger
from nearfar.queues.broker.queries import Barriers
from nearfar.queues.broker.records import News, ProducerState, Settlement
from nearfar.queues.broker.sessions import MOST_ROUNDS, Peer, PeerTable
from nearfar.queues.messages import QueueMessage, QueueMessageType, share_of_answers
from nearfar.serialization.shared_ring import Body, KeptBody, Place

NEWS_PER_MESSAGE = 1000
NEWS_WITHIN = 0.005
"""Seconds that outcomes may wait to be batched, while other items are not settled."""
MOST_AHEAD = 1024
"""Items that a producer may be granted beyond its request, if items are bounded."""
MOST_BYTES_AHEAD = 4 << 20
"""The same in bytes, if these are bounded."""
FEW_AHEAD, FEW_BYTES_AHEAD = 16, 4096
"""Less is not granted without a request."""
MOST_PRODUCERS = 10_000
"""Producers that the ledger stores: above, it drops some of those that have left."""


class ProducerSide:
    """Grants room in turn, so that no producer starves another.

    A producer that requests room holds none: it returned any room that is too small for its next item. So it
    is granted either nothing or enough for that item, and no two producers wait for each other's room. While
    the first in line waits for a large item, smaller items may overtake it, up to as many bytes as the whole
    queue may hold; then it comes first. So a producer waits only while there is too little room.

    If only bytes are bounded, as many items as bytes are granted: an item has at least one byte.
    """

    def __init__(self, peer_table: PeerTable, ledger: Ledger, rounds: Barriers) -> None:
        self._peer_table = peer_table
        self._ledger = ledger
        self._barriers = rounds
        self.needy: dict[str, None] = {}
        """The sessions that wait for room, in order."""
        self._ahead: dict[str, Peer] = {}
        """Producers that were granted more than they requested, and may still have it."""
        self.news_due = inf
        """When outcomes that wait to be batched are sent."""
        self.lacking: dict[str, Peer] = {}
        """Producers that have put since they were last granted room ahead."""
        self._recalling = False
        self._first = ""
        """The session that was first in line when room was last granted."""
        self._passed = 0
        """Bytes granted to others since then, while its own item did not fit."""
        self._producing = 0
        self.tags: list[str] = []
        """The tags last sent to the producers."""
        self.newcomers: list[Peer] = []
        """Producers to which no tags were sent yet."""

    def join(self, peer: Peer, now: float, *, helper: bool) -> None:
        """Register a session as a producer."""
        peer.produces = True
        self._producing += 1
        self._forget_some()
        self.newcomers.append(peer)
        if self._ledger.enter(peer.uid, now, helper=helper).news:
            self._ledger.newsworthy.add(peer.uid)

    def end(self, peer: Peer, *, cleanly: bool) -> None:
        """End a producer's session; the news it did not ack is sent again if the producer returns."""
        self._producing -= 1
        self.needy.pop(peer.name, None)
        self._ahead.pop(peer.name, None)
        self.lacking.pop(peer.name, None)
        told = [message for message in peer.channel.unacked() if message.kind is QueueMessageType.SETTLED]
        rows = [row for message in told for row in message.fields[0]]
        news = [News(first, count, Settlement(outcome), answer) for first, count, outcome, answer in rows]
        self._ledger.producers[peer.uid].news[:0] = news
        self._ledger.leave(
            peer.uid,
            ProducerState.GONE if cleanly else ProducerState.LOST,
            min(peer.channel.heard, peer.said),
        )

    def put(self, peer: Peer, message: QueueMessage, now: float) -> None:
        """Store items. Raises `ProtocolError` for items for which no room was granted."""
        first, count, to = message.fields
        if peer.produces:
            body: Body = message.body or b""  # type: ignore[assignment]  # a place is replaced below
            if isinstance(message.body, Place):
                body = self._kept(peer, message.body)
            bounded = self._ledger.maxsize or self._ledger.maxbytes
            if bounded:
                self._check_room(peer, count, len(body))
            self._ledger.store(peer.uid, first, count, body, to)
            if bounded:
                self.lacking[peer.name] = peer

    def _kept(self, peer: Peer, body: Place) -> KeptBody:
        """The items of a PUT in shared memory. They must be in the ring that this session has announced."""
        if peer.ring is None:
            raise ProtocolError(f"{peer.uid} puts items into shared memory that it did not announce")
        peer.ring.check(body)
        return KeptBody(peer.ring, Place(body.start, body.size, peer.ring.number))

    def need(self, peer: Peer, message: QueueMessage, now: float) -> None:
        if not peer.produces:
            return
        items, size, least, returned, returned_size, ask = message.fields
        peer.needs, peer.least = (items, size), least
        self.take_back(peer, returned, returned_size)
        if peer.in_need:
            self.needy[peer.name] = None
        else:
            self.needy.pop(peer.name, None)
            self._ahead[peer.name] = peer  # it may have been granted room that it no longer needs
        self.grant(now)
        if ask and peer.in_need:
            self._barriers.start(peer, lambda later: self._answer(peer, ask, later), now, recall=True)
        elif ask:
            self._answer(peer, ask, now)
        elif peer.in_need:
            self._recall(now)

    def grant(self, now: float) -> None:
        """Grant room, a share to each producer that waits for it.

        The last one gets more than it requested if there is plenty, so that it need not request it for each
        item. What it does not use is recalled when another producer waits.
        """
        most = self._ledger.room()[0] if self._ledger.maxsize else len(self.needy)
        line = list(islice(self.needy, max(0, most)))
        if line and line[0] != self._first:
            self._first, self._passed = line[0], 0
        waits = False
        for session in line:
            size = self._give(self._peer_table.sessions[session], now)
            if size and waits:
                self._passed += size
            waits = waits or session in self.needy
            if waits and self._passed >= self._ledger.maxbytes > 0:
                return

    def top_up(self, now: float) -> None:
        """Grant room in advance to producers that have put, once there is a good share for them, so that they
        seldom have to request it. What they do not use is recalled when another producer waits."""
        if self.needy:
            return  # they come first
        for session, peer in list(self.lacking.items()):
            items, size = self._missing(peer)
            if items or size:
                self._grant(peer, items, size, now)
                self._ahead[session] = peer
                del self.lacking[session]

    def _missing(self, peer: Peer) -> tuple[int, int]:
        """The items and bytes that `peer` may have ahead; (0, 0) for less than a quarter of its share."""
        ledger, parts = self._ledger, self._parts()
        (free, free_bytes), (has, has_bytes) = ledger.room(), ledger.producers[peer.uid].granted
        items = size = 0
        if ledger.maxsize:
            share = min(MOST_AHEAD, ledger.maxsize // parts)
            items = min(share - has, free // parts)
            if items < max(FEW_AHEAD, share // 4):
                return 0, 0
        if ledger.maxbytes:
            share = min(MOST_BYTES_AHEAD, ledger.maxbytes // parts)
            size = min(share - has_bytes, free_bytes // parts)
            if size < max(FEW_BYTES_AHEAD, share // 4):
                return 0, 0
        return (items, size) if ledger.maxsize else (size, size)

    def _grant(self, peer: Peer, items: int, size: int, now: float) -> None:
        self._ledger.grant(peer.uid, items, size)
        peer.granted = (peer.granted[0] + items, peer.granted[1] + size)
        self._peer_table.send(peer, QueueMessageType.ROOM, items, size, now=now)

    def take_back(self, peer: Peer, items: int, size: int) -> None:
        """Free room that a producer returned unused."""
        granted = self._ledger.producers[peer.uid].granted
        items, size = min(items, granted[0]), min(size, granted[1])
        self._ledger.grant(peer.uid, -items, -size)
        peer.granted = (peer.granted[0] - items, peer.granted[1] - size)

    def tell_news_if_due(self, now: float) -> None:
        """Send producers the outcomes of their items: at once if they may wait for them, else batched."""
        ledger = self._ledger
        if self.news_due == inf:
            self.news_due = now + NEWS_WITHIN
        if (
            now >= self.news_due
            or not ledger.unsettled
            or any(
                news.outcome is not Settlement.DONE or news.count >= NEWS_PER_MESSAGE
                for uid in ledger.newsworthy
                for news in ledger.producers[uid].news
            )
        ):
            self.tell_news(now)

    def tell_news(self, now: float) -> None:
        """Send producers the outcomes of their items."""
        self.news_due = inf
        for uid in self._ledger.newsworthy:
            peer = self._peer_table.of(uid)
            if peer is None or not peer.produces:
                continue
            news = self._ledger.producers[uid].news
            rows = [[n.first, n.count, int(n.outcome), n.answer] for n in news]
            news.clear()
            while rows:
                share = share_of_answers(rows, NEWS_PER_MESSAGE)
                self._peer_table.send(peer, QueueMessageType.SETTLED, rows[:share], now=now)
                del rows[:share]
        self._ledger.newsworthy.clear()

    def tell_tags(self, now: float) -> None:
        """Send producers the tags by which consumers can be addressed, when these change."""
        tags = self._ledger.shared_tags
        for peer in self.newcomers if tags == self.tags else self._peer_table.sessions.values():
            if peer.produces and self._peer_table.sessions.get(peer.name) is peer:
                self._peer_table.send(peer, QueueMessageType.TAGS, tags, now=now)
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
        absent = [each for each in producers.values() if each.state is not ProducerState.OPEN]
        absent.sort(key=lambda each: each.state is ProducerState.LOST)  # last: these may reconnect
        for each in absent[: MOST_PRODUCERS // 10]:
            del producers[each.name]
            self._ledger.newsworthy.discard(each.name)

    def _give(self, peer: Peer, now: float) -> int:
        """Grant `peer` its share of the room, if its next item fits; returns the bytes.

        If bytes are bounded and the peer needs more, it sends another request, with the size of its next
        item.
        """
        items, size = self._grantable(peer)
        if items or size:
            more, more_bytes = self._surplus(peer, items, size)
            if more or more_bytes:
                self._ahead[peer.name] = peer
            items, size = items + more, size + more_bytes
            self._grant(peer, items, size, now)
        if not peer.in_need or size:
            self.needy.pop(peer.name, None)
        return size

    def _grantable(self, peer: Peer) -> tuple[int, int]:
        """The part of its request, in items and bytes, that `peer` can have; (0, 0) if its next item does not
        fit."""
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
        """Items and bytes to grant beyond the request of the last producer in need. The others may send
        requests at any time."""
        ledger = self._ledger
        if len(self.needy) > 1 or size < peer.unmet[1] or (ledger.maxsize and items < peer.unmet[0]):
            return 0, 0
        free, free_bytes = ledger.room()
        parts = self._parts()
        more = min(MOST_AHEAD, max(0, free - items) // parts)
        more_bytes = min(MOST_BYTES_AHEAD, max(0, free_bytes - size) // parts)
        if not ledger.maxbytes:
            return more, 0
        if not ledger.maxsize:
            return more_bytes, more_bytes
        return (more, more_bytes) if more and more_bytes else (0, 0)

    def _parts(self) -> int:
        """How many parts the free room has of which a producer is granted one ahead: a lone one gets all."""
        return 2 * self._producing if self._producing > 1 else 1

    def _recall(self, now: float) -> None:
        """If a producer waits for room, recall what others have and do not use."""
        if self._recalling or not self._ahead or not self.needy:
            return
        asker = self._peer_table.sessions[next(iter(self.needy))]
        only = [peer for session, peer in self._ahead.items() if session not in self.needy]
        self._ahead.clear()
        if only and asker.rounds < MOST_ROUNDS:
            self._recalling = True
            self._barriers.start(asker, self._recalled, now, recall=True, only=only, always=True)

    def _recalled(self, now: float) -> None:
        self._recalling = False
        self.grant(now)
        self._recall(now)

    def _answer(self, peer: Peer, ask: int, now: float) -> None:
        self.grant(now)
        if peer.in_need:  # a call that cannot wait is not queued: it may get all free room
            self._give(peer, now)
        self._peer_table.answer(peer, ask, not peer.in_need, now)
