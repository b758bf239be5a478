"""An end's side of the protocol as a pure machine: sessions, roles, and the sender and receiver in them.

::

    NEW --connect--> GREETING --WELCOME--> OPEN --BYE, PART--> CLOSED
                        ^                   |
                        +--silence, STRANGER+   a new session: what the host lacks is sent again
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

from nearfar.queues.ends.actions import Action, Close, Connect, ConnectInbox, ConnectLane, Send
from nearfar.queues.ends.asks import Asks
from nearfar.queues.ends.receiver import Receiver
from nearfar.queues.ends.sender import Sender
from nearfar.queues.ends.talk import Talk
from nearfar.queues.wire import VERSION, Envelope, Kind, Message

FAILED = 5
"""The field of a REPORT that lists what was given up."""
GREET_EVERY = 0.25
"""Seconds between two HELLOs."""
LEASE = 10.0
"""Seconds of silence after which a session is over, until the host has said its own."""
LINGER = 0.01
"""Seconds that news of takes may wait for more of it."""


class State(IntEnum):
    NEW = 0
    GREETING = 1
    OPEN = 2
    CLOSED = 3


class EndMachine:
    """`name` is new for every end; `about` tells the host of the process; `tags` are its consumer's."""

    def __init__(self, name: str, about: dict[str, Any], tags: tuple[str, ...] = ()) -> None:
        self.name = name
        self.state = State.NEW
        self.refused: str | None = None
        self.facts: dict[str, Any] = {}
        """What WELCOME told about the queue."""
        self.sender = Sender()
        self.receiver = Receiver()
        self.sessions = 0
        self.heard = self.greeting_since = 0.0
        self.over = False
        self.lost: tuple[str, ...] = ()
        self.tags: frozenset[str] = frozenset()
        """Names under which consumers can be addressed now."""
        self.shut = self.shut_immediately = False
        self.produces = self.consumes = False
        self.asks = Asks()
        self._about = about
        self._tags = list(tags)
        self._actions: list[Action] = []
        self.leaving = False
        self._greeted = self._flushed = 0.0
        self._start_over(0.0)

    @property
    def session(self) -> str:
        return f"{self.name}.{self.sessions}"

    @property
    def lease(self) -> float:
        """Seconds of silence after which a session is over."""
        return float(self.facts.get("lease", LEASE))

    # -- from the program ------------------------------------------------------------------------

    def connect(self, now: float) -> None:
        """Begin the first session."""
        if self.state is State.NEW:
            self._begin_session(now)

    def fail(self, position: int) -> None:
        """The program gives an item up. It may come again, so the end is none until it is told anew."""
        self.receiver.fail(position)
        self._failed_since_report = True
        self.over = False

    def ended(self, *, counted: bool) -> bool:
        """True if nothing more will come: after a shutdown, or, if `counted`, as every producer has left."""
        return self.shut_immediately or (self.over and (self.shut or counted))

    def leave(self) -> None:
        """Say goodbye once all that was put is sent. Until PART comes, the session goes on."""
        if self.state is State.NEW or not (self.produces or self.consumes):
            self.abandon()
        elif self.state is not State.CLOSED:
            self.leaving = True

    def abandon(self) -> None:
        """Close at once."""
        self.state = State.CLOSED
        self._actions.append(Close())

    # -- from the host ---------------------------------------------------------------------------

    def receive(self, envelope: Envelope, now: float) -> None:
        """A message came."""
        message = envelope.message
        match message.kind:
            case Kind.WELCOME:
                self._welcome(message, now)
                return
            case Kind.REFUSED:
                self.refused = str(message.fields[0])
                self.abandon()
                return
            case Kind.STRANGER if self.state is State.OPEN:
                self._begin_session(now)
                return
        if self.state is not State.OPEN:
            return
        self.heard = now
        ready = self._talk.hear(envelope, now)
        self.sender.acked(self._talk.received)
        for one in ready:
            _HANDLERS[one.kind](self, one)

    def tick(self, now: float) -> None:
        """Time passed."""
        if self.state is State.GREETING and now - self._greeted >= GREET_EVERY:
            self._greet(now)
        if self.state is not State.OPEN:
            return
        if now - self.heard >= self.lease:
            self._begin_session(now)
            return
        self._talk.tick(now)
        if self.receiver.paused(now):
            self.receiver.give_back()

    def flush(self, now: float) -> list[Action]:
        """Everything that is to be done: items first, so that questions come after them."""
        if self.state is State.OPEN:
            self._join(now)
            self._put(now)
            self._report(now)
            self._ask(now)
            self._sync(now)
            if self.leaving and not self._said_bye and self.sender.idle:
                self._said_bye = True
                self._talk.send(Message(Kind.BYE), now)
            self._actions += self._talk.actions(now)
        self._flushed = now
        actions, self._actions = self._actions, []
        return actions

    def deadline(self, now: float) -> float:
        """When `tick` and `flush` are wanted next."""
        if self.state is State.GREETING:
            return self._greeted + GREET_EVERY
        if self.state is not State.OPEN:
            return now + 3600.0
        times = [self._talk.deadline(), self.heard + self.lease]
        if self.receiver.unreported():
            times.append(self._flushed + LINGER)
        if (pause := self.receiver.deadline()) is not None:
            times.append(pause)
        return min(times)

    # -- sessions --------------------------------------------------------------------------------

    def _begin_session(self, now: float) -> None:
        if self.state is not State.GREETING:
            self.greeting_since = now
        self.state = State.GREETING
        self.sessions += 1
        self._actions.append(Connect(self.session))
        self._greet(now)

    def _greet(self, now: float) -> None:
        self._greeted = now
        self._actions.append(Send(Envelope(0, 0, Message(Kind.HELLO, (VERSION, self.name, self._about)))))

    def _welcome(self, message: Message, now: float) -> None:
        session, facts = message.fields
        if self.state is not State.GREETING or session != self.session:
            return
        self.state = State.OPEN
        self.facts = facts
        self.heard = now
        self.shut = bool(facts["shut"])
        self.over = False
        self._start_over(now)
        self.receiver = Receiver(trusted=bool(facts["trusted"]), waiters=self.receiver.waiters)
        self.sender.begin(facts["stored"], maxsize=facts["maxsize"], maxbytes=facts["maxbytes"])
        self.sender.admit()
        self.asks.again()
        self._actions.append(ConnectInbox(facts["inbox"]))

    def _start_over(self, now: float) -> None:
        """What holds for one session only."""
        self._talk = Talk(self.lease, now)
        self._said_bye = False
        self._joined = (False, False)
        self._lane_ask = 0
        self._lane_open = False
        self._told_need: tuple[int, int] | None = None
        self._rounds: list[tuple[int, bool]] = []
        self._last_failure = 0
        self._failed_since_report = False

    def _join(self, now: float) -> None:
        if self.consumes and not self._lane_ask:
            self._lane_ask = self.asks.add(Kind.ASK, "lane")
        roles = (self.produces, self._lane_open)
        if roles != self._joined:
            self._joined = roles
            self._talk.send(Message(Kind.JOIN, (*roles, self._tags)), now)

    # -- items and questions out -----------------------------------------------------------------

    def _put(self, now: float) -> None:
        if not self.produces:
            return
        for message in self.sender.messages():
            number = self._talk.send(message, now)
            self.sender.sent(number, len(message.body or b""))
        need = self.sender.need()
        if need is not None and need != self._told_need:
            self._talk.send(Message(Kind.NEED, (*need, 0)), now)
        self._told_need = need

    def _report(self, now: float) -> None:
        if self._lane_open:
            while (message := self.receiver.report(now)) is not None:
                number = self._talk.send(message, now)
                if message.fields[FAILED]:
                    self._last_failure = number
                    self._failed_since_report = False

    def _ask(self, now: float) -> None:
        for ask, kind, what, argument in self.asks.unsent(lane=self._lane_open):
            if kind is Kind.ASK:
                self._talk.send(Message(Kind.ASK, (ask, what, argument)), now)
            elif kind is Kind.NEED:
                self._talk.send(Message(Kind.NEED, (*(self.sender.need() or (0, 0)), ask)), now)
                self._told_need = None  # a "no" makes the host forget it
            elif (report := self.receiver.report(now, ask)) is not None:
                self._talk.send(report, now)

    def _sync(self, now: float) -> None:
        """Answer a round: all that went before, this end has told by now."""
        rounds, self._rounds = self._rounds, []
        for number, recall in rounds:
            if recall and self.receiver.buffered > self.receiver.waiters:
                self.receiver.give_back()
                self._report(now)
            spare = self.sender.spare() if recall and not self.sender.entries else (0, 0)
            self._talk.send(Message(Kind.SYNCED, (number, *spare)), now)

    # -- words of the host -----------------------------------------------------------------------

    def _lend(self, message: Message) -> None:
        position, count, attempt = message.fields
        self.receiver.lend(position, count, attempt, message.body or b"")
        if self.shut_immediately:
            self.receiver.give_back()

    def _room(self, message: Message) -> None:
        self.sender.gain(*message.fields)
        self.sender.admit()

    def _settled(self, message: Message) -> None:
        self.sender.settle(message.fields[0])

    def _asked_to_sync(self, message: Message) -> None:
        self._rounds.append((message.fields[0], message.fields[1]))

    def _answer(self, message: Message) -> None:
        ask, value = message.fields
        if ask == self._lane_ask:
            self._lane_open = True
            self._actions.append(ConnectLane(value))
        self.asks.answer(ask, value)

    def _told_over(self, message: Message) -> None:
        if not self._failed_since_report and self._last_failure <= self._talk.acked:
            self.over = message.fields[0]
        self.lost = tuple(message.fields[1])

    def _told_shut(self, message: Message) -> None:
        self.shut = True
        if message.fields[0]:
            self.shut_immediately = True
            self.receiver.give_back()

    def _told_tags(self, message: Message) -> None:
        self.tags = frozenset(message.fields[0])

    def _part(self, message: Message) -> None:
        if self.leaving:
            self.abandon()


def _ignore(machine: EndMachine, message: Message) -> None:
    """A word that only an end says."""


_HANDLERS: dict[Kind, Callable[[EndMachine, Message], None]] = dict.fromkeys(Kind, _ignore) | {
    Kind.LEND: EndMachine._lend,
    Kind.ROOM: EndMachine._room,
    Kind.SETTLED: EndMachine._settled,
    Kind.SYNC: EndMachine._asked_to_sync,
    Kind.ANSWER: EndMachine._answer,
    Kind.OVER: EndMachine._told_over,
    Kind.SHUT: EndMachine._told_shut,
    Kind.PART: EndMachine._part,
    Kind.TAGS: EndMachine._told_tags,
}
