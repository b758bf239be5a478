"""The host's side of the protocol as a pure machine: messages go in, actions come out.

The ledger knows the items; this knows the sessions. `receive`, `dead`, `tick` and `lane_opened` take what
happened and the time (seconds, any monotonic clock); `flush` gives everything that is to be done about it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nearfar.net.line import Outgoing
from nearfar.queues.host.ledger import Ledger, News, Outcome, State
from nearfar.queues.host.peers import Action, CloseLane, OpenLane, Peer, Send
from nearfar.queues.host.rounds import Rounds
from nearfar.queues.wire import VERSION, Envelope, Kind, Message

NEWS_PER_MESSAGE = 1000


class HostMachine:
    """`about` is what WELCOME tells of the queue; `lease` is in seconds."""

    def __init__(self, ledger: Ledger, about: dict[str, Any], *, lease: float) -> None:
        self.ledger = ledger
        self.peers: dict[str, Peer] = {}
        self._about = about
        self._lease = lease
        self._session_of: dict[str, str] = {}
        self._actions: list[Action] = []
        self._touched: dict[str, None] = {}
        self._hungry: dict[str, None] = {}
        self._needy: dict[str, None] = {}
        self._joiners: list[tuple[str, int]] = []
        self._rounds = Rounds()
        self._drop_all = False

    # -- what happens ----------------------------------------------------------------------------

    def receive(self, session: str, envelope: Envelope, now: float) -> None:
        """A message came."""
        number, ack, message = envelope
        if message.kind is Kind.HELLO:
            self._hello(session, message, now)
            return
        peer = self.peers.get(session)
        if peer is None:
            self._unnumbered(session, Message(Kind.STRANGER))
            return
        peer.heard = now
        peer.out.acked(ack, now)
        peer.owes_ack = True
        self._touched[session] = None
        if number:
            for ready in peer.inbox.accept(number, message):
                if self.peers.get(session) is peer:
                    _HANDLERS[ready.kind](self, peer, ready, now)

    def dead(self, session: str, why: str, now: float) -> None:
        """A session's process died, or was silent for too long."""
        peer = self.peers.get(session)
        if peer is not None:
            self._end(peer, why, cleanly=False, now=now)

    def tick(self, now: float) -> None:
        """Time passed: send again what got lost, give up on the silent."""
        for peer in list(self.peers.values()):
            if now - peer.heard >= self._lease:
                self.dead(peer.session, f"{peer.uid} was silent for {self._lease:g} s", now)
                continue
            for number, message in peer.out.overdue(now):
                self._actions.append(Send(peer.session, Envelope(number, peer.inbox.received, message)))
        self._rounds.expire(now)

    def lane_opened(self, session: str, ask: int, place: int | str, now: float) -> None:
        """The lane that `OpenLane` asked for is bound at `place`."""
        peer = self.peers.get(session)
        if peer is not None:
            self._send(peer, Message(Kind.ANSWER, (ask, place)), now)

    def flush(self, now: float) -> list[Action]:
        """Lend, grant, tell: and then everything that is to be done."""
        if self._drop_all:
            self.ledger.close(immediate=True)
        self._lend_waiting(now)
        self._grant_room(now)
        self._tell_news(now)
        self._tell_over(now)
        if self._joiners and self.ledger.unsettled == 0:
            joiners, self._joiners = self._joiners, []
            for session, ask in joiners:
                self._answer(session, ask, None, now)
        for session in self._touched:
            peer = self.peers.get(session)
            if peer is not None and peer.owes_ack:
                self._unnumbered(session, Message(Kind.BEAT), peer.inbox.received)
                peer.owes_ack = False
        self._touched.clear()
        actions, self._actions = self._actions, []
        return actions

    def deadline(self, now: float) -> float:
        """When `tick` is wanted next."""
        patience = min((p.out.deadline() or now + self._lease / 5 for p in self.peers.values()), default=now + 1)
        return min(patience, self._rounds.deadline(now + self._lease / 5))

    # -- sessions --------------------------------------------------------------------------------

    def _hello(self, session: str, message: Message, now: float) -> None:
        version, uid, _ = message.fields
        if version != VERSION:
            why = f"the host speaks version {VERSION} of the protocol, this end version {version}"
            self._unnumbered(session, Message(Kind.REFUSED, (why,)))
            return
        if session not in self.peers:
            earlier = self.peers.get(self._session_of.get(uid, ""))
            if earlier is not None:
                self._end(earlier, f"{uid} began anew", cleanly=False, now=now)
            self.peers[session] = Peer(session, uid, now, Outgoing(self._lease / 10))
            self._session_of[uid] = session
        producer = self.ledger.producers.get(uid)
        about = {**self._about, "stored": producer.stored if producer else 0, "shut": self.ledger.shut}
        self._unnumbered(session, Message(Kind.WELCOME, (session, about)))

    def _end(self, peer: Peer, why: str, *, cleanly: bool, now: float) -> None:
        del self.peers[peer.session]
        if self._session_of.get(peer.uid) == peer.session:
            del self._session_of[peer.uid]
        self._hungry.pop(peer.session, None)
        self._needy.pop(peer.session, None)
        if peer.produces:
            self._take_back_news(peer)
            self.ledger.leave(peer.uid, State.GONE if cleanly else State.LOST)
        if peer.consumes:
            self.ledger.dismiss(peer.session, why, cleanly=cleanly)
            self._actions.append(CloseLane(peer.session))
        self._rounds.excuse(peer.session, now)

    def _take_back_news(self, peer: Peer) -> None:
        """What a lost session may not have heard is told again if its producer returns."""
        told = [m for _, m in peer.out.unacked() if m.kind is Kind.SETTLED]
        news = [News(f, c, Outcome(o), answer) for m in told for f, c, o, answer in m.fields[0]]
        self.ledger.producers[peer.uid].news[:0] = news

    def _join(self, peer: Peer, message: Message, now: float) -> None:
        produces, consumes, tags = message.fields
        if produces and not peer.produces:
            peer.produces = True
            if self.ledger.enter(peer.uid).news:
                self.ledger.newsworthy.add(peer.uid)
        if consumes and not peer.consumes:
            peer.consumes = True
            self.ledger.admit(peer.session, frozenset(tags))

    def _bye(self, peer: Peer, message: Message, now: float) -> None:
        if peer.produces:
            self._tell_news(now)
        self._send(peer, Message(Kind.PART), now)
        self._end(peer, f"{peer.uid} left", cleanly=True, now=now)

    # -- producers -------------------------------------------------------------------------------

    def _put(self, peer: Peer, message: Message, now: float) -> None:
        if not peer.produces:
            return
        first, count, to = message.fields
        body = message.body or b""
        self.ledger.store(peer.uid, first, count, body, to)
        if to is not None:
            for session in self.ledger.bearers.get(to, ()):
                self._lend(session, now)

    def _need(self, peer: Peer, message: Message, now: float) -> None:
        if not peer.produces:
            return
        items, size, ask = message.fields
        peer.needs = (items, size)
        self._needy[peer.session] = None
        self._grant_room(now)
        if not ask:
            return
        if any(peer.unmet):
            self._start_round(peer, lambda later: self._answer_need(peer, ask, later), now, recall=True)
        else:
            self._answer_need(peer, ask, now)

    def _answer_need(self, peer: Peer, ask: int, now: float) -> None:
        self._grant_room(now)
        granted = not any(peer.unmet)
        if not granted:
            peer.needs = peer.granted
        self._answer(peer.session, ask, granted, now)

    def _grant_room(self, now: float) -> None:
        """Grant in turn: a share of the items, or (where bytes are bounded) all that was asked or nothing."""
        for session in list(self._needy):
            peer = self.peers[session]
            items, size = peer.unmet
            free, free_bytes = self.ledger.room()
            if self.ledger.maxsize:
                share = max(1, free // len(self._needy)) if not self.ledger.maxbytes else items
                items = min(items, share) if free >= min(items, share) else 0
            if self.ledger.maxbytes and size > free_bytes:
                items = 0
            if items:
                size = size if self.ledger.maxbytes else 0
                self.ledger.grant(peer.uid, items, size)
                peer.granted = (peer.granted[0] + items, peer.granted[1] + size)
                self._send(peer, Message(Kind.ROOM, (items, size)), now)
            if not peer.unmet[0]:
                del self._needy[session]

    def _tell_news(self, now: float) -> None:
        for uid in self.ledger.newsworthy:
            peer = self.peers.get(self._session_of.get(uid, ""))
            if peer is None or not peer.produces:
                continue
            news = self.ledger.producers[uid].news
            while news:
                part, news[:NEWS_PER_MESSAGE] = news[:NEWS_PER_MESSAGE], []
                rows = [[n.first, n.count, int(n.outcome), n.answer] for n in part]
                self._send(peer, Message(Kind.SETTLED, (rows,)), now)
        self.ledger.newsworthy.clear()

    # -- consumers -------------------------------------------------------------------------------

    def _report(self, peer: Peer, message: Message, now: float) -> None:
        if not peer.consumes:
            return
        items, size, ask, taken, done, failed, returned, answers = message.fields
        session = peer.session
        consumer = self.ledger.consumers[session]
        self.ledger.took(session, taken)
        for position, answer in answers:
            self.ledger.settle(session, position, position, answer)
        for first, last in done:
            self.ledger.settle(session, first, last)
        for first, last in failed:
            self.ledger.fail(session, first, last, f"{peer.uid} gave it up")
        for first, last in returned:
            self.ledger.give_back(session, first, last)
        consumer.window_items, consumer.window_bytes = items, size
        before = consumer.leases.last
        lent = self._lend(session, now)
        if ask and lent:
            self._answer_want(peer, before, ask, now)
        elif ask:
            self._start_round(peer, lambda later: self._answer_want(peer, before, ask, later), now, recall=True)

    def _answer_want(self, peer: Peer, before: int, ask: int, now: float) -> None:
        self._lend(peer.session, now)
        lent = self.ledger.consumers[peer.session].leases.last > before
        self._answer(peer.session, ask, lent, now)

    def _lend(self, session: str, now: float) -> bool:
        """Lend to one consumer what waits for it, up to its window; tells whether anything was."""
        peer = self.peers[session]
        lent = False
        while (loan := self.ledger.lend(session)) is not None:
            position, run = loan
            fields = (position, run.count, run.attempt)
            self._send(peer, Message(Kind.LEND, fields, run.body), now)
            lent = True
        if self.ledger.consumers[session].hungry:
            self._hungry[session] = None
        else:
            self._hungry.pop(session, None)
        return lent

    def _lend_waiting(self, now: float) -> None:
        """Lend what waits for anyone, one run to a consumer in turn."""
        while self._hungry and self.ledger.anything_for_anyone():
            session = next(iter(self._hungry))
            del self._hungry[session]
            loan = self.ledger.lend(session)
            if loan is not None:
                position, run = loan
                fields = (position, run.count, run.attempt)
                self._send(self.peers[session], Message(Kind.LEND, fields, run.body), now)
            if self.ledger.consumers[session].hungry:
                self._hungry[session] = None

    def _tell_over(self, now: float) -> None:
        finished = self.ledger.finished()
        for session in self.ledger.consumers:
            peer = self.peers[session]
            over = finished and self.ledger.over(session)
            if over is not peer.told_over:
                peer.told_over = over
                self._send(peer, Message(Kind.OVER, (over, list(self.ledger.lost))), now)

    # -- questions -------------------------------------------------------------------------------

    def _ask(self, peer: Peer, message: Message, now: float) -> None:
        ask, what, argument = message.fields
        session = peer.session
        match what:
            case "lane":
                self._actions.append(OpenLane(session, ask))
            case "size":
                self._start_round(peer, lambda t: self._answer(session, ask, self.ledger.size, t), now)
            case "join":
                self._start_round(peer, lambda _: self._joiners.append((session, ask)), now)
            case "dead letters":
                letters = [[d.count, d.body, d.producer, d.attempts, d.history] for d in self.ledger.dead]
                self._answer(session, ask, letters[-NEWS_PER_MESSAGE:], now)
            case "tags":
                self._answer(session, ask, sorted(self.ledger.bearers), now)
            case "counts":
                self._answer(session, ask, self.counts(), now)
            case "shutdown":
                self._shut_down(peer, ask, argument is True, now)
            case _:
                self._answer(session, ask, None, now)

    def counts(self) -> dict[str, int]:
        """The whole of the ledger in figures."""
        ledger = self.ledger
        names = ("stored", "settled", "died", "dropped", "undeliverable", "late", "unsettled", "size", "waiting")
        return {name: getattr(ledger, name) for name in names} | {
            "bytes": ledger.bytes,
            "ends": len(self.peers),
            "producers": sum(peer.produces for peer in self.peers.values()),
            "consumers": len(ledger.consumers),
            "lost": len(ledger.lost),
        }

    def _shut_down(self, peer: Peer, ask: int, immediate: bool, now: float) -> None:
        self.ledger.shut = True
        for other in self.peers.values():
            self._send(other, Message(Kind.SHUT, (immediate,)), now)

        def answer(later: float) -> None:
            self._drop_all = self._drop_all or immediate
            self._answer(peer.session, ask, None, later)

        self._start_round(peer, answer, now)

    def _synced(self, peer: Peer, message: Message, now: float) -> None:
        number, items, size = message.fields
        if peer.produces:
            granted = self.ledger.producers[peer.uid].granted
            items, size = min(items, granted[0]), min(size, granted[1])
            self.ledger.grant(peer.uid, -items, -size)
            peer.granted = (peer.granted[0] - items, peer.granted[1] - size)
        self._rounds.reply(number, peer.session, now)

    def _start_round(
        self, peer: Peer, then: Callable[[float], None], now: float, *, recall: bool = False
    ) -> None:
        """Ask every other end for all it knows, then do `then`, unless the asker is gone by that time."""
        others = [p for p in self.peers.values() if p is not peer and (p.produces or p.consumes)]

        def unless_gone(later: float) -> None:
            if self.peers.get(peer.session) is peer:
                then(later)

        number = self._rounds.start({p.session for p in others}, unless_gone, now)
        for other in others:
            self._send(other, Message(Kind.SYNC, (number, recall)), now)

    # -- sending ---------------------------------------------------------------------------------

    def _answer(self, session: str, ask: int, value: Any, now: float) -> None:
        peer = self.peers.get(session)
        if peer is not None:
            self._send(peer, Message(Kind.ANSWER, (ask, value)), now)

    def _send(self, peer: Peer, message: Message, now: float) -> None:
        number = peer.out.send(message, now)
        self._actions.append(Send(peer.session, Envelope(number, peer.inbox.received, message)))
        peer.owes_ack = False

    def _unnumbered(self, session: str, message: Message, ack: int = 0) -> None:
        self._actions.append(Send(session, Envelope(0, ack, message)))


def _ignore(machine: HostMachine, peer: Peer, message: Message, now: float) -> None:
    """A word that only a host says."""


_HANDLERS: dict[Kind, Callable[[HostMachine, Peer, Message, float], None]] = dict.fromkeys(Kind, _ignore) | {
    Kind.JOIN: HostMachine._join,
    Kind.PUT: HostMachine._put,
    Kind.NEED: HostMachine._need,
    Kind.REPORT: HostMachine._report,
    Kind.ASK: HostMachine._ask,
    Kind.SYNCED: HostMachine._synced,
    Kind.BYE: HostMachine._bye,
}
