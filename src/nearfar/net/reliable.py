"""A reliable channel between two peers, pure: sequence numbers, cumulative acks, retransmission.

ZeroMQ keeps messages in order and complete, but messages under way when a connection breaks are lost, and
messages on different sockets may overtake each other. `SendWindow` numbers the messages of one direction over
all its sockets and sends again what is not acked in time; `ReceiveWindow` hands them out in order (go-back-N,
with early messages kept). A `ReliableChannel` is both, with the heartbeats of one session
(`nearfar.net.session`).

A session may have several connections. One of them may be dead while the others work, without notice: behind
a proxy or a tunnel, not even the kernel detects it. Messages sent again on it do not arrive, and later ones
wait behind them. `ReliableChannel.fault` detects such a session, although its peer is still heard; only a new
session, with new connections, helps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Generic, NamedTuple, TypeVar

from nearfar.net.resources import Budget

T = TypeVar("T")

LEASE = 10.0
"""Seconds of silence after which a peer counts as dead, if no other lease is given."""
LEASES = 3
"""Leases without a new ack after which a session is ended, if the unacked messages are small."""
SLOWEST = 20_000
"""The lowest expected rate, in bytes per second: large messages get that much more time."""
ACK_EVERY = 64
"""Messages after which an ack is sent at once."""
ACK_WEIGHT = 16 * 1024
"""Bytes of a body that count as one more message: 1 MiB is acked at once, so its sender can free it."""
FURTHEST_AHEAD = 1 << 16
"""Messages: one that is further ahead of the next number is dropped, and will be sent again."""
HEAVIEST_AHEAD = 64 << 20
"""Bytes of early messages that are kept: those beyond are dropped, and will be sent again."""
MESSAGE_WEIGHS = 512
"""Bytes that a message costs here in addition to its body."""
MOST_UNACKED = FURTHEST_AHEAD
"""Messages: the session of a peer that leaves more unacked is ended, because it does not receive."""


class SendWindow(Generic[T]):
    """Messages sent, kept until the peer acks them.

    `patience`: seconds without progress before everything unacked is sent again. It doubles with every round
    without progress, up to eight times, so that a frozen peer is not flooded.
    """

    __slots__ = ("_patience", "_progress", "_tries", "_unacked", "received", "sent", "when")

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._unacked: deque[T] = deque()
        self.sent = 0
        """The number of the last message."""
        self.received = 0
        """The number of the last message that the peer is known to have."""
        self.when = inf
        """When to call `overdue`; `inf` while nothing is unacked."""
        self._progress = 0.0
        self._tries = 0

    def __len__(self) -> int:
        return len(self._unacked)

    @property
    def unheard(self) -> bool:
        """True if the peer leaves so much unacked that it does not receive."""
        return len(self._unacked) > MOST_UNACKED

    def send(self, message: T, now: float) -> int:
        """Keep `message` and return its number, from 1."""
        if not self._unacked:
            self._progress = now
            self._tries = 0
            self.when = now + self._patience
        self._unacked.append(message)
        self.sent += 1
        return self.sent

    def acked(self, upto: int, now: float) -> None:
        """Record that the peer has all messages up to `upto`. An old or impossible number changes nothing."""
        fresh = upto - self.received
        if not 0 < fresh <= len(self._unacked):
            return
        for _ in range(fresh):
            self._unacked.popleft()
        self.received = upto
        self._progress = now
        self._tries = 0
        self.when = now + self._patience if self._unacked else inf

    def overdue(self, now: float) -> list[tuple[int, T]]:
        """What to send again now: everything unacked, or nothing."""
        if now < self.when:
            return []
        self._tries += 1
        self.when = now + self._patience * (1 << min(self._tries, 3))
        return self.unacked()

    def stuck(self, now: float) -> float:
        """Seconds without progress while messages are unacked; else 0."""
        return now - self._progress if self._unacked else 0.0

    def postpone(self, seconds: float) -> None:
        """Exclude `seconds` from the time without progress: this process was suspended."""
        self._progress += seconds

    def unacked(self) -> list[tuple[int, T]]:
        """The messages that the peer may not have, with their numbers."""
        return list(enumerate(self._unacked, self.received + 1))


class ReceiveWindow(Generic[T]):
    """Messages received, handed out once each and in order.

    `weigh` returns the bytes of a message's body; it is called only for early messages. Up to `heaviest`
    bytes of those are kept.
    """

    __slots__ = ("_heaviest", "_weigh", "_weight", "allowance", "early", "received", "repeated")

    def __init__(self, weigh: Callable[[T], int] = lambda message: 0, heaviest: int = HEAVIEST_AHEAD) -> None:
        self.received = 0
        """The number of the last message handed out, which is to be acked."""
        self.repeated = 0
        """Messages that came more than once, or too early to keep."""
        self.allowance: tuple[Budget, str] | None = None
        """The budget for the early messages of all peers, and the name of this one in it."""
        self.early: dict[int, T] = {}
        self._heaviest = heaviest
        self._weigh = weigh
        self._weight = 0

    def accept(self, number: int, message: T) -> list[T]:
        """The messages that are next in order, which may include `message`."""
        ahead = number - self.received
        if ahead < 1 or ahead > FURTHEST_AHEAD or number in self.early:
            self.repeated += 1
            return []
        if ahead > 1:
            self._keep(number, message)
            return []
        ready = [message]
        self.received = number
        while self.early and (message_ := self.early.pop(self.received + 1, None)) is not None:
            ready.append(message_)
            self._add(-MESSAGE_WEIGHS - self._weigh(message_))
            self.received += 1
        return ready

    def _keep(self, number: int, message: T) -> None:
        weight = MESSAGE_WEIGHS + self._weigh(message)
        refused = self.allowance is not None and not self.allowance[0].fits(self.allowance[1], weight)
        if refused or self._weight + weight > self._heaviest:
            self.repeated += 1
            return
        self.early[number] = message
        self._add(weight)

    def close(self) -> None:
        """Drop the early messages: no more will come."""
        self.early.clear()
        self._add(-self._weight)

    def _add(self, weight: int) -> None:
        self._weight += weight
        if self.allowance is not None and weight:
            self.allowance[0].add(self.allowance[1], weight)


class Frame(NamedTuple, Generic[T]):
    """A message as sent. The messages that open, keep and end a session have the number 0."""

    number: int
    ack: int
    """The number of the last message that its sender has received."""
    message: T


class ReliableChannel(Generic[T]):
    """Both directions of a session with one peer: numbers outgoing messages, and puts received ones in order.

    A peer that is silent for a whole `lease` (seconds) counts as dead. Therefore `beat` is sent after a fifth
    of it without another message. An ack waits for a message to go with for `lease` / 100 seconds, or until
    `ACK_EVERY` messages (or their weight in bytes) have come. `weigh` and `heaviest`: see `ReceiveWindow`.
    """

    __slots__ = (
        "_heartbeat",
        "_owed",
        "_ready",
        "_weigh",
        "acked",
        "heard",
        "heartbeat_at",
        "inbox",
        "lease",
        "out",
    )

    def __init__(
        self,
        lease: float,
        now: float,
        beat: T,
        weigh: Callable[[T], int],
        heaviest: int = HEAVIEST_AHEAD,
    ) -> None:
        self.lease = lease
        self.heard = now
        """When a message was last received."""
        self.acked = 0
        """The last of our messages that the peer had received when it sent its latest message."""
        self.out: SendWindow[T] = SendWindow(lease / 10)
        self.inbox: ReceiveWindow[T] = ReceiveWindow(weigh, heaviest)
        self.heartbeat_at = now + lease / 5
        """When a bare ack, or a heartbeat, is due if nothing happens."""
        self._heartbeat = beat
        self._weigh = weigh
        self._owed = 0
        """Messages received since the last ack was sent."""
        self._ready: list[Frame[T]] = []

    def send(self, message: T, now: float) -> int:
        """Send a numbered message, and return its number."""
        number = self.out.send(message, now)
        self._ready.append(Frame(number, self.inbox.received, message))
        self._owed = 0
        self.heartbeat_at = now + self.lease / 5
        return number

    def hear(self, frame: Frame[T], now: float) -> list[T]:
        """Take a received frame; returns the messages that are next in order."""
        self.heard = now
        number, self.acked, message = frame
        if self.acked > self.out.received:
            self.out.acked(self.acked, now)
        if not number:
            return []
        if not self._owed and now + self.lease / 100 < self.heartbeat_at:
            self.heartbeat_at = now + self.lease / 100
        self._owed += 1 + self._weigh(message) // ACK_WEIGHT
        if self._owed >= ACK_EVERY:
            self.heartbeat_at = now
        inbox = self.inbox
        if number == inbox.received + 1 and not inbox.early:
            inbox.received = number
            return [message]
        return inbox.accept(number, message)

    def tick(self, now: float) -> None:
        """Send again what may have been lost."""
        if now >= self.out.when:
            received = self.inbox.received
            self._ready += [Frame(number, received, message) for number, message in self.out.overdue(now)]

    def flush(self, now: float) -> list[Frame[T]]:
        """The frames to send, with an ack or a heartbeat if one is due."""
        ready = self._ready
        if now >= self.heartbeat_at:
            ready.append(Frame(0, self.inbox.received, self._heartbeat))
            self._owed = 0
            self.heartbeat_at = now + self.lease / 5
        if ready:
            self._ready = []
        return ready

    def deadline(self) -> float:
        """When to call `tick` and `flush` next; then the peer may be silent."""
        return min(self.heard + self.lease, self.heartbeat_at, self.out.when)

    def unacked(self) -> list[T]:
        """The messages that the peer may not have received."""
        return [message for _, message in self.out.unacked()]

    def silent(self, now: float) -> bool:
        """True if nothing was received for a whole lease."""
        return now - self.heard >= self.lease

    def fault(self, now: float) -> str:
        """Why the session cannot go on: the peer is silent, or receives nothing. Empty if it can."""
        if self.silent(now):
            return f"silent for {self.lease:g} s"
        return "sending, but acking nothing" if self.out.unheard or self._stalled(now) else ""

    def _stalled(self, now: float) -> bool:
        """True if the peer has acked nothing new for too long."""
        stuck = self.out.stuck(now) - LEASES * self.lease
        return stuck >= 0 and stuck >= sum(map(self._weigh, self.unacked())) / SLOWEST

    def postpone(self, seconds: float, now: float) -> None:
        """This process was suspended for `seconds`: the peer was not silent meanwhile."""
        self.heard = min(now, self.heard + seconds)
        self.out.postpone(seconds)
