"""One session of a client with its broker: from WELCOME until one of them is silent or closes it. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from nearfar.errors import ProtocolError
from nearfar.net.session import Connect, SendMessage
from nearfar.queues.broker.protocol import BrokerProtocol
from nearfar.queues.broker.sessions import Peer
from nearfar.queues.client.consumer import ItemReceiver
from nearfar.queues.client.producer import MUCH, CreditRequest, ItemSender
from nearfar.queues.limits import Claim, Grant
from nearfar.queues.messages import (
    MOST_CLAIMS,
    QueueChannel,
    QueueMessage,
    QueueMessageType,
    place,
)
from nearfar.serialization.shared_ring import OwnRing, Reference

TOLD = frozenset({"underway bytes", "underway parts"})
"""Figures that the broker sums up, in place of requests; see `ClientConnection.mention`."""
OF_SESSION = frozenset({"lane", "fence", "ring", "inline"})
"""Requests that a new session does not repeat."""
UNATTENDED = OF_SESSION | {"late"} | TOLD
Ask = tuple[int, QueueMessageType, str, Any]


class PendingRequests:
    """Numbers the requests, and keeps the answers until they are taken."""

    def __init__(self) -> None:
        self._last = 0
        self._open: dict[int, Ask] = {}
        self._unsent: list[int] = []
        self.any_unsent = False
        """True if there may be unsent requests."""
        self._answers: dict[int, Any] = {}

    def add(self, kind: QueueMessageType, what: str = "", argument: Any = None) -> int:
        """Add a request: as an ASK, or with a NEED or REPORT that is refused rather than waits."""
        self._last += 1
        self._open[self._last] = (self._last, kind, what, argument)
        self._unsent.append(self._last)
        self.any_unsent = True
        return self._last

    def unsent(self, *, lane: bool) -> Iterator[Ask]:
        """The requests to send now; a REPORT can only be sent once there is a lane."""
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
        """Mark all requests as unsent, for a new session."""
        self._open = {number: ask for number, ask in self._open.items() if ask[2] not in OF_SESSION}
        self._unsent = list(self._open)
        self.any_unsent = bool(self._unsent)

    def answer(self, number: int, value: Any) -> None:
        """Store an answer, unless the request is the client's own (for a lane, say): no caller takes that
        one."""
        ask = self._open.pop(number, None)
        if ask is not None and ask[2] not in UNATTENDED:
            self._answers[number] = value

    def unanswered(self, number: int) -> bool:
        return number in self._open

    def answered(self, number: int) -> bool:
        return number in self._answers

    def take(self, number: int) -> Any:
        """Remove and return the answer; None for a request that was not answered."""
        self._open.pop(number, None)
        return self._answers.pop(number, None)


class ConnectInbox(NamedTuple):
    """Connect to the broker's inbox; messages to it carry the ticket."""

    place: int | str
    ticket: str


class ConnectLane(NamedTuple):
    """Connect to this client's lane, the broker's `DeliverySocket` for it."""

    place: int | str


class Close(NamedTuple):
    """Close every socket for good."""


Action = Connect | SendMessage | ConnectInbox | ConnectLane | Close


class LocalLine:
    """In place of a `QueueChannel`, the calls of a broker in this process: `send` returns when the broker has
    the message, and the broker's messages wait in `came`."""

    acked = 0

    def __init__(self, broker: BrokerProtocol, name: str, session: str, now: float) -> None:
        self.came: deque[QueueMessage] = deque()
        self._broker = broker
        self._peer: Peer
        self._peer, self.facts = broker.admit_local(session, name, self.came.append, now)

    def send(self, message: QueueMessage, now: float) -> int:
        self._broker.receive_local(self._peer, message, now)
        return 0

    def close(self) -> None:
        """The client has ended this session."""
        peer = self._peer
        self._broker.table.dead(peer.name, "it left without a goodbye", peer.channel.heard)


FAILED = 5
"""The field of a REPORT that lists failed items."""


@dataclass(slots=True)
class Roles:
    """The roles of a client, and the tags of its consumer in addition to the session's name."""

    tags: tuple[str, ...] = ()
    produces: bool = False
    consumes: bool = False
    helper: bool = False
    """It puts for another, counted producer, and is not counted itself."""


class BrokerSession:
    """`facts` come from WELCOME; `sender`, `asks` and `roles` outlast the session. Its messages are sent over
    `line`. `act` performs an action after those before."""

    def __init__(
        self,
        facts: dict[str, Any],
        sender: ItemSender,
        asks: PendingRequests,
        roles: Roles,
        receiver: ItemReceiver,
        line: QueueChannel | LocalLine,
        act: Callable[[Action], object],
        now: float,
    ) -> None:
        self.facts = facts
        self.line = line
        self._numbered = not isinstance(line, LocalLine)
        """Whether messages may get lost, and items are received over a lane, which must be requested."""
        self._act = act
        self.receiver = receiver
        self.over = False
        self.lost: tuple[str, ...] = ()
        self.tags: frozenset[str] = frozenset()
        """Tags by which consumers can be addressed now."""
        self.shut = bool(facts["shut"])
        self.shut_immediately = False
        self.parted = False
        self.lease = float(facts["lease"])
        self._sender = sender
        self._asks = asks
        self._roles = roles
        self._joined = (False, False)
        self._lane_ask = 0
        self._lane_open = False
        self._ring_ask = 0
        self.fence = 0
        """The number of the request with which unused items are returned, while it is unanswered; else 0."""
        self._told_need: CreditRequest | None = None
        self._rounds: list[tuple[int, bool]] = []
        self._last_failure = 0
        self._failed_since_report = False
        self._said_bye = False
        self.claims: list[Sequence[Claim]] = []
        """Claims of shared limits that were not sent yet."""
        self.grants: list[Grant] = []
        """Grants that were not received by the program yet."""
        self._declared = False
        sender.begin(facts["stored"], maxsize=facts["maxsize"], maxbytes=facts["maxbytes"])
        if self.shut:
            sender.bar()
        sender.admit()
        asks.again()

    # -- events ----------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Return items that are not taken."""
        if self.receiver.buffered > self.receiver.waiters and self.receiver.paused(now):
            self._close_window()

    def fail(self, position: int) -> None:
        """Nack an item. It may be redelivered, so an announced end of the queue no longer holds."""
        self.receiver.fail(position)
        self._failed_since_report = True
        self.over = False

    def ended(self, *, counted: bool) -> bool:
        """True if no more items will come: after a shutdown, or, if `counted`, once every producer left."""
        return self.shut_immediately or (self.over and (self.shut or counted))

    def quiet(self, now: float) -> bool:
        """Whether `flush` has nothing to send now, apart from what `due_at` waits for."""
        sender, receiver, joined = self._sender, self.receiver, self._joined
        return not (
            self._asks.any_unsent
            or self._rounds
            or self.claims
            or receiver.blind
            or receiver.hand.acks
            or receiver.chunk is not None
            or (sender.bounded and joined[0])
            or not sender.idle
            or joined != (self._roles.produces, self._roles.consumes)
            or (joined[1] and receiver.report_is_due(now))
        )

    def flush(self, now: float, *, leaving: bool) -> None:
        """Send what there is to send: items first, so that requests arrive after them."""
        receiver, hand = self.receiver, self.receiver.hand
        hand.called = False
        if hand.acks or receiver.chunk is not None:
            receiver.count()
        roles = self._roles
        if self.receiver.blind:
            self.receiver.blind = False
            self._asks.add(QueueMessageType.ASK, "inline")
            self._ask(now)  # before the items are returned
        if roles.consumes is not self._joined[1] or roles.produces is not self._joined[0]:
            self._join(now)
        if roles.produces and (self._sender.bounded or not self._sender.idle):
            self._put(now)
        if self._lane_open and (
            receiver.report_is_due(now) or leaving or self._rounds or self._asks.any_unsent
        ):
            self._report(now)
        if self._asks.any_unsent:
            self._ask(now)
        if self._rounds:
            self._sync(now)
        if self.claims:
            self._send_claims(now)
        if leaving and not self._said_bye and self._sender.idle:
            self._said_bye = True
            self.line.send(QueueMessage(QueueMessageType.BYE), now)

    # -- to the broker ---------------------------------------------------------------------------

    def _join(self, now: float) -> None:
        if self._roles.consumes and not (self._lane_ask or self._lane_open):
            if self._numbered:
                self._lane_ask = self._asks.add(QueueMessageType.ASK, "lane")
            else:
                self._lane_open = True
        roles = (self._roles.produces, self._lane_open)
        if roles != self._joined:
            self._joined = roles
            self.line.send(
                QueueMessage(QueueMessageType.JOIN, (*roles, list(self._roles.tags), self._roles.helper)), now
            )

    def _put(self, now: float) -> None:
        sender = self._sender
        if not sender.idle:
            for message in sender.messages():
                number, size = self.line.send(message, now), len(message.body or b"")
                if self._numbered:
                    sender.sent(number, size, *message.fields[:2])
                else:
                    sender.arrived(size)
            if sender.large >= MUCH and self.facts["shares"] and not self._ring_ask:
                self._share_memory()
        if sender.bounded:
            need = sender.need()
            if sender.gave_up or (need is not None and (need != self._told_need or sender.holds_room)):
                self._tell_need(need, 0, now)
            self._told_need = need

    def _share_memory(self) -> None:
        """Share the bodies of put items, once the broker has opened the memory."""
        try:
            self._sender.ring = self._sender.ring or OwnRing()
        except (OSError, MemoryError):
            self._ring_ask = -1
        else:
            self._ring_ask = self._asks.add(
                QueueMessageType.ASK, "ring", self._sender.ring.reference().encode()
            )

    def _tell_need(self, need: CreditRequest | None, ask: int, now: float) -> None:
        """Request room, or report that none is needed. Room that is too small for the next item goes back to
        the broker: together with that of others it may suffice for another producer."""
        self._sender.gave_up = False
        if need is None:
            self.line.send(QueueMessage(QueueMessageType.NEED, (*self._sender.used(), 0, 0, ask)), now)
        else:
            self.line.send(QueueMessage(QueueMessageType.NEED, (*need, *self._sender.spare(), ask)), now)

    def _report(self, now: float) -> None:
        """Send all reports."""
        while (message := self.receiver.report(now)) is not None:
            number = self.line.send(message, now)
            if message.fields[FAILED]:
                self._last_failure = number
                self._failed_since_report = False

    def _ask(self, now: float) -> None:
        for ask, kind, what, argument in self._asks.unsent(lane=self._lane_open):
            if kind is QueueMessageType.ASK:
                self.line.send(QueueMessage(QueueMessageType.ASK, (ask, what, argument)), now)
            elif kind is QueueMessageType.NEED:
                self._told_need = self._sender.need()
                self._tell_need(self._told_need, ask, now)
            elif (report := self.receiver.report(now, ask)) is not None:
                self.line.send(report, now)

    def _send_claims(self, now: float) -> None:
        """Send claims; the first of a session say what the client has from earlier ones."""
        claims, self.claims = self.claims, []
        for some in claims:
            for first in range(0, max(1, len(some)), MOST_CLAIMS):
                fields = (not self._declared, some[first : first + MOST_CLAIMS])
                self._declared = True
                self.line.send(QueueMessage(QueueMessageType.CLAIM, fields), now)

    def _sync(self, now: float) -> None:
        """Answer SYNC: everything before is reported by now, and unused room and items are returned."""
        rounds, self._rounds = self._rounds, []
        for number, recall in rounds:
            if recall and self.receiver.idle_items():
                self._close_window()
                self._rounds.append((number, recall))
                continue
            spare = self._sender.spare() if recall and not self._sender.entries else (0, 0)
            self.line.send(QueueMessage(QueueMessageType.SYNCED, (number, *spare)), now)
        if self._rounds:
            self._report(now)
            self._ask(now)

    def _close_window(self) -> None:
        """Return unused items, in order: once the broker lends no more, and all lent items have arrived.

        The answer to the fence arrives after everything that the broker lent before it saw the closed window.
        """
        if not self.fence:
            self.receiver.closed = True
            self.fence = self._asks.add(QueueMessageType.ASK, "fence")

    # -- from the broker -------------------------------------------------------------------------

    def _lend(self, message: QueueMessage) -> None:
        position, count, attempt = message.fields
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

    def _granted(self, message: QueueMessage) -> None:
        self.grants += map(Grant._make, message.fields[0])

    def _answer(self, message: QueueMessage) -> None:
        ask, value = message.fields
        if ask == self._lane_ask:
            if not place(value):
                raise ProtocolError("the place of the lane is malformed")
            self._lane_open = True
            self._act(ConnectLane(value))
        elif ask == self._ring_ask:
            self._sender.places = value is True
        elif ask == self.fence:
            self.fence = 0
            self.receiver.closed = self.shut_immediately
            self.receiver.give_back()
        self._asks.answer(ask, value)

    def _told_over(self, message: QueueMessage) -> None:
        if not self._failed_since_report and self._last_failure <= self.line.acked:
            self.over = message.fields[0]
        self.lost = tuple(message.fields[1])

    def _told_shut(self, message: QueueMessage) -> None:
        self.shut = True
        self._sender.bar()
        if message.fields[0]:
            self.shut_immediately = self.receiver.closed = True
            self.receiver.give_back()

    def _told_tags(self, message: QueueMessage) -> None:
        self.tags = frozenset(message.fields[0])

    def _told_ring(self, message: QueueMessage) -> None:
        number, reference = message.fields
        if reference is None:
            self.receiver.rings.end(number)
        elif self.facts["shares"]:
            self.receiver.rings.open(number, Reference.decode(reference))

    def _part(self, message: QueueMessage) -> None:
        self.parted = True


def _ignore(session: BrokerSession, message: QueueMessage) -> None:
    """Ignore a message type that only a client sends."""


HANDLERS: dict[QueueMessageType, Callable[[BrokerSession, QueueMessage], None]] = dict.fromkeys(
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
    QueueMessageType.GRANT: BrokerSession._granted,
}
