"""An end's side of the protocol as a pure machine: one session after another, and what outlasts them.

::

    NEW --connect--> GREETING --WELCOME--> OPEN --BYE, PART--> CLOSED
                        ^                   |
                        +--silence, STRANGER+   a new session: what the host lacks is sent again
"""

from __future__ import annotations

from enum import IntEnum
from math import inf
from typing import Any

from nearfar.errors import ProtocolError
from nearfar.net.complaints import shown
from nearfar.net.refusals import Refusals
from nearfar.net.standstill import Standstill
from nearfar.queues.ends.actions import Action, Close, Connect, ConnectInbox, Send
from nearfar.queues.ends.asks import Asks
from nearfar.queues.ends.loans import Hand
from nearfar.queues.ends.receiver import Receiver
from nearfar.queues.ends.sender import Sender
from nearfar.queues.ends.session import Roles, Session
from nearfar.queues.wire import VERSION, Envelope, Kind, Message

GREET_EVERY = 0.25
"""Seconds between two HELLOs."""
DIAL_EVERY = 5.0
"""Seconds without a welcome after which another connection is tried: this one may be dead."""
GOODBYE = 2.0
"""Seconds that a producer without a session waits for a host to say goodbye to: it may be taken for lost; and
of silence, after which one that has said goodbye goes without an answer."""
IDLE = 3600.0
"""Seconds until a machine with nothing to do wants to be asked again."""


class State(IntEnum):
    """Of the end as a whole."""

    NEW = 0
    GREETING = 1
    OPEN = 2
    CLOSED = 3


class EndMachine:
    """`name` is new for every end; `about` tells the host of the process; `tags` are its consumer's.

    `stem` is what the names of its sessions begin with (`nearfar.net.here.new_session_stem`). `trusts`:
    whether this end reads pickles of its peers, and sends them, if the host allows it.
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
        self.state = State.NEW
        self.refused: str | None = None
        self.barred = ""
        """Why host and end do not let each other in."""
        self.session: Session | None = None
        """The present one, or the last while a new one is sought."""
        self.superseded: list[int] = []
        """The threads that took items in earlier sessions and have not said that they are done."""
        self.sessions = 0
        self.greeting_since = 0.0
        self.sender = Sender()
        self.hand = Hand()
        self.receiver = Receiver(hand=self.hand)
        """The present session's; before the first welcome nothing comes."""
        self.asks = Asks()
        self.roles = Roles(tags, helper=helper)
        self.leaving = False
        self._leaving_since = inf
        self._about = about
        self._trusts = trusts
        self._refusals = Refusals()
        self._dial_again = False
        self._stem = stem or name
        self._actions: list[Action] = []
        self._greeted = self._dialed = 0.0
        self._standstill = Standstill(0.0)

    @property
    def session_name(self) -> str:
        return f"{self._stem}.{self.sessions}"

    @property
    def facts(self) -> dict[str, Any]:
        """What the host told about the queue; empty before its first welcome."""
        return self.session.facts if self.session else {}

    # -- from the program ------------------------------------------------------------------------

    def connect(self, now: float) -> None:
        """Begin the first session."""
        if self.state is State.NEW:
            self._standstill = Standstill(now)
            self._begin_session(now)

    def leave(self) -> None:
        """Say goodbye once all that was put is sent. Until PART comes, the session goes on."""
        if self.session is not None:
            self.session.receiver.collect()
        if self.state is State.NEW:
            self.abandon()
        elif self.state is not State.CLOSED:
            self.leaving = True

    def may_go(self, now: float) -> bool:
        """True if no host has to hear of this end any more."""
        if self.state is State.OPEN:
            return now >= self._farewell()
        if self.state is not State.GREETING:
            return self.state is State.CLOSED
        missed = bool(self.facts) and self.roles.produces and not self.roles.helper
        return self.sender.handed_over and not (missed and now < self.greeting_since + GOODBYE)

    def _farewell(self) -> float:
        """When it goes though the host, which has all that was put, does not answer its goodbye."""
        if self.session is None or not self.sender.handed_over:
            return inf
        return max(self._leaving_since, self.session.heard) + GOODBYE

    def abandon(self) -> None:
        """Close at once."""
        self.state = State.CLOSED
        self.sender.bar()
        if self.session is not None:
            self.session.receiver.collect()
        self._actions.append(Close())

    # -- what happens ----------------------------------------------------------------------------

    def receive(self, envelope: Envelope, now: float) -> None:
        """A message came."""
        message = envelope.message
        kind = message.kind
        if kind is Kind.WELCOME:
            self._welcome(message, now)
        elif kind is Kind.REFUSED:
            self._refuse(message.fields[0])
        elif self.state is not State.OPEN or self.session is None:
            return
        elif kind is Kind.STRANGER:
            self._begin_session(now)
        else:
            self._hear(self.session, envelope, now)

    def turned_away(self, why: str, now: float) -> None:
        """A socket of the present session was not let in, and has to be made anew."""
        if self.state is State.OPEN:
            self._begin_session(now)
        elif self.state is State.GREETING:
            self._dial_again = True
        else:
            return
        self._refusals.failed(why, now)
        self.barred = self._refusals.believed(now)
        if self.barred:
            self.abandon()

    def begin_again(self, now: float) -> None:
        """A socket of the present session could not be opened."""
        if self.state is State.OPEN:
            self._begin_session(now)

    def tick(self, now: float) -> None:
        """Time passed. If nobody ticked for long, it stood still: that is not the host's silence."""
        session = self.session
        stood = self._standstill.seconds(now, session.lease if session is not None else IDLE)
        if stood and session is not None:
            session.postpone(stood, now)
        if self.state is State.GREETING:
            self._call_again(now)
        elif self.state is State.OPEN and session is not None:
            if self.leaving:
                self._leaving_since = min(self._leaving_since, now)
                if now >= self._farewell():
                    self.abandon()
                    return
            if session.broken(now):
                self._begin_session(now)
            else:
                session.tick(now)

    def flush(self, now: float) -> list[Action]:
        """Everything that is to be done."""
        if self.state is State.OPEN and self.session is not None:
            self._actions += self.session.flush(now, leaving=self.leaving)
        actions, self._actions = self._actions, []
        return actions

    def deadline(self, now: float) -> float:
        """When `tick` and `flush` are wanted next."""
        if self.state is State.GREETING:
            return self._greeted + GREET_EVERY
        if self.state is State.OPEN and self.session is not None:
            when = self.session.deadline()
            return min(when, self._farewell()) if self.leaving else when
        return now + IDLE

    # -- sessions --------------------------------------------------------------------------------

    def _begin_session(self, now: float) -> None:
        if self.state is not State.GREETING:
            self.greeting_since = now
        self.state = State.GREETING
        if self.session is not None:
            self.session.receiver.give_back()  # it is lent to others by now
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
        self._actions.append(Connect(self.session_name))

    def _greet(self, now: float) -> None:
        self._greeted = now
        if self._dial_again:
            self._dial_again = False
            self._actions.append(Connect(self.session_name))
        hello = Message(Kind.HELLO, (VERSION, self.name, self._about))
        self._actions.append(Send(Envelope(0, 0, hello)))

    def _hear(self, session: Session, envelope: Envelope, now: float) -> None:
        try:
            session.hear(envelope, now)
        except ProtocolError as error:
            self._refuse(f"its host broke the protocol: {error}")
            return
        if session.parted and self.leaving:
            self.abandon()

    def _refuse(self, why: str) -> None:
        self.refused = shown(why)
        self.abandon()

    def _welcome(self, message: Message, now: float) -> None:
        name, facts = message.fields
        if self.state is not State.GREETING or name != self.session_name:
            return
        self.state = State.OPEN
        self._refusals.succeeded()
        facts = {**facts, "trusted": facts["trusted"] and self._trusts}
        self.receiver = receiver = Receiver(trusted=facts["trusted"], hand=self.hand, session=self.sessions)
        if self.session is not None:
            receiver.waiters = self.session.receiver.waiters
            self.superseded += self.session.receiver.hands.values()
            superseded = self.session.receiver.untold()
            if superseded and facts["epoch"] == self.facts["epoch"]:
                self.asks.add(Kind.ASK, "late", superseded)
        self.session = Session(facts, self.sender, self.asks, self.roles, receiver, now)
        self._actions.append(ConnectInbox(facts["inbox"], facts["ticket"]))
