"""An end as its producers see it."""

from __future__ import annotations

import time
from collections import deque
from functools import partial
from typing import Any

from nearfar.errors import Full, ShutDown
from nearfar.net import codec
from nearfar.net.deputy import safe, soon
from nearfar.queues.ends.batches import Entry, Several, several
from nearfar.queues.ends.connection import Connection
from nearfar.queues.ends.sender import BATCH_BYTES, BATCH_ITEMS, Settled
from nearfar.queues.ends.tray import MANY, Tray
from nearfar.queues.wire import Kind

QUIET = 0.00005
"""Seconds without a turn after which what is put is sent by who puts it."""
GATHER = 0.001
"""Seconds that what is put may wait for more, while puts follow one another."""


class Putting(Connection):
    """Puts, for any number of threads."""

    _slept = 0
    """What `EndLoop.sleeps` was when something was last sent at once."""

    @safe
    def put(self, items: list[Any], *, block: bool, timeout: float | None, to: str | None = None) -> int:
        """Put `items` in order and return the number of the last. Raises `Full` with how many went in."""
        deadline = None if timeout is None else time.monotonic() + timeout
        encoded = self._encode(items)
        with self._hold:
            entry = self._submit(encoded, to, waits=block)
            if entry.items:
                self._wait_for_room(entry, block, deadline)
            if entry.admitted < len(items):
                if self._session.shut:
                    raise ShutDown
                raise Full(entry.admitted)
        self._need_loop().help()
        return entry.last

    def _wait_for_room(self, entry: Entry, block: bool, deadline: float | None) -> None:
        try:
            if block:
                self._wait_until(lambda: not entry.items or self._session.shut, deadline)
            else:
                while entry.items and not self._session.shut:  # a share at a time, until there is no room
                    if not self._ask(Kind.NEED, until=lambda: not entry.items):
                        break
        finally:
            if entry.items:
                self._machine.sender.withdraw(entry)
                self._need_loop().wake()  # what waits behind it may fit now
                self._hold.notify()

    def nudge(self, lying: int) -> None:
        """So many items lie in the tray, the latest slipped in just now: see that they go.

        They go at once where it has been quiet, or where a caller slept since, for then they may be what
        another waits for; else when there are many, or after a moment.
        """
        soon(partial(self._nudge, lying))

    def _nudge(self, lying: int) -> None:
        loop = self._need_loop()
        now = time.monotonic()
        if lying >= MANY or now - loop.turned > QUIET or loop.sleeps != self._slept:
            self._slept = loop.sleeps
            loop.help()
        else:
            with self._hold:
                loop.wake_within(GATHER, now)

    @property
    def tray(self) -> Tray:
        """Where small items may be put without more ado, but for `nudge`."""
        return self._machine.sender.tray

    @safe
    def post(self, item: Any, to: str | None = None) -> Entry:
        """Queue one item for sending and return at once; `Entry.last` is its number once it is admitted."""
        encoded = self._encode([item])
        with self._hold:
            entry = self._submit(encoded, to)
            self._need_loop().wake()
            return entry

    @safe
    def attend(self) -> None:
        """Be counted as a producer from now on, whether anything is put or not. Raises `QueueLost`."""
        with self._hold:
            self._open(produces=True)
            self._need_loop().wake()

    @safe
    def tags(self) -> frozenset[str]:
        """The names under which consumers can be addressed now, besides their own."""
        with self._hold:
            return self._session.tags if self._machine.session else frozenset()

    @safe
    def flush(self, timeout: float | None) -> None:
        """Wait until the host has all that was put before, and has heard of all that is done.

        Raises `TimeoutError` after `timeout` seconds, and `QueueLost`.

        A question comes behind all that was sent before it, so its answer says that this is there. A host
        that came anew in between is sent again what it lacks, and asked again.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._hold:
            sender = self._open().sender
            upto, answered = sender.number(), False
            while sender.unstored(upto) or not answered:
                self._wait_until(lambda: not sender.unsent(upto), deadline)
                answered = not sender.unsent(upto) and self._asked("flush", deadline)
                if not answered and deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError(
                        f"the host at {self._address} may lack {sender.unstored(upto)} of the items put here:"
                        f" it has not confirmed all within {timeout:g} s; what it lacks is sent all the same"
                    )

    @safe
    def join_items(self) -> None:
        """Wait until every item of the queue is done. Raises `QueueLost`.

        A host that was started again does not know of items until their producers have sent them again: it
        is not asked before all that was put here is done, and asked anew if it is another by then.
        """
        with self._hold:
            machine, epoch = self._open(), None
            while epoch != machine.facts["epoch"]:
                epoch = machine.facts["epoch"]
                self._wait_until(lambda: not machine.sender.unsettled, None)
                self._ask(Kind.ASK, "join")

    def _submit(self, encoded: deque[bytes | Several], to: str | None, *, waits: bool = True) -> Entry:
        """Put what does not wait before what does: of two that do not fit, one may be small."""
        machine = self._open(produces=True)
        if self._session.shut:
            raise ShutDown
        machine.sender.barred = self._closed
        machine.sender.tray.trusted = bool(machine.facts["trusted"])
        entry = Entry(encoded, to)
        machine.sender.put(entry, first=not waits)
        return entry

    def _encode(self, items: list[Any]) -> deque[bytes | Several]:
        """Without the lock: pickling runs the program's code, which may use the queue."""
        with self._hold:
            machine = self._open(produces=True)
            if self._session.shut:
                raise ShutDown
            trusted, most = bool(machine.facts["trusted"]), machine.facts["maxbytes"]
        encoded: deque[bytes | Several]
        if len(items) > 1:
            runs = codec.encode_many(items, trusted=trusted, most=BATCH_ITEMS, size=BATCH_BYTES // 2)
            encoded = deque(Several(*run) for run in runs)
        else:
            encoded = deque(codec.encode(item, trusted=trusted) for item in items)
        long = [some for some in map(several, encoded) if len(some.body) > most > 0]
        if (largest := max(map(_largest, long), default=0)) > most:
            raise ValueError(
                f"an item of {largest} bytes is larger than the whole queue may be: maxbytes is {most}"
            )
        return encoded

    @safe
    def outcomes(self) -> list[Settled]:
        """What was settled with more than "done" since the last call (dead, undeliverable, answered).

        Raises `QueueLost` when there is none and the host has been away for too long.
        """
        with self._hold:
            outcomes = list(self._machine.sender.outcomes)
            self._machine.sender.outcomes.clear()
            if not outcomes:
                self._check_host(time.monotonic())
            return outcomes


def _largest(some: Several) -> int:
    """Bytes of the largest of these items."""
    return len(some.body) if some.count == 1 else max(map(len, codec.split(some.body)))
