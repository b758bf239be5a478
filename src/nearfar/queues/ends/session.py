"""One session of an end with its host: from WELCOME until either falls silent, or says goodbye. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nearfar.errors import ProtocolError
from nearfar.net.line import Incoming, Outgoing, Voice
from nearfar.queues.ends.actions import Action, ConnectLane, Send
from nearfar.queues.ends.asks import Asks
from nearfar.queues.ends.receiver import Receiver
from nearfar.queues.ends.sender import Need, Sender
from nearfar.queues.ends.tray import ANY
from nearfar.queues.stuck import broken
from nearfar.queues.wire import Envelope, Kind, Message, place

FAILED = 5
"""The field of a REPORT that lists what was given up."""
HEAVY = 1024 * 1024
"""Bytes taken after which the host is told at once."""
LINGER = 0.01
"""Seconds that news of takes may wait for more of it."""


@dataclass(slots=True)
class Roles:
    """What an end does in its queue, and the names of its consumer besides the session's."""

    tags: tuple[str, ...] = ()
    produces: bool = False
    consumes: bool = False
    helper: bool = False
    """It puts for another producer, which vouches for it: it is not counted."""


class Session:
    """`facts` is what WELCOME told; `sender`, `asks` and `roles` outlast the session."""

    def __init__(
        self,
        facts: dict[str, Any],
        sender: Sender,
        asks: Asks,
        roles: Roles,
        receiver: Receiver,
        now: float,
    ) -> None:
        self.facts = facts
        self.heard = now
        self.receiver = receiver
        self.over = False
        self.lost: tuple[str, ...] = ()
        self.tags: frozenset[str] = frozenset()
        """Names under which consumers can be addressed now."""
        self.shut = bool(facts["shut"])
        self.shut_immediately = False
        self.parted = False
        self.lease = float(facts["lease"])
        self._out: Outgoing[Message] = Outgoing(self.lease / 10)
        self._in: Incoming[Message] = Incoming(_weight)
        self._voice = Voice(self.lease, now)
        self._acked = 0
        """The last of our messages that the host had when it sent what came last."""
        self._sender = sender
        self._asks = asks
        self._roles = roles
        self._actions: list[Action] = []
        self._joined = (False, False)
        self._lane_ask = 0
        self._lane_open = False
        self._fence = 0
        self._told_need: Need | None = None
        self._rounds: list[tuple[int, bool]] = []
        self._last_failure = 0
        self._failed_since_report = False
        self._said_bye = False
        self._told_at = now
        """When the host knew all that there was to report."""
        sender.begin(facts["stored"], maxsize=facts["maxsize"], maxbytes=facts["maxbytes"])
        if self.shut:
            sender.bar()
        sender.admit()
        asks.again()

    # -- what happens ----------------------------------------------------------------------------

    def hear(self, envelope: Envelope, now: float) -> None:
        """A message of the host's came."""
        self.heard = now
        number, self._acked, message = envelope
        if self._acked > self._out.received:
            self._out.acked(self._acked, now)
            self._sender.acked(self._out.received)
        if number:
            self._voice.heard(now, len(message.body or b""))
            for ready in self._in.accept(number, message):
                _HANDLERS[ready.kind](self, ready)

    def postpone(self, seconds: float, now: float) -> None:
        """This process stood still: that is not the host's silence."""
        self.heard = min(now, self.heard + seconds)
        self._out.postpone(seconds)

    def broken(self, now: float) -> bool:
        """True if the host is silent for too long, or what is sent to it does not arrive any more."""
        return now - self.heard >= self.lease or (
            self._out.sent > self._out.received and broken(self._out, self.lease, now)
        )

    def tick(self, now: float) -> None:
        """Time passed: send again what may have got lost, and give back what is not taken."""
        if now >= self._out.when:
            for number, message in self._out.overdue(now):
                self._actions.append(Send(Envelope(number, self._in.received, message)))
        if self.receiver.buffered > self.receiver.waiters and self.receiver.paused(now):
            self._close_window()

    def fail(self, position: int) -> None:
        """The program gives an item up. It may come again, so the end is none until it is told anew."""
        self.receiver.fail(position)
        self._failed_since_report = True
        self.over = False

    def ended(self, *, counted: bool) -> bool:
        """True if nothing more will come: after a shutdown, or, if `counted`, as every producer has left."""
        return self.shut_immediately or (self.over and (self.shut or counted))

    def takes_press(self) -> bool:
        """True if the host is to be told of takes now: they are many, or a good part of the room is in them
        that puts may wait for."""
        receiver = self.receiver
        untold = receiver.taken - receiver.told_taken
        if untold and self._sender.bounded:
            size = max(receiver.heavy, untold * receiver.average)
            if untold * 8 >= (self.facts["maxsize"] or ANY) or size * 8 >= (self.facts["maxbytes"] or ANY):
                return True
        return untold >= receiver.due or receiver.heavy >= HEAVY

    def flush(self, now: float, *, leaving: bool) -> list[Action]:
        """Everything that is to be done: items first, so that questions come after them."""
        self.receiver.hand.called = False
        self.receiver.count()
        roles = self._roles
        if roles.consumes is not self._joined[1] or roles.produces is not self._joined[0]:
            self._join(now)
        if roles.produces:
            self._put(now)
        if self._lane_open:
            self._report(now, all_=leaving or bool(self._rounds) or self._asks.any_unsent)
        if self._asks.any_unsent:
            self._ask(now)
        if self._rounds:
            self._sync(now)
        if leaving and not self._said_bye and self._sender.idle:
            self._said_bye = True
            self._send(Message(Kind.BYE), now)
        if now >= self._voice.when:
            self._actions.append(Send(Envelope(0, self._in.received, Message(Kind.BEAT))))
            self._voice.spoke(now)
        actions, self._actions = self._actions, []
        return actions

    def deadline(self) -> float:
        """When `tick` and `flush` are wanted next."""
        receiver = self.receiver
        when = min(self.heard + self.lease, self._voice.when, self._out.when)
        if receiver.handed_out or receiver.news():  # what is taken without the lock is news to come
            when = min(when, self._told_at + LINGER)
        if not self._fence and (pause := receiver.deadline()) is not None:
            when = min(when, pause)
        return when

    def _send(self, message: Message, now: float) -> int:
        """Send a message of the line, and return its number."""
        number = self._out.send(message, now)
        self._actions.append(Send(Envelope(number, self._in.received, message)))
        self._voice.spoke(now)
        return number

    # -- to the host -----------------------------------------------------------------------------

    def _join(self, now: float) -> None:
        if self._roles.consumes and not self._lane_ask:
            self._lane_ask = self._asks.add(Kind.ASK, "lane")
        roles = (self._roles.produces, self._lane_open)
        if roles != self._joined:
            self._joined = roles
            self._send(Message(Kind.JOIN, (*roles, list(self._roles.tags), self._roles.helper)), now)

    def _put(self, now: float) -> None:
        sender = self._sender
        if not sender.idle:
            for message in sender.messages():
                number = self._send(message, now)
                first, count, _ = message.fields
                sender.sent(number, len(message.body or b""), first, count)
        if sender.bounded:
            need = sender.need()
            if (need is not None and need != self._told_need) or sender.gave_up:
                self._tell_need(need, 0, now)
            self._told_need = need

    def _tell_need(self, need: Need | None, ask: int, now: float) -> None:
        """Ask for room, or say that none is wanted. What room there is goes back to the host where the next
        item does not fit into it: with that of others it may do for another."""
        self._sender.gave_up = False
        if need is None:
            self._send(Message(Kind.NEED, (*self._sender.used(), 0, 0, ask)), now)
        else:
            self._send(Message(Kind.NEED, (*need, *self._sender.spare(), ask)), now)

    def _report(self, now: float, *, all_: bool) -> None:
        """Tell the host what it has to know by now, or `all_`."""
        if not self.receiver.news():
            self._told_at = now
        elif now >= self._told_at + LINGER:
            all_ = True
        if not (all_ or self.takes_press() or self.receiver.pressing(now)):
            return
        self._told_at = now
        while (message := self.receiver.report(now)) is not None:
            number = self._send(message, now)
            if message.fields[FAILED]:
                self._last_failure = number
                self._failed_since_report = False

    def _ask(self, now: float) -> None:
        for ask, kind, what, argument in self._asks.unsent(lane=self._lane_open):
            if kind is Kind.ASK:
                self._send(Message(Kind.ASK, (ask, what, argument)), now)
            elif kind is Kind.NEED:
                self._told_need = self._sender.need()
                self._tell_need(self._told_need, ask, now)
            elif (report := self.receiver.report(now, ask)) is not None:
                self._send(report, now)

    def _sync(self, now: float) -> None:
        """Answer a round: what went before was told by now, and what lies unused is back."""
        rounds, self._rounds = self._rounds, []
        for number, recall in rounds:
            if recall and self.receiver.idle_items():
                self._close_window()
                self._rounds.append((number, recall))
                continue
            spare = self._sender.spare() if recall and not self._sender.entries else (0, 0)
            self._send(Message(Kind.SYNCED, (number, *spare)), now)
        if self._rounds:
            self._report(now, all_=True)
            self._ask(now)

    def _close_window(self) -> None:
        """Give back what lies unused, in order: once the host lends no more, and all it lent is here.

        The answer to the fence comes behind everything the host had lent before it saw the window closed.
        """
        if not self._fence:
            self.receiver.closed = True
            self._fence = self._asks.add(Kind.ASK, "fence")

    # -- from the host ---------------------------------------------------------------------------

    def _lend(self, message: Message) -> None:
        position, count, attempt = message.fields
        if position != self.receiver.next_position:
            raise ProtocolError(f"item {position} comes where {self.receiver.next_position} is next")
        self.receiver.lend(position, count, attempt, message.body or b"")
        if self.shut_immediately:
            self.receiver.give_back()

    def _room(self, message: Message) -> None:
        self._sender.gain(*message.fields)
        self._sender.admit()

    def _settled(self, message: Message) -> None:
        self._sender.settle(message.fields[0])

    def _asked_to_sync(self, message: Message) -> None:
        self._rounds.append((message.fields[0], message.fields[1]))

    def _answer(self, message: Message) -> None:
        ask, value = message.fields
        if ask == self._lane_ask:
            if not place(value):
                raise ProtocolError("a lane that is at no place")
            self._lane_open = True
            self._actions.append(ConnectLane(value))
        elif ask == self._fence:
            self._fence = 0
            self.receiver.closed = False
            self.receiver.give_back()
        self._asks.answer(ask, value)

    def _told_over(self, message: Message) -> None:
        if not self._failed_since_report and self._last_failure <= self._acked:
            self.over = message.fields[0]
        self.lost = tuple(message.fields[1])

    def _told_shut(self, message: Message) -> None:
        self.shut = True
        self._sender.bar()
        if message.fields[0]:
            self.shut_immediately = True
            self.receiver.give_back()

    def _told_tags(self, message: Message) -> None:
        self.tags = frozenset(message.fields[0])

    def _part(self, message: Message) -> None:
        self.parted = True


def _weight(message: Message) -> int:
    return len(message.body or b"")


def _ignore(session: Session, message: Message) -> None:
    """A word that only an end says."""


_HANDLERS: dict[Kind, Callable[[Session, Message], None]] = dict.fromkeys(Kind, _ignore) | {
    Kind.LEND: Session._lend,
    Kind.ROOM: Session._room,
    Kind.SETTLED: Session._settled,
    Kind.SYNC: Session._asked_to_sync,
    Kind.ANSWER: Session._answer,
    Kind.OVER: Session._told_over,
    Kind.SHUT: Session._told_shut,
    Kind.PART: Session._part,
    Kind.TAGS: Session._told_tags,
}
