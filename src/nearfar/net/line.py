"""A reliable line between two peers, as a pure machine: numbers, cumulative acks, sending again.

ZeroMQ keeps messages in order and whole, but what was under way when a connection broke is gone, and
what travels on two sockets overtakes. A line numbers the messages of one direction over all its sockets,
hands them out in order, and sends again what is not acked in time (go-back-N, with early messages kept).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Generic, TypeVar

from nearfar.net.budget import Budget

T = TypeVar("T")

ACK_EVERY = 64
"""Messages after which an ack does not wait any longer."""
ACK_WEIGHT = 64 * 1024
"""Bytes of a body that weigh as much as a message."""
FURTHEST_AHEAD = 1 << 16
"""Messages: one that is further ahead of its turn than this is dropped, and will be sent again."""
HEAVIEST_AHEAD = 64 << 20
"""Bytes of messages that came ahead of their turn: those beyond are dropped, and will be sent again."""
MESSAGE_WEIGHS = 512
"""Bytes that a message costs here besides its body."""
MOST_UNACKED = FURTHEST_AHEAD
"""Messages: a peer that leaves more than this unacked does not listen, and its session is ended."""


class Outgoing(Generic[T]):
    """Messages on their way out, kept until the peer says that it has them.

    `patience` is in seconds: how long without progress before everything unacked is sent again. It
    doubles with every fruitless round, up to eight times, so that a frozen peer is not buried.
    """

    __slots__ = ("_patience", "_progress", "_sent", "_tries", "_unacked", "due", "known")

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._unacked: deque[T] = deque()
        self._sent = 0
        self.known = 0
        """The number of the last message that the peer has."""
        self.due = inf
        """When `overdue` wants to be asked."""
        self._progress = 0.0
        self._tries = 0

    def __len__(self) -> int:
        return len(self._unacked)

    @property
    def unheard(self) -> bool:
        """True if the peer leaves so much unacked that it cannot be listening."""
        return len(self._unacked) > MOST_UNACKED

    @property
    def sent(self) -> int:
        """The number of the last message."""
        return self._sent

    def send(self, message: T, now: float) -> int:
        """Keep `message` and return its number, from 1."""
        if not self._unacked:
            self._progress = now
            self._tries = 0
            self.due = now + self._patience
        self._unacked.append(message)
        self._sent += 1
        return self._sent

    def acked(self, upto: int, now: float) -> None:
        """The peer has every message up to `upto`. An old or impossible number changes nothing."""
        unacked = self._unacked
        if not self.known < upto <= self._sent:
            return
        for _ in range(upto - self.known):
            unacked.popleft()
        self.known = upto
        self._progress = now
        self._tries = 0
        self.due = now + self._patience if unacked else inf

    def deadline(self) -> float | None:
        """When `overdue` wants to be asked; None while nothing is unacked."""
        return self.due if self._unacked else None

    def overdue(self, now: float) -> list[tuple[int, T]]:
        """What has to be sent again now: all that is unacked, or nothing."""
        if now < self.due:
            return []
        self._tries += 1
        self.due = now + self._patience * (1 << min(self._tries, 3))
        return self.unacked()

    def stuck(self, now: float) -> float:
        """For how many seconds the peer has had nothing new, though there is something."""
        return now - self._progress if self._unacked else 0.0

    def postpone(self, seconds: float) -> None:
        """This process stood still: that much of the time without progress does not count."""
        self._progress += seconds

    def unacked(self) -> list[tuple[int, T]]:
        """The messages that the peer may not have, with their numbers."""
        return list(enumerate(self._unacked, self.known + 1))


class Incoming(Generic[T]):
    """Messages as they come in, handed out once each and in order.

    `weigh` tells the bytes of a message's body; only of one that comes ahead of its turn. Up to `heaviest`
    bytes of those are kept.
    """

    __slots__ = ("_early", "_heaviest", "_weigh", "_weight", "allowance", "received", "repeated")

    def __init__(self, weigh: Callable[[T], int] = lambda message: 0, heaviest: int = HEAVIEST_AHEAD) -> None:
        self.received = 0
        """The last message handed out: what to ack."""
        self.repeated = 0
        """Messages that came more than once, or too early to keep."""
        self.allowance: tuple[Budget, str] | None = None
        """What the lines of all peers may keep so, and the name under which this one does."""
        self._early: dict[int, T] = {}
        self._heaviest = heaviest
        self._weigh = weigh
        self._weight = 0

    def accept(self, number: int, message: T) -> list[T]:
        """The messages whose turn has come, `message` among them or not."""
        ahead = number - self.received
        if ahead < 1 or ahead > FURTHEST_AHEAD or number in self._early:
            self.repeated += 1
            return []
        if ahead > 1:
            self._keep(number, message)
            return []
        ready = [message]
        self.received = number
        while self._early and (message_ := self._early.pop(self.received + 1, None)) is not None:
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
        self._early[number] = message
        self._add(weight)

    def close(self) -> None:
        """Nothing more comes: forget what came ahead of its turn."""
        self._early.clear()
        self._add(-self._weight)

    def _add(self, weight: int) -> None:
        self._weight += weight
        if self.allowance is not None and weight:
            self.allowance[0].add(self.allowance[1], weight)


class Voice:
    """When to speak with nothing to say: an ack that is owed, or a beat, so that silence means death.

    An ack waits for company for `lease` / 100 seconds, or until `ACK_EVERY` messages (or their weight in
    bytes) have come; a beat is due after `lease` / 5 seconds of saying nothing.
    """

    __slots__ = ("_beat", "_delay", "_owed", "at")

    def __init__(self, lease: float, now: float) -> None:
        self._beat = lease / 5
        self._delay = lease / 100
        self._owed = 0
        self.at = now + self._beat
        """When a bare ack, or a beat, is due."""

    def heard(self, now: float, size: int = 0) -> None:
        """A numbered message with a body of `size` bytes came."""
        if not self._owed:
            self.at = min(self.at, now + self._delay)
        self._owed += 1 + size // ACK_WEIGHT
        if self._owed >= ACK_EVERY:
            self.at = -inf

    def spoke(self, now: float) -> None:
        """A message went out, and with it an ack of all that came."""
        self._owed = 0
        self.at = now + self._beat

    def due(self, now: float) -> bool:
        """True if a bare ack, or a beat, is due."""
        return now >= self.at

    def deadline(self) -> float:
        """When `due` will be true if nothing happens."""
        return self.at
