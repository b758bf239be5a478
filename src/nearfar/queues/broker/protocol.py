"""The broker's side of the protocol, pure: messages go in, actions come out.

::

    receive --> sessions and windows --> ProducerSide  (room, items in, news)
                                         ConsumerSide  (items out, reports, the end)
                                         Queries       (size, join, shutdown)
                         SharedLimits  (permits)
                                            |
    flush  <-- actions <-- PeerTable <------+------> Ledger (the items)

`receive`, `tick`, `lane_opened` and `table` take an event and the time (seconds of any monotonic clock);
`flush` returns the actions that follow."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from math import inf
from typing import Any

from nearfar.errors import ProtocolError
from nearfar.net.session import SessionEnd
from nearfar.queues.broker.consumers import ConsumerSide
from nearfar.queues.broker.ledger import Ledger
from nearfar.queues.broker.producers import ProducerSide
from nearfar.queues.broker.queries import Barriers, Queries
from nearfar.queues.broker.sessions import Action, Peer, PeerTable
from nearfar.queues.limits import Claim, SharedLimits
from nearfar.queues.messages import (
    MOST_CLAIMS,
    NO_COORDINATOR,
    VERSION,
    QueueFrame,
    QueueMessage,
    QueueMessageType,
    open_channel,
    refusal,
)
from nearfar.serialization.shared_ring import HostRings, Reference


class BrokerProtocol:
    """`about` describes the queue in WELCOME; `lease` is in seconds; tickets are derived from `secret`.

    A peer that breaks the protocol loses its session, with what it held, and is sent the reason. `receive`
    raises nothing.
    """

    def __init__(
        self,
        ledger: Ledger,
        about: dict[str, Any],
        *,
        lease: float,
        secret: bytes = b"",
        most_peers: int = 4096,
        rings: HostRings | None = None,
    ) -> None:
        self.ledger = ledger
        self.said_here = 0
        """Messages of clients in this process."""
        self._secret = secret
        self._rings = rings or HostRings()
        self._about = about
        self._lease = lease
        self.table = PeerTable(lease, most_peers, self._end)
        self.peers = self.table.sessions
        """The open sessions."""
        self._barriers = Barriers(self.table)
        self._producer_side = ProducerSide(self.table, ledger, self._barriers)
        self._consumer_side = ConsumerSide(self.table, ledger, self._barriers)
        self._questions = Queries(self.table, ledger, self._barriers)
        self._limits = SharedLimits()
        self._begun = inf
        """When the first client came."""
        self._turned = 0.0
        """When all that had come was last read: what is read now was sent after that."""
        self._late_until = 0.0

    # -- events ----------------------------------------------------------------------------------

    def receive(self, session: str, envelope: QueueFrame, now: float) -> None:
        """Process a message."""
        message = envelope.message
        peer = self.peers.get(session)
        if message.kind is QueueMessageType.HELLO:
            self._hello(session, message, now)
            return
        if peer is None:
            if message.kind is QueueMessageType.QUERY:
                self.table.refuse(session, NO_COORDINATOR)
            else:
                self._reject(session, message)
            return
        peer.said = self._turned
        self.table.touched[session] = peer
        try:
            for ready in peer.channel.hear(envelope, now):
                if self.peers.get(session) is peer:  # it may have ended at the one before
                    self._handle(peer, ready, now)
        except ProtocolError as error:
            self.table.give_up(session, str(error), now)

    def admit_local(
        self, session: str, uid: str, deliver: Callable[[QueueMessage], object], now: float
    ) -> tuple[Peer, dict[str, Any]]:
        """Begin the session of a client in this process; returns it, and the facts of a WELCOME.

        What is sent to it is given to `deliver`. Its messages come by `receive_local`, in order and complete:
        they are not numbered, and its silence means nothing.
        """
        peer = self._begin(session, uid, now, deliver)
        return peer, self._welcome(peer)

    def receive_local(self, peer: Peer, message: QueueMessage, now: float) -> None:
        """Process a message of a client in this process. Nothing happens once its session has ended."""
        if self.peers.get(peer.name) is not peer:
            return
        peer.channel.heard = now
        self.said_here += 1
        try:
            self._handle(peer, message, now)
        except ProtocolError as error:
            self.table.give_up(peer.name, str(error), now)
            if peer.deliver is not None:
                peer.deliver(self.table.actions.pop().envelope.message)  # the REFUSED: it has no socket

    def tick(self, now: float) -> None:
        """Send again what got lost, and end the sessions of silent peers."""
        if suspended := self.table.tick(now):
            self._barriers.postpone(suspended)
            self._late_until = now + self._lease / 2  # ZeroMQ, too, needs a while to deliver everything
        self._barriers.expire(now)

    def lane_opened(self, session: str, ask: int, place: int | str, now: float) -> None:
        """Tell the client that the lane requested by `OpenLane` is bound at `place`."""
        peer = self.peers.get(session)
        if peer is not None:
            self.table.answer(peer, ask, place, now)

    def flush(self, now: float) -> list[Action]:
        """Lend items, grant room and send news; returns all actions to perform."""
        ledger, producer_side, consumer_side = self.ledger, self._producer_side, self._consumer_side
        if ledger.waiting.items or consumer_side.full:
            consumer_side.lend(now)
        if producer_side.needy:
            producer_side.grant(now)
        if producer_side.lacking:
            producer_side.top_up(now)
        if self._questions.joiners:
            self._questions.settle(now)
        if ledger.newsworthy:
            producer_side.tell_news_if_due(now)
        if self._limits.due <= now:
            self._send_grants(now)
        if self._rings.ended:
            consumer_side.end_rings(self._rings.ended, now)
        if producer_side.newcomers or ledger.shared_tags is not producer_side.tags:
            producer_side.tell_tags(now)
        consumer_side.tell_over(now)
        if now >= self._late_until:
            self._turned = now
        return self.table.flush(now)

    @property
    def flush_due(self) -> float:
        """When to call `flush` next, if nothing happens."""
        return min(self._producer_side.news_due, self._limits.due)

    def deadline(self, now: float) -> float:
        """When to call `tick` next."""
        latest = now + self._lease / 5
        due = self.table.timers.deadline()
        return min(latest, latest if due is None else due, self._barriers.deadline(latest))

    def counts(self) -> dict[str, int]:
        """The figures of the queue."""
        return self._questions.counts() | self.table.figures()

    # -- sessions --------------------------------------------------------------------------------

    def _hello(self, session: str, message: QueueMessage, now: float) -> None:
        version, uid, about_client = message.fields
        if version != VERSION:
            self.table.refuse(session, refusal(version))
            return
        self._begun = min(self._begun, now)
        epoch = self._about.get("epoch")
        if about_client.get("epoch", epoch) != epoch:
            # Clients of an earlier broker have permits that are not known here, until they return.
            self._limits.doubt(self._begun + self._lease)
        peer = self.peers.get(session)
        if peer is None:
            if not self.table.admit(session, uid, now):
                return
            peer = self._begin(session, uid, now)
            peer.shares = self._rings.reach(about_client)
            self.table.touched[session] = peer
        welcome = (session, self._welcome(peer))
        self.table.send_loose(session, QueueMessage(QueueMessageType.WELCOME, welcome))

    def _welcome(self, peer: Peer) -> dict[str, Any]:
        producer = self.ledger.producers.get(peer.uid)
        return {
            **self._about,
            "machine": self._rings.machine,
            "stored": producer.stored if producer else 0,
            "shut": self._questions.shut,
            "ticket": peer.ticket,
        }

    def _begin(
        self,
        session: str,
        uid: str,
        now: float,
        deliver: Callable[[QueueMessage], object] | None = None,
    ) -> Peer:
        ticket = blake2b(session.encode(), key=self._secret, digest_size=16).hexdigest()
        peer = Peer(session, uid, open_channel(self._lease, now), ticket, deliver=deliver)
        self.table.add(peer)
        return peer

    def _reject(self, session: str, message: QueueMessage) -> None:
        """Answer a peer without a session. What it reports of its items counts as late."""
        if message.kind is QueueMessageType.REPORT:
            *_, done, failed, _unreadable, _returned, answers = message.fields
            self.ledger.late += len(answers) + sum(last - first + 1 for first, last in [*done, *failed])
        self.table.disown(session)

    def _handle(self, peer: Peer, message: QueueMessage, now: float) -> None:
        if message.kind is QueueMessageType.PUT:
            self._producer_side.put(peer, message, now)
            if message.fields[2] is not None:
                self._consumer_side.lend_addressed(message.fields[2], now)
            return
        match message.kind:
            case QueueMessageType.REPORT:
                self._consumer_side.report(peer, message, now)
            case QueueMessageType.NEED:
                self._producer_side.need(peer, message, now)
            case QueueMessageType.ASK:
                self._producer_side.tell_news(now)  # first, so that the answer agrees with the news
                if message.fields[1] == "ring":
                    self._open_ring(peer, message, now)
                else:
                    self._questions.ask(peer, message, now)
            case QueueMessageType.SYNCED:
                number, items, size = message.fields
                if peer.produces:
                    self._producer_side.take_back(peer, items, size)
                self._barriers.reply(number, peer.name, now)
            case QueueMessageType.JOIN:
                self._join(peer, message, now)
            case QueueMessageType.CLAIM:
                anew, claims = message.fields
                self._limits.claim(peer.uid, map(Claim._make, claims), now, anew=anew)
            case QueueMessageType.BYE:
                self._producer_side.tell_news(now)
                self.table.send(peer, QueueMessageType.PART, now=now)
                self._end(peer, "it left", SessionEnd.LEFT, now)
            case _:
                pass  # a kind that only a broker sends

    def _open_ring(self, peer: Peer, message: QueueMessage, now: float) -> None:
        """Open the memory in which a producer is going to put its items; answer whether that is possible."""
        ask, _, reference = message.fields
        known = Reference.decode(reference)
        if peer.ring is None and peer.shares:
            peer.ring = self._rings.keep(known)
        self.table.answer(peer, ask, peer.ring is not None, now)

    def _join(self, peer: Peer, message: QueueMessage, now: float) -> None:
        produces, consumes, tags, helper = message.fields
        if produces and not peer.produces:
            self._producer_side.join(peer, now, helper=helper)
        if consumes and not peer.consumes:
            self._consumer_side.join(peer, tags)

    def _send_grants(self, now: float) -> None:
        """Send what clients are granted of the limits that they share."""
        for uid, grants in self._limits.flush(now):
            peer = self.table.of(uid)
            for first in range(0, len(grants) if peer is not None else 0, MOST_CLAIMS):
                assert peer is not None
                rows = grants[first : first + MOST_CLAIMS]
                self.table.send(peer, QueueMessageType.GRANT, rows, now=now)

    def _end(self, peer: Peer, why: str, how: SessionEnd, now: float) -> None:
        if how is SessionEnd.REPLACED:
            self._limits.pause(peer.uid)  # it declares in its next session which permits it has
        else:
            self._limits.leave(peer.uid)
        self.table.remove(peer)
        peer.ring = None
        cleanly = how is SessionEnd.LEFT
        if peer.produces:
            self._producer_side.end(peer, cleanly=cleanly)
        if peer.consumes:
            self._consumer_side.end(peer, f"{peer.uid}: {why}", cleanly=cleanly)
        self._barriers.excuse(peer.name, now)
        if not any(other.produces or other.consumes for other in self.peers.values()):
            self.ledger.part()
