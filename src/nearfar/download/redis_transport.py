"""The transport over a Redis or Valkey server: requests and answers are steps of ``redis_transport.lua``.

No process hosts it, and nothing in it is needed once all programs have left. What a server that was started
again without its data has lost, each sender sends again.

A receiver does its calls itself. A sender has two threads: one exchanges what there is with the server, the
other waits for news, and wakes it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack

from nearfar.download.fetch.base import HostLimits
from nearfar.download.model import Underway
from nearfar.download.redis_limits import RedisLimits
from nearfar.download.transport import (
    Endpoint,
    IncomingRequest,
    RemoteReceiver,
    RemoteSender,
    RemoteTransport,
    Undeliverable,
)
from nearfar.errors import (
    AddressError,
    ItemError,
    NearfarError,
    NotAdmitted,
    ProducerLost,
    ProtocolError,
    QueueLost,
    ShutDown,
    Untrusted,
)
from nearfar.net.auth import choose
from nearfar.net.process import new_name
from nearfar.net.reliable import LEASE
from nearfar.net.schemes import shown
from nearfar.queues.base import left
from nearfar.queues.redis.address import RedisAddress
from nearfar.queues.redis.client import DELIVERY, LOOK, LeasedItem, RedisClient
from nearfar.serialization import item_codec

if TYPE_CHECKING:
    from nearfar.dashboard.model import QueueStatus

SCRIPT = Path(__file__).with_name("redis_transport.lua").read_bytes()
MOST_QUEUED = 32 * 1024 * 1024
"""Bytes of messages that the server may hold."""
TOGETHER = 4 * 1024 * 1024
"""Bytes of messages that wait in a sender, and that it sends in one command."""
TTL = 3600.0
"""Seconds after which the server forgets what killed programs left."""
FAREWELL = 2.0
"""Seconds to say goodbye to a server that may be away, where nothing else is left to say."""
AGAIN = 2
"""The attempt of a message that a consumer may have received from a server that forgot it."""

log = logging.getLogger(__name__)


class Exchange:
    """One process's client of an exchange, and its messages as bytes."""

    def __init__(self, endpoint: Endpoint, **role: Any) -> None:
        """Raises `AddressError`, `KeysError`."""
        self.place = RedisAddress.parse(endpoint.address)
        self.place.settings()  # its password can be read
        access = choose(endpoint.keys, endpoint.insecure)
        self._head = 0
        self._sign: Callable[[bytes], bytes] = bytes
        self._verify: Callable[[bytes], bytes] = bytes
        if access.keys:
            from nearfar.queues.redis.signatures import HEAD, Signer

            signer = Signer(Path(access.keys), self.place.name)
            self._head, self._sign, self._verify = HEAD, signer.sign, signer.verify
        introduction = role | {
            "head": self._head,
            "lease": int(LEASE * 1000),
            "maxbytes": MOST_QUEUED,
            "ttl": int(TTL * 1000),
        }
        self.client = RedisClient(
            self.place,
            endpoint.wait,
            None,
            settles=False,
            script=SCRIPT,
            introduction=(msgpack.packb(introduction),),
        )

    def reach(self, timeout: float) -> bool:
        """Whether the server has answered within `timeout` seconds. Raises `QueueLost`, `NotAdmitted`."""
        if not self.client.reach(time.monotonic() + timeout):
            return False
        self.check()
        return True

    def check(self) -> None:
        """Raises `NotAdmitted` if the others sign their messages and this side has no keys, or vice versa."""
        if self.client.head != self._head:
            signed, other = ("signed", "has no keys") if self.client.head else ("not signed", "has keys")
            raise NotAdmitted(f"the messages at {self.place} are {signed}, and this side {other}")

    def encode(self, kind: str, sender: str, ticket: int, value: Any) -> bytes:
        """A request or an answer, with what it belongs to: a signature covers both."""
        return self._sign(item_codec.encode([kind, sender, ticket, value], trusted=False))

    def decode(self, kind: str, body: bytes) -> tuple[str, int, Any]:
        """Sender, ticket and value. Raises `Untrusted`, `ItemError`, `ProtocolError`."""
        [row] = item_codec.decode(self._verify(body), 1, trusted=False)
        if type(row) is not list or [type(part) for part in row[:3]] != [str, str, int] or len(row) != 4:
            raise ProtocolError("a message of another version")
        if row[0] != kind:
            raise Untrusted(f"a message that is no {kind}")
        return row[1], row[2], row[3]


@dataclass(slots=True)
class _Request:
    """One that was not answered."""

    ticket: int
    to: str
    body: bytes
    attempt: int = 1


class RedisRequestSender(RemoteSender):
    """A producer's side. It outlives its client: after a long silence it goes on under the same id."""

    def __init__(self, endpoint: Endpoint, *, helper: bool) -> None:
        self.on_event: Callable[[], None] = _nothing
        self._id = new_name()
        self._exchange = Exchange(endpoint, id=self._id)
        self._client = self._exchange.client
        self._helper = helper
        self._lock = threading.Lock()
        self._sent = 0
        self._unanswered: dict[int, _Request] = {}
        self._accepted = 0
        """The last ticket that the server has."""
        self._waiting = 0
        """Bytes of requests that it does not have."""
        self._answered: list[tuple[int, Any]] = []
        self._heard: set[int] = set()
        """Numbers of answers that the server may forget."""
        self._stores: frozenset[str] = frozenset()
        self._epoch: tuple[bytes, int] | None = None
        self._failure: NearfarError | None = None
        self._stirred = threading.Event()
        self._limits = RedisLimits(self._client, self._id, self._stirred.set)
        self.limits: HostLimits | None = self._limits
        """Of hosts, shared by all producers of the exchange."""
        self._closing = False
        self._threads: list[threading.Thread] = []

    @property
    def address(self) -> str:
        """The address, without a password."""
        return str(self._exchange.place)

    def reach(self, timeout: float) -> bool:
        """Whether the server has answered within `timeout` seconds. Raises `QueueLost`, `NotAdmitted`."""
        return self._exchange.reach(timeout)

    def attend(self) -> None:
        """Register as a producer, before anything is sent. Raises `QueueLost`, `NotAdmitted`."""
        self._trade()
        self._begin()

    def send(self, message: Any, *, to: str | None = None) -> int | None:
        body = self._exchange.encode("request", self._id, self._sent + 1, message)
        with self._lock:
            if self._waiting >= TOGETHER:
                return None
            self._sent += 1
            self._unanswered[self._sent] = _Request(self._sent, to or "", body)
            self._waiting += len(body)
        self._begin()
        self._stirred.set()
        return self._sent

    def answers(self) -> list[tuple[int, Any]]:
        with self._lock:
            answers, self._answered = self._answered, []
        if not answers and self._failure is not None:
            raise self._failure
        return answers

    def stores(self) -> frozenset[str]:
        self._begin()
        return self._stores

    def tell_underway(self, underway: Underway) -> None:
        """Nothing: no process gathers the progress of all producers."""

    def underway(self) -> tuple[int, float]:
        """Nothing: the progress of a pool is that of its finished files."""
        return 0, 0.0

    def queue_status(self) -> QueueStatus | None:
        """None: no process hosts the queue."""
        return None

    def close(self, timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        told = self._failure
        self._closing = True
        self._stirred.set()
        for thread in self._threads[:1]:
            thread.join(left(deadline))
        self._client.waited_for = self._failure is None
        self._client.close()
        if self._failure is None:
            self._client.join(left(deadline))
        else:
            with suppress(QueueLost):
                self._client.join(FAREWELL)
        for thread in self._threads[1:]:  # the goodbye has woken it
            thread.join(LOOK)
        if self._failure is not None and told is None:
            raise self._failure

    # -- the threads -----------------------------------------------------------------------------

    def _begin(self) -> None:
        if not self._threads and not self._closing:
            for work in (self._work, self._listen):
                thread = threading.Thread(target=work, name=f"nearfar-sender{work.__name__}", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _work(self) -> None:
        """Exchange with the server what there is, and at least every `LOOK` seconds."""
        try:
            pause = LOOK
            while not self._closing or self._waiting:
                self._stirred.wait(pause)
                self._stirred.clear()
                self._trade()
                pause = min(LOOK, self._limits.exchange())
                self.on_event()
            self._limits.leave()
        except NearfarError as error:
            self._failure = error
        self.on_event()

    def _listen(self) -> None:
        """Wait for tokens of the server."""
        while not self._closing and self._failure is None:
            self._client.sleep(time.monotonic() + LOOK, f"wake:{self._id}")
            self._stirred.set()

    def _trade(self) -> None:
        _, accepted, packed, stores = self._client.exchange("trade", self._say)
        rows = [
            (number, ticket, self._read(ticket, outcome.decode(), body))
            for number, ticket, outcome, body in msgpack.unpackb(packed, raw=True)
        ]
        with self._lock:
            self._accept(accepted)
            for number, ticket, value in rows:
                self._heard.add(number)
                request = self._unanswered.pop(ticket, None)
                if request is not None:
                    self._answered.append((ticket, Undeliverable(request.to) if value is None else value))
            if self._waiting:
                self._stirred.set()
        self._stores = frozenset(store.decode() for store in msgpack.unpackb(stores, raw=True))

    def _accept(self, upto: int) -> None:
        for ticket in range(self._accepted + 1, upto + 1):
            if (request := self._unanswered.get(ticket)) is not None:
                self._waiting -= len(request.body)
        if upto < self._accepted:  # the server has lost its latest state: it is sent that again
            for ticket in range(upto + 1, self._accepted + 1):
                if (request := self._unanswered.get(ticket)) is not None:
                    self._waiting += len(request.body)
                    request.attempt = AGAIN
        self._accepted = upto

    def _read(self, ticket: int, outcome: str, body: bytes) -> Any:
        """The value of an answer, or None if there is none. Raises `NotAdmitted`."""
        if outcome == "undeliverable":
            return None
        if outcome == "refused":
            raise NotAdmitted(
                f"a consumer at {self.address} could not read a message of this producer: do its keys include"
                " this one's, and is its version the same?"
            )
        try:
            sender, answers, value = self._exchange.decode("answer", body)
        except (Untrusted, ItemError, ProtocolError) as error:
            raise NotAdmitted(f"the answer of a consumer at {self.address} cannot be read: {error}") from None
        if (sender, answers) != (self._id, ticket):
            raise NotAdmitted(f"an answer at {self.address} belongs to another request")
        return value

    def _say(self) -> tuple[bytes | str | int, ...]:
        """The arguments of one call: what the server may forget, and requests that it does not have."""
        self._exchange.check()
        with self._lock:
            if (self._client.epoch, self._client.session) != self._epoch:
                self._begin_anew()
            heard = msgpack.packb(list(self._heard))
            self._heard.clear()  # if the call gets lost, the answers come again
            requests: list[bytes | str | int] = []
            size = 0
            for ticket in range(self._accepted + 1, self._sent + 1):
                if (request := self._unanswered.get(ticket)) is None:
                    continue
                if size and size + len(request.body) > TOGETHER:
                    break
                size += len(request.body)
                requests += [request.ticket, request.to, request.attempt, request.body]
        return 0, self._id, int(not self._helper), heard, *requests

    def _begin_anew(self) -> None:
        """The server knows nothing of what it was sent: send it again, except to consumers that it forgot."""
        if self._epoch:
            for request in list(self._unanswered.values()):
                if request.to and request.ticket <= self._accepted:
                    del self._unanswered[request.ticket]
                    self._answered.append((request.ticket, Undeliverable(request.to)))
                request.attempt = AGAIN
        self._epoch = (self._client.epoch, self._client.session)
        self._heard.clear()
        self._accepted = min(self._unanswered, default=self._sent + 1) - 1
        self._waiting = sum(len(request.body) for request in self._unanswered.values())


class RedisIncomingRequest(IncomingRequest):
    """A received message that was not answered yet."""

    def __init__(self, message: Any, attempt: int, answer: Callable[[Any], None]) -> None:
        self.message, self.attempt = message, attempt
        self._answer = answer

    def answer(self, value: Any = None) -> None:
        self._answer(value)


class RedisRequestReceiver(RemoteReceiver):
    """A consumer's side, which can be addressed by its name and by its store's id."""

    def __init__(self, endpoint: Endpoint, *, store: str, producers: int) -> None:
        self._store = store
        self._exchange = Exchange(endpoint, store=store, expected=producers)
        self._client = self._exchange.client

    def reach(self, timeout: float) -> bool:
        """Whether the server has answered within `timeout` seconds. Raises `QueueLost`, `NotAdmitted`."""
        return self._exchange.reach(timeout)

    @property
    def name(self) -> str:  # type: ignore[override]
        """New once this client was declared dead: messages to the earlier one were answered."""
        return self._client.name

    @property
    def address(self) -> str:
        """The address, without a password."""
        return str(self._exchange.place)

    def queue_status(self) -> QueueStatus | None:
        """None: no process hosts the queue."""
        return None

    def receive(self, timeout: float | None) -> RedisIncomingRequest | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            taken = self._client.take(1, DELIVERY, to_the_end=True, until=deadline)
            self._exchange.check()
            if isinstance(taken[0], LeasedItem):
                if (request := self._read(taken[0])) is not None:
                    return request
                continue
            if taken[0] == b"lost":
                raise ProducerLost(tuple(sorted(name.decode() for name in taken[1])))
            if taken[0] == b"shut":
                raise ShutDown
            if deadline is not None and time.monotonic() >= deadline:
                return None
            self._client.sleep(deadline, "wake", f"wake:{self._store}", f"wake:{self._client.name}")

    def _read(self, lent: LeasedItem) -> RedisIncomingRequest | None:
        try:
            sender, ticket, message = self._exchange.decode("request", lent.body)
        except (Untrusted, ItemError, ProtocolError) as error:
            log.warning("refused a message: %s", error)
            self._client.unreadable(lent)
            return None
        return RedisIncomingRequest(message, lent.attempt, partial(self._answer, lent, sender, ticket))

    def _answer(self, lent: LeasedItem, sender: str, ticket: int, value: Any) -> None:
        self._client.done(lent, self._exchange.encode("answer", sender, ticket, value))

    def close(self, timeout: float | None) -> None:
        self._client.close()
        owes = self._client.owes
        try:
            self._client.join(timeout if owes else FAREWELL)
        except QueueLost:
            if owes:
                raise


def open_request_sender(endpoint: Endpoint, *, helper: bool = False) -> RedisRequestSender:
    """As `transport.open_request_sender`; ``bind`` is an error, and there are no ``lanes``."""
    _refuse_to_host(endpoint)
    return RedisRequestSender(endpoint, helper=helper)


def open_request_receiver(endpoint: Endpoint, *, store: str, producers: int = 1) -> RedisRequestReceiver:
    """As `transport.open_request_receiver`; ``bind`` is an error, and there are no ``lanes``. Of all
    consumers, the highest number of expected `producers` counts."""
    _refuse_to_host(endpoint)
    return RedisRequestReceiver(endpoint, store=store, producers=producers)


def _refuse_to_host(endpoint: Endpoint) -> None:
    if endpoint.bind:
        raise AddressError(
            f"no program hosts a queue in Redis: use --queue {shown(endpoint.address)} in place of --bind, on"
            " both sides"
        )


def _nothing() -> None:
    """The default callback: does nothing."""


TRANSPORT = RemoteTransport(open_request_sender, open_request_receiver)
