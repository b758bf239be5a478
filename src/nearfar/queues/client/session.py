"""One session of a client with its broker: from WELCOME until either falls silent or closes it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from nearfar.errors import ProtocolError
from nearfar.net.reliable import Heartbeat, ReceiveWindow, SendWindow
from nearfar.queues.client.consumer import ItemReceiver
from nearfar.queues.client.producer import ANY, MUCH, CreditRequest, ItemSender
from nearfar.queues.messages import QueueFrame, QueueMessage, QueueMessageType, broken, place
from nearfar.serialization.shared_ring import OwnRing, Reference


class ConnectControl(NamedTuple):
    """Close every socket, and open a control socket under this session's name."""

    session: str


class ConnectInbox(NamedTuple):
    """Connect to the broker's inbox; messages to it carry the ticket."""

    place: int | str
    ticket: str


class ConnectLane(NamedTuple):
    """Connect to this client's lane, the broker's `DeliverySocket` for it."""

    place: int | str


class SendControl(NamedTuple):
    """Send this message: to the inbox if it carries items, else over the control socket."""

    envelope: QueueFrame


class Close(NamedTuple):
    """Close every socket for good."""


Action = ConnectControl | ConnectInbox | ConnectLane | SendControl | Close


TOLD = frozenset({"underway bytes", "underway parts"})
"""Not questions, but figures that the broker adds up; see `ClientConnection.mention`."""
OF_SESSION = frozenset({"lane", "fence", "ring", "inline"})
"""Questions that a new session does not ask again."""
UNATTENDED = OF_SESSION | {"late"} | TOLD
Ask = tuple[int, QueueMessageType, str, Any]


class PendingRequests:
    """Numbers the questions and keeps the answers until they are taken."""

    def __init__(self) -> None:
        self._last = 0
        self._open: dict[int, Ask] = {}
        self._unsent: list[int] = []
        self.any_unsent = False
        """True if there may be unsent questions."""
        self._answers: dict[int, Any] = {}

    def add(self, kind: QueueMessageType, what: str = "", argument: Any = None) -> int:
        """Add a question: as an ASK, or with a NEED or REPORT that prefers a "no" to waiting."""
        self._last += 1
        self._open[self._last] = (self._last, kind, what, argument)
        self._unsent.append(self._last)
        self.any_unsent = True
        return self._last

    def unsent(self, *, lane: bool) -> Iterator[Ask]:
        """The questions to send now; a REPORT can only be sent once there is a lane."""
        later = []
        for number in self._unsent:
            ask = self._open.get(number)
            if ask is None:
                continue
            if ask[1] is QueueMessageType.REPORT and not lane:
                later.append(number)
            else:
                yield ask
        self._unsent = later
        self.any_unsent = bool(later)

    def again(self) -> None:
        """Mark all questions as unsent, for a new session."""
        self._open = {number: ask for number, ask in self._open.items() if ask[2] not in OF_SESSION}
        self._unsent = list(self._open)
        self.any_unsent = bool(self._unsent)

    def answer(self, number: int, value: Any) -> None:
        """Store an answer, unless the client itself asked (for a lane, say): no caller takes that one."""
        ask = self._open.pop(number, None)
        if ask is not None and ask[2] not in UNATTENDED:
            self._answers[number] = value

    def unanswered(self, number: int) -> bool:
        return number in self._open

    def answered(self, number: int) -> bool:
        return number in self._answers

    def take(self, number: int) -> Any:
        """Remove and return the answer; None for a question that was not answered."""
        self._open.pop(number, None)
        return self._answers.pop(number, None)


FAILED = 5
"""The field of a REPORT that lists failed items."""
HEAVY = 1024 * 1024
"""Bytes taken after which a report is sent at once."""
LINGER = 0.01
"""Seconds that a report of takes may wait for more of them."""


@dataclass(slots=True)
class Roles:
    """The roles of a client, and the tags of its consumer in addition to the session's name."""

    tags: tuple[str, ...] = ()
    produces: bool = False
    consumes: bool = False
    helper: bool = False
    """It puts for another producer, which vouches for it, and is not counted."""


class BrokerSession:
    """`facts` come from WELCOME; `sender`, `asks` and `roles` outlast the session."""

    def __init__(
        self,
        facts: dict[str, Any],
        sender: ItemSender,
        asks: PendingRequests,
        roles: Roles,
        receiver: ItemReceiver,
        now: float,
    ) -> None:
        self.facts = facts
        self.heard = now
        self.receiver = receiver
        self.over = False
        self.lost: tuple[str, ...] = ()
        self.tags: frozenset[str] = frozenset()
        """Tags by which consumers can be addressed now."""
        self.shut = bool(facts["shut"])
        self.shut_immediately = False
        self.parted = False
        self.lease = float(facts["lease"])
        self._out: SendWindow[QueueMessage] = SendWindow(self.lease / 10)
        self._in: ReceiveWindow[QueueMessage] = ReceiveWindow(_weight)
        self._heartbeat = Heartbeat(self.lease, now)
        self._acked = 0
        """The last of our messages that the broker had when it sent its latest message."""
        self._sender = sender
        self._asks = asks
        self._roles = roles
        self._actions: list[Action] = []
        self._joined = (False, False)
        self._lane_ask = 0
        self._lane_open = False
        self._ring_ask = 0
        self._fence = 0
        self._told_need: CreditRequest | None = None
        self._rounds: list[tuple[int, bool]] = []
        self._last_failure = 0
        self._failed_since_report = False
        self._said_bye = False
        self._told_at = now
        """When everything had last been reported to the broker."""
        sender.begin(facts["stored"], maxsize=facts["maxsize"], maxbytes=facts["maxbytes"])
        if self.shut:
            sender.bar()
        sender.admit()
        asks.again()

    # -- events ----------------------------------------------------------------------------------

    def hear(self, envelope: QueueFrame, now: float) -> None:
        """Process a message of the broker."""
        self.heard = now
        number, self._acked, message = envelope
        if self._acked > self._out.received:
            self._out.acked(self._acked, now)
            self._sender.acked(self._out.received)
        if number:
            self._heartbeat.heard(now, len(message.body or b""))
            for ready in self._in.accept(number, message):
                _HANDLERS[ready.kind](self, ready)

    def postpone(self, seconds: float, now: float) -> None:
        """This process was suspended for `seconds`: that does not count as silence of the broker."""
        self.heard = min(now, self.heard + seconds)
        self._out.postpone(seconds)

    def broken(self, now: float) -> bool:
        """True if the broker is silent for too long, or messages to it no longer arrive."""
        return now - self.heard >= self.lease or (
            self._out.sent > self._out.received and broken(self._out, self.lease, now)
        )

    def tick(self, now: float) -> None:
        """Send again what may have got lost, and give back items that are not taken."""
        if now >= self._out.when:
            for number, message in self._out.overdue(now):
                self._actions.append(SendControl(QueueFrame(number, self._in.received, message)))
        if self.receiver.buffered > self.receiver.waiters and self.receiver.paused(now):
            self._close_window()

    def fail(self, position: int) -> None:
        """The program gives up an item. It may be redelivered, so an announced end no longer holds."""
        self.receiver.fail(position)
        self._failed_since_report = True
        self.over = False

    def ended(self, *, counted: bool) -> bool:
        """True if no more items will come: after a shutdown, or, if `counted`, once every producer left."""
        return self.shut_immediately or (self.over and (self.shut or counted))

    def takes_press(self) -> bool:
        """True if takes must be reported now: they are many, or they free a good part of the room that puts
        may wait for."""
        receiver = self.receiver
        untold = receiver.taken - receiver.told_taken
        if untold and self._sender.bounded:
            size = max(receiver.heavy, untold * receiver.average)
            if untold * 8 >= (self.facts["maxsize"] or ANY) or size * 8 >= (self.facts["maxbytes"] or ANY):
                return True
        return untold >= receiver.due or receiver.heavy >= HEAVY

    def flush(self, now: float, *, leaving: bool) -> list[Action]:
        """All actions to perform: items first, so that questions come after them."""
        self.receiver.hand.called = False
        self.receiver.count()
        roles = self._roles
        if self.receiver.blind:
            self.receiver.blind = False
            self._asks.add(QueueMessageType.ASK, "inline")
            self._ask(now)  # before the items are returned
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
            self._send(QueueMessage(QueueMessageType.BYE), now)
        if now >= self._heartbeat.when:
            self._actions.append(
                SendControl(QueueFrame(0, self._in.received, QueueMessage(QueueMessageType.BEAT)))
            )
            self._heartbeat.spoke(now)
        actions, self._actions = self._actions, []
        return actions

    def deadline(self) -> float:
        """When to call `tick` and `flush` next."""
        receiver = self.receiver
        when = min(self.heard + self.lease, self._heartbeat.when, self._out.when)
        if receiver.handed_out or receiver.news():  # items may be taken without the lock, to be reported
            when = min(when, self._told_at + LINGER)
        if not self._fence and (pause := receiver.deadline()) is not None:
            when = min(when, pause)
        return when

    def _send(self, message: QueueMessage, now: float) -> int:
        """Send a numbered message, and return its number."""
        number = self._out.send(message, now)
        self._actions.append(SendControl(QueueFrame(number, self._in.received, message)))
        self._heartbeat.spoke(now)
        return number

    # -- to the broker ---------------------------------------------------------------------------

    def _join(self, now: float) -> None:
        if self._roles.consumes and not self._lane_ask:
            self._lane_ask = self._asks.add(QueueMessageType.ASK, "lane")
        roles = (self._roles.produces, self._lane_open)
        if roles != self._joined:
            self._joined = roles
            self._send(
                QueueMessage(QueueMessageType.JOIN, (*roles, list(self._roles.tags), self._roles.helper)), now
            )

    def _put(self, now: float) -> None:
        sender = self._sender
        if not sender.idle:
            for message in sender.messages():
                number = self._send(message, now)
                first, count, _ = message.fields
                sender.sent(number, len(message.body or b""), first, count)
            if sender.large >= MUCH and self.facts["shares"] and not self._ring_ask:
                self._share_memory()
        if sender.bounded:
            need = sender.need()
            if (need is not None and need != self._told_need) or sender.gave_up:
                self._tell_need(need, 0, now)
            self._told_need = need

    def _share_memory(self) -> None:
        """Share the bodies of what is put, once the broker has opened the memory."""
        try:
            self._sender.ring = self._sender.ring or OwnRing()
        except (OSError, MemoryError):
            self._ring_ask = -1
        else:
            self._ring_ask = self._asks.add(QueueMessageType.ASK, "ring", self._sender.ring.reference())

    def _tell_need(self, need: CreditRequest | None, ask: int, now: float) -> None:
        """Ask for room, or tell that none is needed. Room that is too small for the next item goes back to
        the broker: together with that of others it may suffice for another producer."""
        self._sender.gave_up = False
        if need is None:
            self._send(QueueMessage(QueueMessageType.NEED, (*self._sender.used(), 0, 0, ask)), now)
        else:
            self._send(QueueMessage(QueueMessageType.NEED, (*need, *self._sender.spare(), ask)), now)

    def _report(self, now: float, *, all_: bool) -> None:
        """Send the reports that are due, or `all_`."""
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
            if kind is QueueMessageType.ASK:
                self._send(QueueMessage(QueueMessageType.ASK, (ask, what, argument)), now)
            elif kind is QueueMessageType.NEED:
                self._told_need = self._sender.need()
                self._tell_need(self._told_need, ask, now)
            elif (report := self.receiver.report(now, ask)) is not None:
                self._send(report, now)

    def _sync(self, now: float) -> None:
        """Answer SYNC: everything before is reported by now, and unused room and items are given back."""
        rounds, self._rounds = self._rounds, []
        for number, recall in rounds:
            if recall and self.receiver.idle_items():
                self._close_window()
                self._rounds.append((number, recall))
                continue
            spare = self._sender.spare() if recall and not self._sender.entries else (0, 0)
            self._send(QueueMessage(QueueMessageType.SYNCED, (number, *spare)), now)
        if self._rounds:
            self._report(now, all_=True)
            self._ask(now)

    def _close_window(self) -> None:
        """Give back unused items, in order: once the broker lends no more, and all it lent is here.

        The answer to the fence arrives after everything the broker had lent before it saw the closed window.
        """
        if not self._fence:
            self.receiver.closed = True
            self._fence = self._asks.add(QueueMessageType.ASK, "fence")

    # -- from the broker -------------------------------------------------------------------------

    def _lend(self, message: QueueMessage) -> None:
        position, count, attempt = message.fields
        if position != self.receiver.next_position:
            raise ProtocolError(f"item {position} comes where {self.receiver.next_position} is next")
        self.receiver.lend(position, count, attempt, message.body or b"")
        if self.shut_immediately:
            self.receiver.give_back()

    def _room(self, message: QueueMessage) -> None:
        self._sender.gain(*message.fields)
        self._sender.admit()

    def _settled(self, message: QueueMessage) -> None:
        self._sender.settle(message.fields[0])

    def _asked_to_sync(self, message: QueueMessage) -> None:
        self._rounds.append((message.fields[0], message.fields[1]))

    def _answer(self, message: QueueMessage) -> None:
        ask, value = message.fields
        if ask == self._lane_ask:
            if not place(value):
                raise ProtocolError("the place of the lane is malformed")
            self._lane_open = True
            self._actions.append(ConnectLane(value))
        elif ask == self._ring_ask:
            self._sender.places = value is True
        elif ask == self._fence:
            self._fence = 0
            self.receiver.closed = False
            self.receiver.give_back()
        self._asks.answer(ask, value)

    def _told_over(self, message: QueueMessage) -> None:
        if not self._failed_since_report and self._last_failure <= self._acked:
            self.over = message.fields[0]
        self.lost = tuple(message.fields[1])

    def _told_shut(self, message: QueueMessage) -> None:
        self.shut = True
        self._sender.bar()
        if message.fields[0]:
            self.shut_immediately = True
            self.receiver.give_back()

    def _told_tags(self, message: QueueMessage) -> None:
        self.tags = frozenset(message.fields[0])

    def _told_ring(self, message: QueueMessage) -> None:
        number, reference = message.fields
        if reference is None:
            self.receiver.rings.end(number)
        elif self.facts["shares"]:
            self.receiver.rings.open(number, Reference(*reference))

    def _part(self, message: QueueMessage) -> None:
        self.parted = True


def _weight(message: QueueMessage) -> int:
    return len(message.body or b"")


def _ignore(session: BrokerSession, message: QueueMessage) -> None:
    """Ignore a kind that only a client sends."""


_HANDLERS: dict[QueueMessageType, Callable[[BrokerSession, QueueMessage], None]] = dict.fromkeys(
    QueueMessageType, _ignore
) | {
    QueueMessageType.LEND: BrokerSession._lend,
    QueueMessageType.ROOM: BrokerSession._room,
    QueueMessageType.SETTLED: BrokerSession._settled,
    QueueMessageType.SYNC: BrokerSession._asked_to_sync,
    QueueMessageType.ANSWER: BrokerSession._answer,
    QueueMessageType.OVER: BrokerSession._told_over,
    QueueMessageType.SHUT: BrokerSession._told_shut,
    QueueMessageType.PART: BrokerSession._part,
    QueueMessageType.TAGS: BrokerSession._told_tags,
    QueueMessageType.RING: BrokerSession._told_ring,
}
