"""The client's side of the protocol, pure: consecutive sessions, and the state that outlasts them.

The sessions are those of `nearfar.net.session`. In each new one the missing items are sent again. A client in
the broker's own process has no sockets: its one session is open from the beginning, and goes by calls."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

from nearfar.errors import ProtocolError
from nearfar.net.session import ClientSession, SessionStage
from nearfar.net.validation import shown
from nearfar.queues.broker.protocol import BrokerProtocol
from nearfar.queues.client.consumer import ItemReceiver
from nearfar.queues.client.deliveries import Hand
from nearfar.queues.client.producer import ItemSender
from nearfar.queues.client.session import (
    HANDLERS,
    Action,
    BrokerSession,
    Close,
    ConnectInbox,
    LocalLine,
    PendingRequests,
    Roles,
)
from nearfar.queues.messages import (
    VERSION,
    QueueChannel,
    QueueFrame,
    QueueMessage,
    QueueMessageType,
    open_channel,
)

GOODBYE = 2.0
"""Seconds that a leaving producer without a session waits for a broker, so that it does not count as lost;
also the seconds of silence after which a client that has sent BYE leaves without an answer."""

_OPEN = SessionStage.OPEN  # looked up once: it is compared in every step


class ClientProtocol:
    """`name` is new for every client; `about` describes the process to the broker; `tags` are those of its
    consumer.

    `stem` begins the names of its sessions (`nearfar.net.process.new_session_stem`). `trusts`: whether this
    client reads and sends pickles, if the broker allows that.
    """

    def __init__(
        self,
        name: str,
        about: dict[str, Any],
        tags: tuple[str, ...] = (),
        *,
        helper: bool = False,
        stem: str = "",
        trusts: bool = True,
    ) -> None:
        self.name = name
        self.calling = ClientSession(stem or name, _hello(name, about), open_channel, inf, self._renew)
        """The session with the broker; its `stage` is also this client's. Who waits for it also decides how
        long: it is never `lost`."""
        self.refused: str | None = None
        self.session: BrokerSession | None = None
        """What is done in the present session, or in the last one while a new one is being opened."""
        self.superseded: list[int] = []
        """The threads that took items in earlier sessions and did not settle them."""
        self.sender = ItemSender()
        self.hand = Hand()
        self.receiver = ItemReceiver(hand=self.hand)
        """The present session's receiver; before the first WELCOME it is unused."""
        self.asks = PendingRequests()
        self.roles = Roles(tags, helper=helper)
        self.leaving = False
        self._leaving_since = inf
        self._about = about
        self._trusts = trusts
        self._due = 0.0
        """When `tick` is due: it is not called for each message sent."""

    @property
    def session_name(self) -> str:
        return self.calling.session_name

    @property
    def barred(self) -> str:
        """Why the broker and this client do not accept each other, once that is certain."""
        return self.calling.barred

    @property
    def facts(self) -> dict[str, Any]:
        """The facts about the queue in the broker's WELCOME; empty before the first one."""
        return self.session.facts if self.session else {}

    # -- from the program ------------------------------------------------------------------------

    def connect(self, now: float, broker: BrokerProtocol | None = None) -> None:
        """Begin the first session: with `broker`, if it is in this process."""
        calling = self.calling
        if calling.stage is not SessionStage.NEW:
            return
        if broker is None:
            calling.begin(now)
        else:
            calling.begin_local()
            line = LocalLine(broker, self.name, calling.session_name, now)
            self._open({**line.facts, "shares": False}, line, now)

    def leave(self) -> None:
        """Send BYE once all items are sent. The session goes on until PART arrives."""
        if self.session is not None:
            self.session.receiver.collect()
        if self.calling.stage is SessionStage.NEW:
            self.abandon()
        elif self.calling.stage is not SessionStage.CLOSED:
            self.leaving = True
            self._due = 0.0

    def may_go(self, now: float) -> bool:
        """True if the client need not wait for a broker any longer."""
        stage = self.calling.stage
        if stage is _OPEN:
            return now >= self._farewell()
        if stage is not SessionStage.GREETING:
            return stage is SessionStage.CLOSED
        missed = bool(self.facts) and self.roles.produces and not self.roles.helper
        return self.sender.handed_over and not (missed and now < self.calling.away_since + GOODBYE)

    def _farewell(self) -> float:
        """When the client leaves although the broker, which has all its items, does not answer its BYE."""
        if self.calling.talk is None or not self.sender.handed_over:
            return inf
        return self.calling.silent_since(self._leaving_since) + GOODBYE

    def abandon(self) -> None:
        """Close at once."""
        session = self.session
        if session is not None:
            if self.calling.stage is _OPEN and isinstance(session.line, LocalLine):
                session.line.close()
            session.receiver.collect()
            session.receiver.rings.close()
        self.calling.stage = SessionStage.CLOSED
        self.sender.bar()
        self.sender.end()
        self.calling.add(Close())

    # -- events ----------------------------------------------------------------------------------

    def receive(self, envelope: QueueFrame, now: float) -> None:
        """Process a message."""
        kind = envelope.message.kind
        session, channel = self.session, self.calling.talk
        if kind is QueueMessageType.WELCOME:
            self._welcome(envelope.message, now)
        elif kind is QueueMessageType.REFUSED:
            self._refuse(envelope.message.fields[0])
        elif session is None or channel is None or self.calling.stage is not _OPEN:
            return
        elif kind is QueueMessageType.STRANGER:
            self.calling.begin(now)
        else:
            received = channel.out.received
            ready = channel.hear(envelope, now)
            if channel.out.received > received:
                self.sender.acked(channel.out.received)
            self._handle(session, ready)

    def receive_local(self, now: float) -> bool:
        """Process what the broker in this process has sent; returns whether there was anything."""
        session = self.session
        line = session.line if session is not None else None
        if session is None or not isinstance(line, LocalLine) or not line.came:
            return False
        while line.came:
            message = line.came.popleft()
            if message.kind is QueueMessageType.REFUSED:
                self._refuse(message.fields[0])
            elif self.calling.stage is _OPEN:
                self._handle(session, (message,))
        return True

    def turned_away(self, why: str, now: float) -> None:
        """Reconnect after a socket of the present session was rejected; give up if that is repeated."""
        self.calling.turned_away(why, now)
        if self.calling.barred:
            self.abandon()

    def begin_again(self, now: float) -> None:
        """Begin a new session: a socket of the present one could not be opened, or its broker, which was in
        this process, has ended."""
        if self.calling.stage is _OPEN:
            self.calling.begin(now)

    def tick(self, now: float) -> None:
        """Do what is due."""
        calling = self.calling
        if self.leaving:
            if calling.stage is _OPEN:
                self._leaving_since = min(self._leaving_since, now)
            if self.may_go(now):
                self.abandon()
                return
        calling.tick(now)
        if calling.stage is _OPEN and self.session is not None:
            self.session.tick(now)

    def act(self, now: float) -> list[Action]:
        """Do what is due, and return all actions to perform."""
        if now >= self._due:
            self.tick(now)
        return self.flush(now)

    def quiet(self, now: float) -> bool:
        """Whether `act` has nothing to do or to send now."""
        session = self.session
        if now >= self._due or self.leaving or session is None or self.calling.stage is not _OPEN:
            return False
        return session.quiet(now)

    def flush(self, now: float) -> list[Action]:
        """All actions to perform."""
        if self.calling.stage is _OPEN and self.session is not None:
            self.session.flush(now, leaving=self.leaving)
        return self.calling.flush(now)

    def deadline(self, now: float) -> float:
        """When to call `act` next."""
        when = self.calling.deadline(now)
        if self.calling.stage is _OPEN and self.session is not None:
            when = min(when, self.receiver.due_at(pauses=not self.session.fence))
            if self.leaving:
                when = min(when, self._farewell())
            self._due = min(when, now + self.session.lease / 10)
        else:
            self._due = 0.0
        return when

    # -- sessions --------------------------------------------------------------------------------

    def _renew(self) -> None:
        """The session has ended, and another begins: the broker lends its items to others now."""
        if self.session is not None:
            self.session.receiver.give_back()

    def _handle(self, session: BrokerSession, ready: Sequence[QueueMessage]) -> None:
        """Process messages that are next in order."""
        try:
            for message in ready:
                HANDLERS[message.kind](session, message)
        except ProtocolError as error:
            self._refuse(f"its host broke the protocol: {error}")
            return
        if session.parted and self.leaving:
            self.abandon()

    def _refuse(self, why: str) -> None:
        self.refused = shown(why)
        self.abandon()

    def _welcome(self, message: QueueMessage, now: float) -> None:
        name, facts = message.fields
        if not self.calling.welcome(name, float(facts["lease"]), now) or self.calling.talk is None:
            return
        machine = facts.get("machine", "")
        facts = {**facts, "shares": bool(machine) and machine == self._about.get("shares")}
        self._open(facts, self.calling.talk, now)
        self.calling.add(ConnectInbox(facts["inbox"], facts["ticket"]))

    def _open(self, facts: dict[str, Any], line: QueueChannel | LocalLine, now: float) -> None:
        """Begin a session in which messages travel on `line`."""
        facts = {**facts, "trusted": facts["trusted"] and self._trusts}
        self.receiver = receiver = ItemReceiver(
            trusted=facts["trusted"], hand=self.hand, session=self.calling.number, told_at=now
        )
        receiver.bound(facts["maxsize"], facts["maxbytes"])
        if self.session is not None:
            receiver.waiters = self.session.receiver.waiters
            self.session.receiver.rings.close()
            self.superseded += self.session.receiver.hands.holders()
            superseded = self.session.receiver.untold()
            if superseded and facts["epoch"] == self.facts["epoch"]:
                self.asks.add(QueueMessageType.ASK, "late", superseded)
        self.session = BrokerSession(
            facts, self.sender, self.asks, self.roles, receiver, line, self.calling.add, now
        )
        self.calling.hello = _hello(self.name, {**self._about, "epoch": facts["epoch"]})


def _hello(name: str, about: dict[str, Any]) -> QueueMessage:
    return QueueMessage(QueueMessageType.HELLO, (VERSION, name, about))
