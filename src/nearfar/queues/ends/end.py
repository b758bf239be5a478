"""One process's end of a far queue, for any number of threads."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from nearfar.errors import Empty, Full, ProducerLost, QueueLost, ShutDown
from nearfar.net import codec
from nearfar.net.addresses import Address
from nearfar.queues.ends.loop import EndLoop
from nearfar.queues.ends.machine import EndMachine, State
from nearfar.queues.ends.receiver import Taken
from nearfar.queues.ends.sender import Entry, Settled
from nearfar.queues.ends.session import LINGER, Session
from nearfar.queues.host.watch import about_me
from nearfar.queues.wire import LONGEST_NAME, Kind


class End:
    """Connects to the queue at `address` when it is first used.

    `wait` (seconds) is how long a host may be away before calls raise `QueueLost`. `tags` are names under
    which this end's consumer can be addressed, besides its own. `on_change` is called by the end's thread
    after anything came from the host: it must be quick and never raise.
    """

    def __init__(
        self,
        address: Address,
        *,
        wait: float = 60.0,
        tags: tuple[str, ...] = (),
        on_change: Callable[[], None] | None = None,
    ) -> None:
        host = socket.gethostname()[: LONGEST_NAME // 2]
        self.name = f"{host}-{os.getpid()}-{secrets.token_hex(4)}"
        self._wait = wait
        self._address = address
        self._on_change = on_change
        self._changed = threading.Condition()
        self._machine = EndMachine(self.name, about_me(), tags)
        self._loop: EndLoop | None = None
        self._closed = False

    # -- putting ---------------------------------------------------------------------------------

    def put(self, items: list[Any], *, block: bool, timeout: float | None, to: str | None = None) -> int:
        """Put `items` in order and return the number of the last. Raises `Full` with how many went in."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            machine = self._open(produces=True)
            self._check_puts(machine)
            entry = Entry(self._encode(machine, items), to)
            machine.sender.put(entry)
            if not entry.items or block:
                self._need_loop().wake()
            if not entry.items:
                return entry.last
            try:
                if block:
                    self._wait_until(lambda: not entry.items or self._session.shut, deadline)
                else:
                    self._ask(Kind.NEED, until=lambda: not entry.items)
            finally:
                admitted = entry.admitted
                machine.sender.withdraw(entry)
                self._need_loop().wake()  # what waits behind it may fit now
                self._changed.notify_all()
            if entry.admitted < len(items):
                if self._session.shut:
                    raise ShutDown
                raise Full(admitted)
            return entry.last

    def post(self, item: Any, to: str | None = None) -> Entry:
        """Queue one item for sending and return at once; `Entry.last` is its number once it is admitted."""
        with self._changed:
            machine = self._open(produces=True)
            self._check_puts(machine)
            entry = Entry(self._encode(machine, [item]), to)
            machine.sender.put(entry)
            self._need_loop().wake()
            return entry

    def tags(self) -> frozenset[str]:
        """The names under which consumers can be addressed now, besides their own."""
        with self._changed:
            return self._session.tags if self._machine.session else frozenset()

    def _check_puts(self, machine: EndMachine) -> None:
        if self._closed:
            raise ValueError("the queue is closed")
        if self._session.shut:
            raise ShutDown

    def _encode(self, machine: EndMachine, items: list[Any]) -> deque[bytes]:
        trusted = bool(machine.facts["trusted"])
        encoded = deque(codec.encode(item, trusted=trusted) for item in items)
        most = machine.facts["maxbytes"]
        if most and any(len(item) > most for item in encoded):
            raise ValueError(f"an item is larger than the whole queue may be ({most} bytes)")
        return encoded

    def outcomes(self) -> list[Settled]:
        """What was settled with more than "done" since the last call (dead, undeliverable, answered)."""
        with self._changed:
            outcomes = list(self._machine.sender.outcomes)
            self._machine.sender.outcomes.clear()
            return outcomes

    # -- taking ----------------------------------------------------------------------------------

    def take(
        self, most: int, holder: int, *, block: bool, timeout: float | None, to_the_end: bool = False
    ) -> list[Taken]:
        """At least one item and up to `most`, for `holder` (a thread, or any other number).

        Raises `Empty`, `ShutDown` after a shutdown, and what reading the item raises. With `to_the_end`
        also at the counted end: `ShutDown`, or `ProducerLost` if not every producer said goodbye.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            machine = self._open(consumes=True)
            if self._session.shut_immediately:
                raise ShutDown
            if not machine.receiver.buffered:
                self._await_items(machine, most, block, deadline, to_the_end)
            taken = self._take_buffered(machine, most, holder)
            if not taken:
                self._explain_nothing(machine, to_the_end)
            self._tell_of_takes(machine)
            return taken

    def _await_items(
        self, machine: EndMachine, most: int, block: bool, deadline: float | None, to_the_end: bool
    ) -> None:
        machine.receiver.waiters += most
        try:
            if block:
                self._need_loop().wake()
                self._wait_until(
                    lambda: machine.receiver.buffered or self._session.ended(counted=to_the_end), deadline
                )
            else:
                self._ask(Kind.REPORT, until=lambda: machine.receiver.buffered > 0)
        finally:
            machine.receiver.waiters -= most

    def _take_buffered(self, machine: EndMachine, most: int, holder: int) -> list[Taken]:
        taken: list[Taken] = []
        while len(taken) < most and not (taken and machine.receiver.next_is_unreadable()):
            try:
                one = machine.receiver.take(holder, time.monotonic())
            except Exception:
                self._need_loop().wake()
                raise
            if one is None:
                break
            taken.append(one)
        return taken

    def _explain_nothing(self, machine: EndMachine, to_the_end: bool) -> None:
        if not self._session.ended(counted=to_the_end):
            raise Empty
        if to_the_end and self._session.lost:
            raise ProducerLost(self._session.lost)
        raise ShutDown

    def _tell_of_takes(self, machine: EndMachine) -> None:
        """Puts that wait for room learn of it at once; otherwise news of takes may gather for a moment."""
        receiver, now = machine.receiver, time.monotonic()
        if machine.sender.bounded or receiver.unreported() * 2 > receiver.window(now):
            self._need_loop().wake()
        else:
            self._need_loop().wake_within(LINGER, now)

    # -- saying what became of it ----------------------------------------------------------------

    def session(self) -> int:
        """Which session this is: positions of an earlier one mean nothing any more."""
        return self._machine.sessions

    def session_name(self) -> str:
        """The name by which this end's consumer can be addressed, in this session."""
        with self._changed:
            return self._open(consumes=True).session_name

    def done(self, session: int, position: int, answer: bytes | None = None) -> None:
        """An item is done; one of an earlier session is somebody else's by now."""
        with self._changed:
            if session == self._machine.sessions:
                self._machine.receiver.done(position, answer)
                self._wake_soon()

    def failed(self, session: int, position: int) -> None:
        """An item was given up."""
        with self._changed:
            if session == self._machine.sessions:
                self._session.fail(position)
                self._wake_soon()

    def done_by(self, holder: int | None = None) -> None:
        """All that `holder` took is done (None: all that anyone took, but for deliveries)."""
        with self._changed:
            if self._machine.session is not None:
                self._session.receiver.done_by(holder)

    def done_oldest(self, holder: int) -> bool:
        """The oldest item that `holder`, or else anyone here, took is done; False if there is none."""
        with self._changed:
            self._wake_soon()
            return self._machine.session is not None and self._session.receiver.done_oldest(holder)

    def _wake_soon(self) -> None:
        if self._loop is not None:
            self._loop.wake()

    # -- questions -------------------------------------------------------------------------------

    def ask(self, what: str, argument: Any = None) -> Any:
        """Ask the host."""
        with self._changed:
            self._open()
            return self._ask(Kind.ASK, what, argument)

    @property
    def facts(self) -> dict[str, Any]:
        """What the host told about the queue; asks it if it has not yet."""
        with self._changed:
            return self._open().facts

    def _ask(
        self, kind: Kind, what: str = "", argument: Any = None, until: Callable[[], bool] = lambda: False
    ) -> Any:
        asks = self._machine.asks
        number = asks.add(kind, what, argument)
        self._need_loop().wake()
        try:
            self._wait_until(lambda: asks.answered(number) or until(), None)
        finally:
            answer = asks.take(number)
        return answer

    # -- the end of an end -----------------------------------------------------------------------

    def close(self) -> None:
        """Say goodbye, in the background; `join` waits for it."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._machine.leave()
            if self._loop is not None:
                self._loop.wake()

    def abandon(self) -> None:
        """Leave at once, without goodbye."""
        with self._changed:
            self._closed = True
            self._machine.abandon()
            if self._loop is not None:
                self._loop.wake()

    def join(self, timeout: float | None = None) -> None:
        """After `close`: wait for the goodbye. Raises `QueueLost` when the host does not come back for it."""
        if self._loop is None:
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            with self._changed:
                self._wait_until(lambda: self._machine.state is State.CLOSED, deadline)
                if self._machine.state is not State.CLOSED:
                    raise QueueLost(f"the queue at {self._address} did not take in all within {timeout:g} s")
        finally:
            self.abandon()
            self._loop.join(5.0)

    # -- inside (with the lock held) -------------------------------------------------------------

    def _open(self, *, produces: bool = False, consumes: bool = False) -> EndMachine:
        """Connect if this is the first use, wait for the host's welcome, and take on a role."""
        machine = self._machine
        if self._closed:
            raise ValueError("the queue is closed")
        if machine.state is State.NEW:
            machine.connect(time.monotonic())
            self._loop = EndLoop(machine, self._address, self._changed, self._on_change)
        if not machine.facts:
            self._wait_until(lambda: bool(machine.facts), None)
        machine.roles.produces |= produces
        machine.roles.consumes |= consumes
        return machine

    @property
    def _session(self) -> Session:
        assert self._machine.session is not None
        return self._machine.session

    def _need_loop(self) -> EndLoop:
        assert self._loop is not None
        return self._loop

    def _wait_until(self, done: Callable[[], Any], deadline: float | None) -> None:
        """Wait until `done`, or the deadline, or the host has been away for too long."""
        machine = self._machine
        while not done():
            if machine.refused:
                raise QueueLost(f"the queue at {self._address} refused this end: {machine.refused}")
            if machine.state is State.CLOSED:
                raise ValueError("the queue is closed")
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                return
            lost = machine.greeting_since + self._wait
            if machine.state is State.GREETING and now >= lost:
                raise QueueLost(f"no host has answered at {self._address} for {self._wait:g} s")
            until = now + self._wait if machine.state is State.OPEN else lost
            self._changed.wait(min(until, deadline or until) - now)
