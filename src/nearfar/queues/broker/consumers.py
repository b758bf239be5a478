"""The broker's side towards consumers: it delivers items, takes their reports, and announces the end."""

from __future__ import annotations

from collections import deque

from nearfar.errors import ProtocolError
from nearfar.queues.broker.ledger import Ledger
from nearfar.queues.broker.queries import Barriers
from nearfar.queues.broker.records import ItemRange
from nearfar.queues.broker.sessions import CloseLane, Peer, PeerTable
from nearfar.queues.messages import QueueMessage, QueueMessageType
from nearfar.serialization.shared_ring import KeptBody, Place

MOST_NAMES = 1000
"""The most names in one message (lost producers, or tags that can be addressed), so that it fits a frame."""


class ConsumerSide:
    """Lends to consumers in turn, so that a run of items is spread over all that wait."""

    def __init__(self, peer_table: PeerTable, ledger: Ledger, rounds: Barriers) -> None:
        self._peer_table = peer_table
        self._ledger = ledger
        self._barriers = rounds
        self._has_capacity: dict[str, None] = {}
        self.full: set[str] = set()
        """The sessions that want items, but have as many unsettled bytes as they may."""
        self._joined = self._failures = 0
        self._told_at: tuple[object, ...] = ()
        """The state at which consumers were last told whether the queue has ended."""

    def join(self, peer: Peer, tags: list[str]) -> None:
        """Register a session as a consumer. Raises `ProtocolError` if there would be too many tags."""
        if len(self._ledger.shared_tags) + len(tags) > MOST_NAMES:
            raise ProtocolError(f"{peer.uid} asks for too many tags: a queue has at most {MOST_NAMES}")
        peer.consumes = True
        self._joined += 1
        self._ledger.admit(peer.name, frozenset(tags))

    def end(self, peer: Peer, why: str, *, cleanly: bool) -> None:
        """End a consumer's session."""
        self._has_capacity.pop(peer.name, None)
        self.full.discard(peer.name)
        self._ledger.dismiss(peer.name, why, cleanly=cleanly)
        self._peer_table.actions.append(CloseLane(peer.name))

    def report(self, peer: Peer, message: QueueMessage, now: float) -> None:
        if not peer.consumes:
            return
        items, size, ask, taken, done, failed, unreadable, returned, answers = message.fields
        session = peer.name
        leases = self._ledger.consumers[session].leases
        for _, last in (*done, *failed, *unreadable, *returned, *([at, at] for at, _ in answers)):
            if last > leases.last:
                raise ProtocolError(f"{peer.uid} reports on item {last}, but was lent only {leases.last}")
        self._ledger.took(session, taken)
        for position, answer in answers:
            self._ledger.settle(session, position, position, answer)
        for first, last in done:
            self._ledger.settle(session, first, last)
        for first, last in failed:
            self._ledger.fail(session, first, last, f"{peer.uid} gave it up")
            self._failures += 1
            peer.told_over = False  # after a nack, the client itself no longer takes the queue as ended
        for first, last in unreadable:
            self._ledger.dead_letter(session, first, last, f"{peer.uid} could not read it")
        for first, last in returned:
            self._ledger.give_back(session, first, last)
        consumer = self._ledger.consumers[session]
        consumer.window_items, consumer.window_bytes = items, size
        before = consumer.leases.last
        lent = self._lend_to(session, now)
        if ask and lent:
            self._answer(peer, before, ask, now)
        elif ask:
            self._barriers.start(peer, lambda later: self._answer(peer, before, ask, later), now, recall=True)

    def lend_addressed(self, to: str, now: float) -> None:
        """Lend to the consumers with the tag `to`: an item for them came."""
        for session in self._ledger.bearers.get(to, ()):
            self._lend_to(session, now)

    def lend(self, now: float) -> None:
        """Lend the items that any consumer may have: one run to each consumer in turn."""
        for session in list(self.full):
            self._queue_up(session)
        while self._has_capacity and self._ledger.waiting.items:
            session = next(iter(self._has_capacity))
            delivered_batch = self._ledger.lend(session)
            if delivered_batch is not None:
                self._send(session, *delivered_batch, now)
            self._queue_up(session)

    def tell_over(self, now: float) -> None:
        """Tell consumers when no more items will come for them, and if that no longer holds."""
        ledger = self._ledger
        finished = ledger.shut or (not ledger.producer_registry.here and ledger.producer_registry.over())
        open_ = ledger.unsettled if finished and not ledger.size else -1  # -1: not over for any consumer
        at = (open_, self._joined, self._failures)
        if at == self._told_at:
            return
        self._told_at = at
        for session in ledger.consumers:
            peer = self._peer_table.sessions[session]
            over = finished and self._ledger.over(session)
            if over is not peer.told_over:
                peer.told_over = over
                self._peer_table.send(
                    peer, QueueMessageType.OVER, over, self._ledger.lost[:MOST_NAMES], now=now
                )

    def _lend_to(self, session: str, now: float) -> bool:
        """Lend to one consumer what waits for it, up to its window; returns whether there was anything."""
        lent = False
        while (delivered_batch := self._ledger.lend(session)) is not None:
            self._send(session, *delivered_batch, now)
            lent = True
        self._queue_up(session)
        return lent

    def _send(self, session: str, position: int, run: ItemRange, now: float) -> None:
        peer = self._peer_table.sessions[session]
        body = self._shared(peer, run.body, now) if isinstance(run.body, KeptBody) else run.body
        self._peer_table.send(
            peer, QueueMessageType.LEND, position, run.count, run.attempt, body=body, now=now
        )

    def _shared(self, peer: Peer, body: KeptBody, now: float) -> bytes | Place:
        """What to send of items in shared memory: their place, if the consumer can read it."""
        if not peer.shares or peer.inline:
            return body.read()
        ring = body.ring
        if ring.number not in peer.rings:
            peer.rings.add(ring.number)
            self._peer_table.send(
                peer, QueueMessageType.RING, ring.number, ring.reference().encode(), now=now
            )
        return body.place

    def end_rings(self, ended: deque[int], now: float) -> None:
        """Tell consumers of the rings that the broker does not keep any more."""
        while ended:
            number = ended.popleft()
            for peer in self._peer_table.sessions.values():
                if number in peer.rings:
                    peer.rings.discard(number)
                    self._peer_table.send(peer, QueueMessageType.RING, number, None, now=now)

    def _queue_up(self, session: str) -> None:
        """Move the session to the end of the queue of consumers, if it still wants items."""
        self._has_capacity.pop(session, None)
        self.full.discard(session)
        if not self._ledger.consumers[session].has_capacity:
            return
        if self._ledger.at_share(session):
            self.full.add(session)
        else:
            self._has_capacity[session] = None

    def _answer(self, peer: Peer, before: int, ask: int, now: float) -> None:
        self._lend_to(peer.name, now)
        lent = self._ledger.consumers[peer.name].leases.last > before
        self._peer_table.answer(peer, ask, lent, now)
