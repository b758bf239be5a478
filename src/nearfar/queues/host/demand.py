"""The host's side towards consumers: items out, what they say of them, and the end."""

from __future__ import annotations

from nearfar.errors import ProtocolError
from nearfar.queues.host.desk import Desk
from nearfar.queues.host.ledger import Ledger
from nearfar.queues.host.peers import CloseLane, Peer
from nearfar.queues.host.rounds import Rounds
from nearfar.queues.host.runs import Run
from nearfar.queues.wire import Kind, Message

MOST_NAMES = 1000
"""Names that one message tells, of lost producers or of who can be addressed: so it fits into a frame."""


class Demand:
    """Lends in turn, so that a run is spread over those who wait."""

    def __init__(self, desk: Desk, ledger: Ledger, rounds: Rounds) -> None:
        self._desk = desk
        self._ledger = ledger
        self._rounds = rounds
        self._hungry: dict[str, None] = {}
        self.full: set[str] = set()
        """Those who want something, and have as many bytes unsettled as they may."""
        self._joined = self._failures = 0
        self._told_at: tuple[object, ...] = ()
        """What was so when consumers were last told whether all is over."""

    def join(self, peer: Peer, tags: list[str]) -> None:
        """A session begins to get. Raises `ProtocolError` where there are too many names already."""
        if len(self._ledger.shared_tags) + len(tags) > MOST_NAMES:
            raise ProtocolError(f"{peer.uid} wants more names than there may be: {MOST_NAMES} in all")
        peer.consumes = True
        self._joined += 1
        self._ledger.admit(peer.session, frozenset(tags))

    def end(self, peer: Peer, why: str, *, cleanly: bool) -> None:
        """A session ends."""
        self._hungry.pop(peer.session, None)
        self.full.discard(peer.session)
        self._ledger.dismiss(peer.session, why, cleanly=cleanly)
        self._desk.actions.append(CloseLane(peer.session))

    def report(self, peer: Peer, message: Message, now: float) -> None:
        if not peer.consumes:
            return
        items, size, ask, taken, done, failed, unreadable, returned, answers = message.fields
        session = peer.session
        leases = self._ledger.consumers[session].leases
        for _, last in (*done, *failed, *unreadable, *returned, *([at, at] for at, _ in answers)):
            if last > leases.last:
                raise ProtocolError(f"{peer.uid} reports on item {last} of {leases.last} that it was lent")
        self._ledger.took(session, taken)
        for position, answer in answers:
            self._ledger.settle(session, position, position, answer)
        for first, last in done:
            self._ledger.settle(session, first, last)
        for first, last in failed:
            self._ledger.fail(session, first, last, f"{peer.uid} gave it up")
            self._failures += 1
            peer.told_over = False  # it took back its belief in the end by itself
        for first, last in unreadable:
            self._ledger.bury(session, first, last, f"{peer.uid} could not read it")
        for first, last in returned:
            self._ledger.give_back(session, first, last)
        consumer = self._ledger.consumers[session]
        consumer.window_items, consumer.window_bytes = items, size
        before = consumer.leases.last
        lent = self._lend_to(session, now)
        if ask and lent:
            self._answer(peer, before, ask, now)
        elif ask:
            self._rounds.start(peer, lambda later: self._answer(peer, before, ask, later), now, recall=True)

    def lend_addressed(self, to: str, now: float) -> None:
        """An item came for those who are called `to`."""
        for session in self._ledger.bearers.get(to, ()):
            self._lend_to(session, now)

    def lend(self, now: float) -> None:
        """Lend what waits for anyone, one run to a consumer in turn."""
        for session in list(self.full):
            self._queue_up(session)
        while self._hungry and self._ledger.waiting.items:
            session = next(iter(self._hungry))
            loan = self._ledger.lend(session)
            if loan is not None:
                self._send(session, *loan, now)
            self._queue_up(session)

    def tell_over(self, now: float) -> None:
        """Tell consumers when nothing more will come for them, and when that turns out wrong."""
        ledger = self._ledger
        finished = ledger.shut or (not ledger.attendance.here and ledger.attendance.over())
        open_ = ledger.unsettled if finished and not ledger.size else -1  # else it is over for nobody
        at = (open_, self._joined, self._failures)
        if at == self._told_at:
            return
        self._told_at = at
        for session in ledger.consumers:
            peer = self._desk.peers[session]
            over = finished and self._ledger.over(session)
            if over is not peer.told_over:
                peer.told_over = over
                self._desk.send(peer, Kind.OVER, over, self._ledger.lost[:MOST_NAMES], now=now)

    def _lend_to(self, session: str, now: float) -> bool:
        """Lend to one consumer what waits for it, up to its window; tells whether anything was."""
        lent = False
        while (loan := self._ledger.lend(session)) is not None:
            self._send(session, *loan, now)
            lent = True
        self._queue_up(session)
        return lent

    def _send(self, session: str, position: int, run: Run, now: float) -> None:
        peer = self._desk.peers[session]
        self._desk.send(peer, Kind.LEND, position, run.count, run.attempt, body=run.body, now=now)

    def _queue_up(self, session: str) -> None:
        """At the end of the line, if it still wants something."""
        self._hungry.pop(session, None)
        self.full.discard(session)
        if not self._ledger.consumers[session].hungry:
            return
        if self._ledger.has_its_fill(session):
            self.full.add(session)
        else:
            self._hungry[session] = None

    def _answer(self, peer: Peer, before: int, ask: int, now: float) -> None:
        self._lend_to(peer.session, now)
        lent = self._ledger.consumers[peer.session].leases.last > before
        self._desk.answer(peer, ask, lent, now)
