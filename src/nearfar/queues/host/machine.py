"""The host's side of the protocol as a pure machine: messages go in, actions come out.

::

    receive --> sessions and lines --> Supply     (producers: room, items in, news)
                                       Demand     (consumers: items out, reports, the end)
                                       Questions  (size, join, shutdown)
                                          |
    flush  <-- actions <-- Desk <---------+------> Ledger (the items)

`receive`, `dead`, `tick` and `lane_opened` take what happened and the time (seconds, any monotonic clock);
`flush` gives everything that is to be done about it.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from nearfar.errors import ProtocolError
from nearfar.net.budget import Budget
from nearfar.net.dues import Dues
from nearfar.net.here import stem
from nearfar.net.line import Outgoing, Voice
from nearfar.net.standstill import Standstill
from nearfar.queues.host.demand import Demand
from nearfar.queues.host.desk import Desk
from nearfar.queues.host.ledger import Ledger
from nearfar.queues.host.peers import Action, Peer, Send
from nearfar.queues.host.questions import Questions
from nearfar.queues.host.rounds import Rounds
from nearfar.queues.host.supply import Supply
from nearfar.queues.stuck import broken
from nearfar.queues.wire import VERSION, Envelope, Kind, Message, refusal

AHEAD_OF_ALL = 256 << 20
"""Bytes of messages of all ends that came ahead of their turn: those beyond are dropped, and sent again."""


class HostMachine:
    """`about` is what WELCOME tells of the queue; `lease` is in seconds; `secret`: what tickets are made of.

    A peer whose words cannot be true loses its session, with what it held, and is told why. `receive` raises
    nothing.
    """

    def __init__(
        self,
        ledger: Ledger,
        about: dict[str, Any],
        *,
        lease: float,
        secret: bytes = b"",
        most_peers: int = 4096,
    ) -> None:
        self.ledger = ledger
        self.refused = 0
        """Ends that were not let in."""
        self.complaints: list[str] = []
        """What was wrong with what peers said, until `take_complaints`."""
        self._secret = secret
        self._most_peers = most_peers
        self._about = about
        self._lease = lease
        self._desk = Desk()
        self.peers = self._desk.peers
        """The sessions there are."""
        self._rounds = Rounds(self._desk)
        self._supply = Supply(self._desk, ledger, self._rounds)
        self._demand = Demand(self._desk, ledger, self._rounds)
        self._questions = Questions(self._desk, ledger, self._rounds)
        self._dues: Dues[Peer] = Dues()
        self._ahead = Budget(AHEAD_OF_ALL)
        self._standstill: Standstill | None = None
        self._turned = 0.0
        """When all that had come was read: what comes now was said after that."""
        self._late_until = 0.0

    # -- what happens ----------------------------------------------------------------------------

    def receive(self, session: str, envelope: Envelope, now: float) -> None:
        """A message came."""
        number, ack, message = envelope
        peer = self.peers.get(session)
        if message.kind is Kind.HELLO:
            self._hello(session, message, now)
            return
        if peer is None:
            self._reject(session, message)
            return
        peer.heard, peer.said = now, self._turned
        if ack > peer.out.received:
            peer.out.acked(ack, now)
        if not number:
            return
        peer.voice.heard(now, len(message.body or b""))
        self._desk.spoken[session] = peer
        try:
            for ready in peer.inbox.accept(number, message):
                if self.peers.get(session) is peer:
                    self._handle(peer, ready, now)
        except ProtocolError as error:
            self.give_up(session, str(error), now)

    def give_up(self, session: str, why: str, now: float) -> None:
        """A session broke the protocol: it is over, and its end is told why."""
        self.complaints.append(why)
        self.dead(session, "it broke the protocol", now)
        self.refuse(session, f"it broke the protocol: {why}")

    def take_complaints(self) -> list[str]:
        """What was wrong with what peers said since this was last asked, for the log."""
        taken, self.complaints = self.complaints, []
        return taken

    def refuse(self, session: str, why: str) -> None:
        """Whoever calls by that name is not let in."""
        self.refused += 1
        self._desk.send_unnumbered(session, Kind.REFUSED, why)

    def dead(self, session: str, why: str, now: float) -> None:
        """A session's process died, or was silent for too long."""
        peer = self.peers.get(session)
        if peer is not None:
            self._end(peer, why, cleanly=False, now=now)

    def expel(self, session: str, why: str, now: float) -> None:
        """A session is to end, whatever its process thinks; that is told so."""
        self.dead(session, why, now)
        self._desk.send_unnumbered(session, Kind.STRANGER)

    def tick(self, now: float) -> None:
        """Time passed: send again what got lost, give up on the silent.

        If nobody ticked for long, this process stood still, and heard nothing: that is no peer's silence.
        """
        stood = self._standstill.seconds(now, self._lease) if self._standstill else 0.0
        self._standstill = self._standstill or Standstill(now)
        if stood:
            self._rounds.postpone(stood)
            self._late_until = now + self._lease / 2  # ZeroMQ, too, needs a while to bring all
            for peer in self.peers.values():
                peer.heard = min(now, peer.heard + stood)
                peer.out.postpone(stood)
        for peer in [*self._dues.ring(now), *self._desk.spoken.values()]:
            if self.peers.get(peer.session) is not peer:
                continue
            if now - peer.heard >= self._lease:
                self.dead(peer.session, f"{peer.uid} was silent for {self._lease:g} s", now)
                continue
            if peer.out.unheard:
                self.dead(peer.session, f"{peer.uid} did not listen", now)
                continue
            if len(peer.out):
                if broken(peer.out, self._lease, now):
                    self.dead(peer.session, f"{peer.uid} was heard, and got nothing any more", now)
                    continue
                for number, message in peer.out.overdue(now):
                    envelope = Envelope(number, peer.inbox.received, message)
                    self._desk.actions.append(Send(peer.session, envelope))
            self._beat_if_due(peer, now)
        self._rounds.expire(now)

    def lane_opened(self, session: str, ask: int, place: int | str, now: float) -> None:
        """The lane that `OpenLane` asked for is bound at `place`."""
        peer = self.peers.get(session)
        if peer is not None:
            self._desk.answer(peer, ask, place, now)

    def flush(self, now: float) -> list[Action]:
        """Lend, grant, tell: and then everything that is to be done."""
        ledger, supply, demand = self.ledger, self._supply, self._demand
        if ledger.waiting.items or demand.full:
            demand.lend(now)
        if supply.needy:
            supply.grant(now)
        if self._questions.joiners:
            self._questions.settle(now)
        if ledger.newsworthy:
            supply.tell_news(now)
        if supply.newcomers or ledger.shared_tags is not supply.tags:
            supply.tell_tags(now)
        demand.tell_over(now)
        for peer in self._desk.spoken.values():
            if self.peers.get(peer.session) is peer:
                self._beat_if_due(peer, now)
        self._desk.spoken.clear()
        if now >= self._late_until:
            self._turned = now
        actions, self._desk.actions = self._desk.actions, []
        return actions

    def deadline(self, now: float) -> float:
        """When `tick` is wanted next."""
        latest = now + self._lease / 5
        due = self._dues.deadline()
        return min(latest, latest if due is None else due, self._rounds.deadline(latest))

    def counts(self) -> dict[str, int]:
        """The queue in figures."""
        return self._questions.counts() | {"refused": self.refused}

    def _beat_if_due(self, peer: Peer, now: float) -> None:
        """Ack or beat, if that is due, and see to it that the peer is looked at again in time."""
        if now >= peer.voice.when:
            self._desk.send_unnumbered(peer.session, Kind.BEAT, ack=peer.inbox.received)
            peer.voice.spoke(now)
        when = min(peer.heard + self._lease, peer.voice.when, peer.out.when)
        if when < peer.due:
            self._dues.set(peer, when)

    # -- sessions --------------------------------------------------------------------------------

    def _hello(self, session: str, message: Message, now: float) -> None:
        version, uid, _ = message.fields
        if version != VERSION:
            self.refuse(session, refusal(version))
            return
        peer = self.peers.get(session)
        if peer is None:
            earlier = self._desk.peer_of(uid)
            if earlier is not None and stem(earlier.session) != stem(session):
                self.refuse(session, "another end has this name")
                return
            if earlier is None and len(self.peers) >= self._most_peers:
                self.refuse(session, f"there are {len(self.peers)} ends, as many as there may be")
                return
            if earlier is not None:
                self._end(earlier, f"{uid} began anew", cleanly=False, now=now)
            peer = self._begin(session, uid, now)
        producer = self.ledger.producers.get(uid)
        about = {
            **self._about,
            "stored": producer.stored if producer else 0,
            "shut": self._questions.shut,
            "ticket": peer.ticket,
        }
        self._desk.send_unnumbered(session, Kind.WELCOME, session, about)

    def _begin(self, session: str, uid: str, now: float) -> Peer:
        ticket = blake2b(session.encode(), key=self._secret, digest_size=16).hexdigest()
        out: Outgoing[Message] = Outgoing(self._lease / 10)
        self.peers[session] = peer = Peer(session, uid, now, out, Voice(self._lease, now), ticket)
        peer.inbox.allowance = (self._ahead, session)
        self._desk.session_of[uid] = session
        self._beat_if_due(peer, now)
        return peer

    def _reject(self, session: str, message: Message) -> None:
        """Nobody we know, or no more: what it says of its items comes too late."""
        if message.kind is Kind.REPORT:
            *_, done, failed, _unreadable, _returned, answers = message.fields
            self.ledger.late += len(answers) + sum(last - first + 1 for first, last in [*done, *failed])
        self._desk.send_unnumbered(session, Kind.STRANGER)

    def _handle(self, peer: Peer, message: Message, now: float) -> None:
        if message.kind is Kind.PUT:
            self._supply.put(peer, message, now)
            if message.fields[2] is not None:
                self._demand.lend_addressed(message.fields[2], now)
            return
        match message.kind:
            case Kind.REPORT:
                self._demand.report(peer, message, now)
            case Kind.NEED:
                self._supply.need(peer, message, now)
            case Kind.ASK:
                self._supply.tell_news(now)  # whoever is told that so many are done knows which
                self._questions.ask(peer, message, now)
            case Kind.SYNCED:
                number, items, size = message.fields
                if peer.produces:
                    self._supply.take_back(peer, items, size)
                self._rounds.reply(number, peer.session, now)
            case Kind.JOIN:
                self._join(peer, message, now)
            case Kind.BYE:
                self._supply.tell_news(now)
                self._desk.send(peer, Kind.PART, now=now)
                self._end(peer, f"{peer.uid} left", cleanly=True, now=now)
            case _:
                pass  # a word that only a host says

    def _join(self, peer: Peer, message: Message, now: float) -> None:
        produces, consumes, tags, helper = message.fields
        if produces and not peer.produces:
            self._supply.join(peer, now, helper=helper)
        if consumes and not peer.consumes:
            self._demand.join(peer, tags)

    def _end(self, peer: Peer, why: str, *, cleanly: bool, now: float) -> None:
        del self.peers[peer.session]
        peer.inbox.close()
        if self._desk.session_of.get(peer.uid) == peer.session:
            del self._desk.session_of[peer.uid]
        if peer.produces:
            self._supply.end(peer, cleanly=cleanly)
        if peer.consumes:
            self._demand.end(peer, why, cleanly=cleanly)
        self._rounds.excuse(peer.session, now)
        if not any(other.produces or other.consumes for other in self.peers.values()):
            self.ledger.part()
