"""The queue in Redis, or Valkey: its items outlive all programs that use it."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing import util
from pathlib import Path
from typing import Any, Self

import msgpack

from nearfar.errors import (
    Empty,
    Full,
    ItemError,
    NearfarError,
    NotAdmitted,
    ProducerLost,
    ProtocolError,
    ShutDown,
    Untrusted,
)
from nearfar.net import process, validation
from nearfar.net.auth import Access, choose
from nearfar.net.interrupts import DeferredCall, safe, safely, whose
from nearfar.net.reliable import LEASE
from nearfar.queues.base import (
    BatchDelivery,
    Delivery,
    Promises,
    RemoteJoinableQueue,
    RemoteQueue,
    Transport,
    deadline_of,
    waits,
)
from nearfar.queues.redis import promises_of
from nearfar.queues.redis.address import RedisAddress
from nearfar.queues.redis.client import DELIVERY, LeasedItem, RedisClient, ask, log
from nearfar.serialization import item_codec

MOST = 1 << 53
"""The largest bound: Redis counts in floating point numbers."""
LARGEST = (512 << 20) - 4096
"""Bytes of an item: Redis takes no longer string in its default settings."""
TOGETHER, TOGETHER_BYTES = 1000, 4 << 20
"""Items, and bytes of items, that travel in one command."""
TTL = 7 * 86400.0
"""Seconds after which a queue that no program uses is deleted."""
_UNREADABLE = (ItemError, ProtocolError, Untrusted)


def _leave(client: RedisClient, owner: weakref.ref[Any]) -> None:
    """Say goodbye, at the normal exit of the process, or when the queue is garbage-collected.

    A queue may be collected anywhere, so this does not wait there: only the exit of the process does.
    """
    client.close()
    if not client.waited_for:
        return
    if owner() is not None or util.is_exiting():
        _join(client)
    else:
        client.at_exit = util.Finalize(None, _join, args=(client,), exitpriority=10)


def _join(client: RedisClient) -> None:
    try:
        client.join()
    except NearfarError as error:
        log.error("left without a goodbye: items that were got may be delivered again: %s", error)


class RedisDelivery(Delivery):
    """A delivery of a queue in Redis."""

    def __init__(self, client: RedisClient, lent: LeasedItem, item: Any) -> None:
        self.item, self.attempt = item, lent.attempt
        self._client, self._lent = client, lent

    def ack(self) -> None:
        self._client.done(self._lent)

    def nack(self) -> None:
        """As `Delivery.nack`. Waits until the server has it."""
        self._client.failed(self._lent)


class RedisQueue(RemoteQueue):
    """A queue in a Redis or Valkey server of version 6.2 or later; no process of the program hosts it.

    ``redis://[user@]host[:port]/database/name``, ``rediss://`` with TLS; ``valkey://`` and ``valkeys://``
    mean the same. The password is read from the file that ``?password-file=PATH`` names, else from the
    environment (``NEARFAR_REDIS_PASSWORD``); it may also be in the address, and is never shown. ``?ca=``,
    ``?cert=`` and ``?key=`` name files for TLS.

    Creating one makes the queue, or sets the options of the one that is there, with its items. If no program
    uses it, a new round begins: it is open again, and counts its producers from 0.

    Items are plain data, unless both sides have `keys`: then every item is signed, and read only if its
    signer is accepted (``server.key`` and ``clients/`` of the folder). `insecure` means no keys.

    * `maxsize`, `maxbytes`, `max_attempts`, `producers`, `wait`: as in `FarQueue`.
    * `lease`: seconds of silence after which a client counts as dead, and what it held goes to others.
    * `ttl`: seconds after which a queue that no program uses is deleted with its items (0: never).

    `put` returns when the server has the item. `get` and `put` each take one exchange with the server, for
    one item or a thousand: use `put_many`, `get_many` and `batches`.
    """

    _settles = True

    def __init__(
        self,
        maxsize: int,
        address: str,
        *,
        maxbytes: int = 0,
        lease: float = LEASE,
        max_attempts: int = 5,
        producers: int = 1,
        ttl: float = TTL,
        keys: str | os.PathLike[str] | None = None,
        insecure: bool = False,
        wait: float = 60.0,
    ) -> None:
        """Raises `AddressError`, `KeysError`, `QueueLost`, `NotAdmitted`, and `ValueError` for a lease or a
        ttl out of range."""
        if not validation.lease(lease):
            least, most = validation.SHORTEST_LEASE, validation.LONGEST_LEASE
            raise ValueError(f"a lease is {least:g} to {most:,g} seconds, not {lease!r}")
        if ttl and not lease <= ttl <= 1e9:
            raise ValueError(f"ttl is at least the lease, {lease:g} seconds, or 0 for never, not {ttl!r}")
        self._set_up(RedisAddress.parse(address), choose(keys, insecure), wait)
        settings = {
            "maxsize": max(0, min(maxsize, MOST)),
            "maxbytes": max(0, min(maxbytes, MOST)),
            "lease": int(lease * 1000),
            "max_attempts": max_attempts,
            "expected": producers,
            "head": self._head,
            "ttl": int(ttl * 1000),
        }
        self._connect(settings).call("beat")

    @classmethod
    def connect(
        cls,
        address: str,
        *,
        keys: str | os.PathLike[str] | None = None,
        insecure: bool = False,
        wait: float = 60.0,
    ) -> Self:
        return cls._reach(RedisAddress.parse(address), choose(keys, insecure), wait)

    @classmethod
    def _reach(cls, place: RedisAddress, access: Access, wait: float) -> Self:
        made = cls.__new__(cls)
        made._set_up(place, access, wait)
        return made

    def _set_up(self, place: RedisAddress, access: Access, wait: float) -> None:
        place.settings()  # its password can be read
        self._place, self._access, self._wait = place, access, wait
        self._head = 0
        self._sign: Callable[[bytes], bytes] = bytes
        self._verify: Callable[[bytes], bytes] = bytes
        if access.keys:
            from nearfar.queues.redis.signatures import HEAD, Signer

            signer = Signer(Path(access.keys), place.name)
            self._head, self._sign, self._verify = HEAD, signer.sign, signer.verify
        self._lock = threading.RLock()
        self._client: RedisClient | None = None
        self._finish: Callable[[], None] | None = None
        self._join_at_exit = True
        self._closed = False
        process.watch(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self)._reach, (self._place, self._access, self._wait)

    @property
    def address(self) -> str:
        return str(self._place)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} connected to {self._place}>"

    # -- putting ---------------------------------------------------------------------------------

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        try:
            self.put_many((obj,), block, timeout)
        except Full:
            raise Full from None

    def put_many(self, items: Iterable[Any], block: bool = True, timeout: float | None = None) -> None:
        """As `BaseQueue.put_many`. Each thousand items are one command."""
        client = self._reached()
        bodies = [self._encode(item) for item in items]
        if bodies:
            safely(partial(self._put, client, bodies, waits(block, timeout), deadline_of(block, timeout)))

    def _encode(self, item: Any) -> bytes:
        body = item_codec.encode(item, trusted=bool(self._access.keys))
        if len(body) > LARGEST:
            raise ItemError(f"an item of {len(body)} bytes is too large: Redis takes {LARGEST}")
        return self._sign(body)

    def _put(self, client: RedisClient, bodies: list[bytes], wait: bool, deadline: float | None) -> None:
        self._check(client)
        largest = max(map(len, bodies)) - self._head
        if 0 < client.maxbytes < largest:
            raise ValueError(
                f"an item of {largest} bytes is larger than the whole queue: maxbytes is {client.maxbytes}"
            )
        done = 0
        while done < len(bodies):
            some = _together(bodies, done)
            reply = client.put(some)
            if reply[0] == b"shut":
                raise ShutDown
            done += reply[1]
            if reply[1] < len(some):
                if not wait or (deadline is not None and time.monotonic() >= deadline):
                    raise Full(done)
                client.sleep(deadline, "room")

    # -- taking ----------------------------------------------------------------------------------

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        return self._deferred(1, 1, whose(), block, timeout)[0][1]

    def get_many(self, most: int, block: bool = True, timeout: float | None = None) -> list[Any]:
        if most < 1:
            raise ValueError(f"most must be at least 1, not {most}")
        return [item for _, item in self._deferred(most, 1, whose(), block, timeout)]

    def receive(self, block: bool = True, timeout: float | None = None) -> Delivery:
        [(lent, item)] = self._deferred(1, 1, DELIVERY, block, timeout)
        return RedisDelivery(self._reached(), lent, item)

    def __iter__(self) -> Any:
        return self._until_end(lambda: self._deferred(1, 1, whose(), True, None, to_the_end=True)[0][1])

    def _take_batch(self, most: int, least: int, timeout: float | None) -> list[Any]:
        return [item for _, item in self._deferred(most, least, whose(), True, timeout, to_the_end=True)]

    def _receive_batch(self, most: int, least: int, timeout: float | None) -> BatchDelivery:
        found = self._deferred(most, least, DELIVERY, True, timeout, to_the_end=True)
        return BatchDelivery([RedisDelivery(self._reached(), lent, item) for lent, item in found])

    def _deferred(
        self,
        most: int,
        least: int,
        holder: int,
        block: bool,
        timeout: float | None,
        *,
        to_the_end: bool = False,
    ) -> list[tuple[LeasedItem, Any]]:
        """Items with their leases. What does not reach the caller, because of an exception, is given back."""
        client = self._reached()
        wait, deadline = waits(block, timeout), deadline_of(block, timeout)
        do = partial(self._take_least, client, most, least, holder, wait, deadline, to_the_end)
        deferred_call = DeferredCall(do, lambda found: client.let_go([lent for lent, _ in found]))
        try:
            return deferred_call.run()
        except BaseException as error:
            deferred_call.interrupted(error)
            raise

    def _take_least(
        self,
        client: RedisClient,
        most: int,
        least: int,
        holder: int,
        wait: bool,
        deadline: float | None,
        to_the_end: bool,
    ) -> list[tuple[LeasedItem, Any]]:
        if self._settles and holder != DELIVERY:
            client.done_by(holder)
        found = self._take_many(client, most, holder, wait, deadline, to_the_end)
        try:
            while len(found) < least:
                found += self._take_many(client, most - len(found), holder, wait, deadline, to_the_end)
        except (Empty, ShutDown, ProducerLost):
            pass  # the next call raises it
        except BaseException:
            client.let_go([lent for lent, _ in found])
            raise
        return found

    def _take_many(
        self,
        client: RedisClient,
        most: int,
        holder: int,
        wait: bool,
        deadline: float | None,
        to_the_end: bool,
    ) -> list[tuple[LeasedItem, Any]]:
        """At least one item and up to `most`. An item that cannot be read raises by itself."""
        self._check(client)
        while True:
            taken = client.take(most, holder, to_the_end=to_the_end, until=deadline if wait else None)
            if isinstance(taken[0], LeasedItem):
                return self._read(client, taken)
            if taken[0] == b"lost":
                raise ProducerLost(tuple(sorted(name.decode() for name in taken[1])))
            if taken[0] == b"shut":
                raise ShutDown
            if not wait or (deadline is not None and time.monotonic() >= deadline):
                raise Empty
            client.sleep(deadline, "wake")

    def _read(self, client: RedisClient, taken: list[LeasedItem]) -> list[tuple[LeasedItem, Any]]:
        found: list[tuple[LeasedItem, Any]] = []
        for at, lent in enumerate(taken):
            try:
                [item] = item_codec.decode(self._verify(lent.body), 1, trusted=bool(self._access.keys))
            except _UNREADABLE as error:
                if found:
                    client.let_go(taken[at:])
                    return found
                client.unreadable(lent)
                client.let_go(taken[at + 1 :])
                raise _cause(error) from None
            found.append((lent, item))
        return found

    # -- the rest of the interface ---------------------------------------------------------------

    def qsize(self) -> int:
        return self.counts()["size"]

    def empty(self) -> bool:
        return self.qsize() == 0

    def full(self) -> bool:
        counts = self.counts()
        return 0 < counts["maxsize"] <= counts["size"] or 0 < counts["maxbytes"] <= counts["bytes"]

    @safe
    def counts(self) -> dict[str, int]:
        client = self._reached()
        client.settle_now()
        return dict(msgpack.unpackb(client.call("counts")[1]))

    @safe
    def dead_letters(self) -> list[tuple[Any, int, tuple[str, ...]]]:
        """As `RemoteQueue.dead_letters`. One whose item cannot be read here has its bytes."""
        client = self._reached()
        letters: list[tuple[Any, int, tuple[str, ...]]] = []
        client.settle_now()
        while some := msgpack.unpackb(client.call("letters", len(letters))[1], raw=True):
            letters += [self._letter(*msgpack.unpackb(letter, raw=True)) for letter in some]
        return letters

    def _letter(self, body: bytes, attempts: int, *history: bytes) -> tuple[Any, int, tuple[str, ...]]:
        try:
            [item] = item_codec.decode(self._verify(body), 1, trusted=bool(self._access.keys))
        except _UNREADABLE:
            item = body[self._head :]
        return item, attempts, tuple(why.decode() for why in history)

    @safe
    def shutdown(self, immediate: bool = False) -> None:
        client = self._reached()
        client.settle_now()
        client.call("close", int(immediate))

    @safe
    def delete(self) -> None:
        """Delete the queue with its items. Other programs wait for a new one at the address."""
        self._reached().call("delete")

    def close(self) -> None:
        self._closed = True
        if self._client is not None:
            self._client.close()

    def join_thread(self) -> None:
        """After `close`: wait until the server has every ack of this process, at most `wait` seconds.

        Raises `QueueLost` when the server is away for longer.
        """
        if not self._closed:
            raise ValueError("the queue is not closed")
        if self._client is not None and self._join_at_exit:
            self._client.join()

    def cancel_join_thread(self) -> None:
        self._join_at_exit = False
        if self._client is not None:
            self._client.waited_for = False

    def flush(self, timeout: float | None = None) -> None:
        """As `BaseQueue.flush`. What was put is there already; this confirms the acks."""
        self._reached().settle_now()

    @safe
    def promises(self) -> Promises:
        """As `BaseQueue.promises`. Asks the server whether it writes to disk (``INFO``), and when
        (``CONFIG GET``): what it does not answer, or this user may not ask, is not promised."""
        durable = b"aof_enabled:1" in ask(self._place, "INFO", "persistence")
        synced = durable and b"always" in ask(self._place, "CONFIG", "GET", "appendfsync")
        return promises_of(durable=durable, synced=synced)

    # -- inside ----------------------------------------------------------------------------------

    def _reached(self) -> RedisClient:
        if self._closed:
            raise ValueError(f"{type(self).__name__} is closed")
        return self._client if self._client is not None else self._connect(None)

    @safe
    def _connect(self, settings: dict[str, int] | None) -> RedisClient:
        with self._lock:
            if self._client is None:
                client = RedisClient(self._place, self._wait, settings, settles=self._settles)
                client.waited_for = self._join_at_exit
                self._finish = util.Finalize(self, _leave, args=(client, weakref.ref(self)), exitpriority=10)
                self._client = client
            return self._client

    def _check(self, client: RedisClient) -> None:
        """Raises `NotAdmitted` if the queue's items are signed, and this side has no keys, or vice versa."""
        if not client.entered:
            client.call("beat")
        if client.head != self._head:
            signed, other = ("signed", "has no keys") if client.head else ("not signed", "has keys")
            raise NotAdmitted(f"the items of the queue at {self._place} are {signed}, and this side {other}")

    def forget_parent(self) -> None:
        """Start anew in the child of a fork, which must not use the parent's threads, sockets and locks."""
        process.keep(self._client)
        self._set_up(self._place, self._access, self._wait)


class RedisJoinableQueue(RedisQueue, RemoteJoinableQueue):
    """A `RedisQueue` whose items are done with `task_done`; a leaving consumer gives back the others."""

    _settles = False

    def task_done(self) -> None:
        if not self._reached().done_oldest(whose()):
            raise ValueError("task_done() called too many times")

    @safe
    def join(self) -> None:
        client = self._reached()
        client.settle_now()
        while client.call("idle")[0] != b"ok":
            client.sleep(None, "idle")


def _cause(error: Exception) -> BaseException:
    """What unpickling raised, if that was it."""
    return error.__cause__ if isinstance(error, ItemError) and error.__cause__ else error


def _together(bodies: list[bytes], start: int) -> list[bytes]:
    """The bodies from `start` on that travel together."""
    end, size = start, 0
    while end < min(len(bodies), start + TOGETHER) and (
        end == start or size + len(bodies[end]) <= TOGETHER_BYTES
    ):
        size += len(bodies[end])
        end += 1
    return bodies[start:end]


TRANSPORT = Transport(RedisQueue, RedisJoinableQueue)
