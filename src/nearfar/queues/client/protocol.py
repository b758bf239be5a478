"""The client's side of the protocol, pure: consecutive sessions, and the state that outlasts them.

::

    NEW --connect--> GREETING --WELCOME--> OPEN --BYE, PART--> CLOSED
                        ^                   |
                        +--silence, STRANGER+   a new session: the missing items are resent"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from functools import partial
from math import inf
from typing import Any

from nearfar.errors import ProtocolError
from nearfar.net.handshake import HandshakeFailures
from nearfar.net.timers import SuspendDetector
from nearfar.net.validation import shown
from nearfar.queues.broker.protocol import BrokerProtocol
from nearfar.queues.client.consumer import Hand, ItemReceiver
from nearfar.queues.client.lines import (
    Action,
    Close,
    ConnectControl,
    ConnectInbox,
    Line,
    LocalLine,
    SendControl,
    SocketLine,
)
from nearfar.queues.client.producer import ItemSender
from nearfar.queues.client.session import BrokerSession, PendingRequests, Roles
from nearfar.queues.messages import VERSION, QueueFrame, QueueMessage, QueueMessageType

GREET_EVERY = 0.25
"""Seconds between two HELLOs."""
DIAL_EVERY = 5.0
"""Seconds without a WELCOME after which a new connection is opened: the present one may be dead."""
GOODBYE = 2.0
"""Seconds that a leaving producer without a session waits for a broker, so that it does not count as lost;
also the seconds of silence after which a client that has sent BYE leaves without an answer."""
IDLE = 3600.0
"""The deadline, in seconds, of a client with nothing to do."""


class ClientState(IntEnum):
    """The state of the client as a whole."""

    NEW = 0
    GREETING = 1
    OPEN = 2
    CLOSED = 3


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
        self.state = ClientState.NEW
        self.refused: str | None = None
        self.barred = ""
        """Why the broker refused this client, or this client the broker."""
        self.session: BrokerSession | None = None
        """The present session, or the last one while a new one is being opened."""
        self.superseded: list[int] = []
        """The threads that took items in earlier sessions and did not settle them."""
        self.sessions = 0
        self.greeting_since = 0.0
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
        self._refusals = HandshakeFailures()
        self._dial_again = False
        self._stem = stem or name
        self._actions: list[Action] = []
        self._greeted = self._dialed = 0.0
        self._due = 0.0
        """When `tick` is due: it is not called for each message sent."""
        self._standstill = SuspendDetector(0.0)

    @property
    def session_name(self) -> str:
        return f"{self._stem}.{self.sessions}"

    @property
    def facts(self) -> dict[str, Any]:
        """The facts about the queue in the broker's WELCOME; empty before the first one."""
        return self.session.facts if self.session else {}

    # -- from the program ------------------------------------------------------------------------

    def connect(self, now: float, broker: BrokerProtocol | None = None) -> None:
        """Begin the first session: with `broker`, if it is in this process."""
        if self.state is not ClientState.NEW:
            return
        self._standstill = SuspendDetector(now)
        if broker is None:
            self._begin_session(now)
        else:
            self.sessions += 1
            line = LocalLine(broker, self.name, self.session_name, now)
            self._open({**line.facts, "shares": False}, line, now)

    def leave(self) -> None:
        """Send BYE once all items are sent. The session goes on until PART arrives."""
        if self.session is not None:
            self.session.receiver.collect()
        if self.state is ClientState.NEW:
            self.abandon()
        elif self.state is not ClientState.CLOSED:
            self.leaving = True
            self._due = 0.0

    def may_go(self, now: float) -> bool:
        """True if the client need not wait for a broker any longer."""
        if self.state is ClientState.OPEN:
            return now >= self._farewell()
        if self.state is not ClientState.GREETING:
            return self.state is ClientState.CLOSED
        missed = bool(self.facts) and self.roles.produces and not self.roles.helper
        return self.sender.handed_over and not (missed and now < self.greeting_since + GOODBYE)

    def _farewell(self) -> float:
        """When the client leaves although the broker, which has all its items, does not answer its BYE."""
        if self.session is None or not self.sender.handed_over:
            return inf
        return max(self._leaving_since, self.session.line.heard) + GOODBYE

    def abandon(self) -> None:
        """Close at once."""
        if self.state is ClientState.OPEN and self.session is not None:
            self.session.line.close()
        self.state = ClientState.CLOSED
        self.sender.bar()
        self.sender.end()
        if self.session is not None:
            self.session.receiver.collect()
            self.session.receiver.rings.close()
        self._actions.append(Close())

    # -- events ----------------------------------------------------------------------------------

    def receive(self, envelope: QueueFrame, now: float) -> None:
        """Process a message."""
        message = envelope.message
        kind = message.kind
        if kind is QueueMessageType.WELCOME:
            self._welcome(message, now)
        elif kind is QueueMessageType.REFUSED:
            self._refuse(message.fields[0])
        elif self.state is not ClientState.OPEN or self.session is None:
            return
        elif kind is QueueMessageType.STRANGER:
            self._begin_session(now)
        else:
            self._handle(self.session, partial(self.session.hear, envelope, now))

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
            elif self.state is ClientState.OPEN:
                self._handle(session, partial(session.handle, message))
        return True

    def turned_away(self, why: str, now: float) -> None:
        """Reconnect after a socket of the present session was rejected; give up if that is repeated."""
        if self.state is ClientState.OPEN:
            self._begin_session(now)
        elif self.state is ClientState.GREETING:
            self._dial_again = True
        else:
            return
        self._refusals.failed(why, now)
        self.barred = self._refusals.believed(now)
        if self.barred:
            self.abandon()

    def begin_again(self, now: float) -> None:
        """Begin a new session: a socket of the present one could not be opened, or its broker, which was in
        this process, has ended."""
        if self.state is ClientState.OPEN:
            self._begin_session(now)

    def tick(self, now: float) -> None:
        """Do what is due. After a long time without a tick the process was suspended: that time does not
        count as silence of the broker."""
        session = self.session
        stood = self._standstill.seconds(now, session.lease if session is not None else IDLE)
        if stood and session is not None:
            session.line.postpone(stood, now)
        if self.state is ClientState.GREETING:
            self._call_again(now)
        elif self.state is ClientState.OPEN and session is not None:
            if self.leaving:
                self._leaving_since = min(self._leaving_since, now)
                if now >= self._farewell():
                    self.abandon()
                    return
            if session.line.broken(now):
                self._begin_session(now)
            else:
                session.tick(now)

    def act(self, now: float) -> list[Action]:
        """Do what is due, and return all actions to perform."""
        if now >= self._due:
            self.tick(now)
        return self.flush(now)

    def flush(self, now: float) -> list[Action]:
        """All actions to perform."""
        actions = self._actions
        if actions:
            self._actions = []
        if self.state is ClientState.OPEN and self.session is not None:
            more = self.session.flush(now, leaving=self.leaving)
            return actions + more if actions else more
        return actions

    def deadline(self, now: float) -> float:
        """When to call `act` next."""
        session = self.session
        if self.state is ClientState.OPEN and session is not None:
            when = session.deadline()
            if self.leaving:
                when = min(when, self._farewell())
            self._due = min(when, now + session.lease / 10)
            return when
        self._due = 0.0
        return self._greeted + GREET_EVERY if self.state is ClientState.GREETING else now + IDLE

    # -- sessions --------------------------------------------------------------------------------

    def _begin_session(self, now: float) -> None:
        if self.state is not ClientState.GREETING:
            self.greeting_since = now
        self.state = ClientState.GREETING
        if self.session is not None:
            self.session.receiver.give_back()  # the broker lends these items to others now
        self.sessions += 1
        self._dial(now)
        self._greet(now)

    def _call_again(self, now: float) -> None:
        if self.leaving and self.may_go(now):
            self.abandon()
        elif now - self._greeted >= GREET_EVERY:
            if now - self._dialed >= DIAL_EVERY:
                self._dial(now)
            self._greet(now)

    def _dial(self, now: float) -> None:
        self._dialed = now
        self._actions.append(ConnectControl(self.session_name))

    def _greet(self, now: float) -> None:
        self._greeted = now
        if self._dial_again:
            self._dial_again = False
            self._actions.append(ConnectControl(self.session_name))
        about = {**self._about, "epoch": self.facts["epoch"]} if self.facts else self._about
        hello = QueueMessage(QueueMessageType.HELLO, (VERSION, self.name, about))
        self._actions.append(SendControl(QueueFrame(0, 0, hello)))

    def _handle(self, session: BrokerSession, handle: Callable[[], None]) -> None:
        try:
            handle()
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
        if self.state is not ClientState.GREETING or name != self.session_name:
            return
        self._refusals.succeeded()
        machine = facts.get("machine", "")
        facts = {**facts, "shares": bool(machine) and machine == self._about.get("shares")}
        self._open(facts, SocketLine(float(facts["lease"]), now), now)
        self._actions.append(ConnectInbox(facts["inbox"], facts["ticket"]))

    def _open(self, facts: dict[str, Any], line: Line, now: float) -> None:
        """Begin a session in which messages travel on `line`."""
        self.state = ClientState.OPEN
        facts = {**facts, "trusted": facts["trusted"] and self._trusts}
        self.receiver = receiver = ItemReceiver(
            trusted=facts["trusted"], hand=self.hand, session=self.sessions
        )
        if self.session is not None:
            receiver.waiters = self.session.receiver.waiters
            self.session.receiver.rings.close()
            self.superseded += self.session.receiver.hands.values()
            superseded = self.session.receiver.untold()
            if superseded and facts["epoch"] == self.facts["epoch"]:
                self.asks.add(QueueMessageType.ASK, "late", superseded)
        self.session = BrokerSession(facts, self.sender, self.asks, self.roles, receiver, line, now)
