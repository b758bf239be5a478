"""The puts of a client of a far queue."""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any

from nearfar.errors import Full, NotAdmitted, QueueLost, ShutDown
from nearfar.net.driver import Busy, sleeps
from nearfar.net.interrupts import safe, soon
from nearfar.queues.client.connection import ClientConnection
from nearfar.queues.client.producer import (
    BATCH_BYTES,
    BATCH_ITEMS,
    EASED,
    Batch,
    PutRequest,
    Settled,
    several,
)
from nearfar.queues.client.put_buffer import MANY, PutBuffer
from nearfar.queues.messages import QueueMessageType
from nearfar.serialization import item_codec
from nearfar.serialization.item_codec import Encoded, joined

QUIET = 0.00005
"""Seconds without a turn after which the calling thread sends its items itself."""
CATCH_UP = 0.2
"""Seconds that a put waits for consumers that take nothing, if the ring is crowded."""
GATHER = 0.001
"""Seconds that items may wait to be batched while puts follow one another."""


class ProducerCalls:
    """Puts, for any number of threads."""

    def __init__(self, client: ClientConnection) -> None:
        self._client = client
        self._slept = 0
        """The value of `sleeps` when items were last sent at once."""

    @safe
    def put(self, items: list[Any], *, block: bool, timeout: float | None, to: str | None = None) -> int:
        """Put `items` in order and return the number of the last. Raises `Full` with the number put."""
        deadline = None if timeout is None else time.monotonic() + timeout
        encoded = self._encode(items)
        with self._client.hold:
            entry = self._submit(encoded, to, waits=block)
            if entry.items:
                self._wait_for_room(entry, block, deadline)
            if entry.admitted < len(items):
                if self._client.session.shut:
                    raise ShutDown
                raise Full(entry.admitted)
        self._client.need_driver().help()
        if block and timeout is None and self._client.machine.sender.crowded:
            self._let_consumers_catch_up()
        return entry.last

    def _wait_for_room(self, entry: PutRequest, block: bool, deadline: float | None) -> None:
        try:
            if block:
                self._client.wait_until(lambda: not entry.items or self._client.session.shut, deadline)
            else:
                while (
                    entry.items and not self._client.session.shut
                ):  # a part at a time, until there is no room
                    if not self._client.ask_now(QueueMessageType.NEED, until=lambda: not entry.items):
                        break
        finally:
            if entry.items:
                self._client.machine.sender.withdraw(entry)
                self._client.need_driver().wake()  # later items may fit now

    def schedule_flush(self, lying: int) -> None:
        """Make sure that the items in the put buffer are sent: `lying` of them, the latest just added.

        They are sent at once if there was no turn lately, or if a caller has slept since, since another may
        wait for them; otherwise when there are many, or after `GATHER` seconds.
        """
        soon(partial(self._schedule_flush, lying))

    def _schedule_flush(self, lying: int) -> None:
        driver = self._client.driver
        assert driver is not None
        now = time.monotonic()
        inside = self._client.hold.here  # in a finalizer, which runs in the middle of a change
        if lying >= MANY or now - driver.turned > QUIET or sleeps[0] != self._slept or inside:
            self._slept = sleeps[0]
            driver.help()
        else:
            with self._client.hold:
                driver.wake_within(GATHER, now)

    def _let_consumers_catch_up(self) -> None:
        """Wait while the ring is crowded and consumers take items: items that do not fit into the ring cost
        the consumers more. All items put before are being sent."""
        client, sender = self._client, self._client.machine.sender
        with suppress(QueueLost, NotAdmitted, ValueError, Busy), client.hold:  # the next call raises these
            while sender.backlog > EASED and not sender.overtaken:
                before = sender.settled, sender.backlog
                client.wait_until(lambda: sender.backlog <= EASED, time.monotonic() + CATCH_UP)
                sender.overtaken = (sender.settled, sender.backlog) == before

    @property
    def put_buffer(self) -> PutBuffer:
        """The buffer for small items, used without the lock; call `schedule_flush` afterwards."""
        return self._client.machine.sender.put_buffer

    @safe
    def post(self, item: Any, to: str | None = None) -> PutRequest:
        """Queue one item and return at once; `PutRequest.last` is its number once it is admitted."""
        encoded = self._encode([item])
        with self._client.hold:
            entry = self._submit(encoded, to)
            self._client.need_driver().wake()
            return entry

    @safe
    def attend(self) -> None:
        """Register as a producer, whether or not anything is put. Raises `QueueLost`."""
        with self._client.hold:
            self._client.open(produces=True)
            self._client.need_driver().wake()

    @safe
    def tags(self) -> frozenset[str]:
        """The tags by which consumers can be addressed now, in addition to their own names."""
        with self._client.hold:
            return self._client.session.tags if self._client.machine.session else frozenset()

    @safe
    def flush(self, timeout: float | None) -> None:
        """Wait until the broker has everything that was put before, and all acks.

        Raises `TimeoutError` after `timeout` seconds, and `QueueLost`.

        A request arrives after everything sent before it, so its answer confirms all of that. A host that was
        restarted meanwhile is sent the missing items again, and the request, too.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._client.hold:
            sender = self._client.open().sender
            upto, answered = sender.number(), False
            while sender.unstored(upto) or not answered:
                self._client.wait_until(lambda: not sender.unsent(upto), deadline)
                answered = not sender.unsent(upto) and self._client.asked("flush", deadline)
                if not answered and deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError(
                        f"the host at {self._client.address} may lack {sender.unstored(upto)} of the items"
                        f" put here: it has not confirmed all within {timeout:g} s; what it lacks is still"
                        " sent"
                    )

    @safe
    def join_items(self) -> None:
        """Wait until every item of the queue is done. Raises `QueueLost`.

        A restarted host has no record of items until their producers have resent them. So this sends the
        request only after everything put here is done, and again if another host has taken over by then.
        """
        with self._client.hold:
            machine, epoch = self._client.open(), None
            while epoch != machine.facts["epoch"]:
                epoch = machine.facts["epoch"]
                self._client.wait_until(lambda: not machine.sender.unsettled, None)
                self._client.ask_now(QueueMessageType.ASK, "join")

    def _submit(self, encoded: deque[Encoded | Batch], to: str | None, *, waits: bool = True) -> PutRequest:
        """Queue items of a call that does not wait before those of calls that wait: they may be smaller, and
        fit."""
        machine = self._client.open(produces=True)
        if self._client.session.shut:
            raise ShutDown
        machine.sender.barred = self._client.closed
        machine.sender.put_buffer.trusted = bool(machine.facts["trusted"])
        entry = PutRequest(encoded, to)
        machine.sender.put(entry, first=not waits)
        return entry

    def _encode(self, items: list[Any]) -> deque[Encoded | Batch]:
        """Serialize `items`, without the lock: pickling runs the program's code, which may use the queue."""
        with self._client.hold:
            machine = self._client.open(produces=True)
            if self._client.session.shut:
                raise ShutDown
            trusted, most = bool(machine.facts["trusted"]), machine.facts["maxbytes"]
        encoded: deque[Encoded | Batch]
        if len(items) > 1:
            runs = item_codec.encode_many(items, trusted=trusted, most=BATCH_ITEMS, size=BATCH_BYTES // 2)
            encoded = deque(Batch(*run) for run in runs)
        else:
            encoded = deque(item_codec.encode_parts(item, trusted=trusted) for item in items)
        long = [some for some in map(several, encoded) if len(some.body) > most > 0]
        if (largest := max(map(_largest, long), default=0)) > most:
            raise ValueError(f"an item of {largest} bytes is larger than the whole queue: maxbytes is {most}")
        return encoded

    @safe
    def outcomes(self) -> list[Settled]:
        """The outcomes other than "done" since the last call (dead, undeliverable, answered).

        Raises `QueueLost` if there are none and the host has been absent for too long.
        """
        with self._client.hold:
            outcomes = list(self._client.machine.sender.outcomes)
            self._client.machine.sender.outcomes.clear()
            if not outcomes:
                self._client.check_host(time.monotonic())
            return outcomes


def _largest(some: Batch) -> int:
    """Bytes of the largest of these items."""
    return len(some.body) if some.count == 1 else max(map(len, item_codec.split(joined(some.body))))
