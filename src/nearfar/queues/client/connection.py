"""The connection of one process to a far queue, for any number of threads: requests, waits, and closing."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from nearfar.errors import NotAdmitted, QueueLost
from nearfar.net.addresses import Address
from nearfar.net.auth import OWN, Access
from nearfar.net.driver import Busy, Driver, Hold
from nearfar.net.interrupts import Abandoned, deferred_call_here, safe, safely
from nearfar.net.process import about_me, left_behind, new_name, new_session_stem
from nearfar.net.resources import CALLER, make_room
from nearfar.net.session import SessionStage
from nearfar.queues.broker.server import BUSY, Broker
from nearfar.queues.client.consumer import LINGER
from nearfar.queues.client.io import ClientSockets
from nearfar.queues.client.protocol import ClientProtocol
from nearfar.queues.client.session import BrokerSession
from nearfar.queues.messages import QueueMessageType
from nearfar.serialization.shared_ring import enabled


class ClientConnection:
    """Connects to the queue at `address` on first use, according to `access`.

    `wait` (seconds) is how long the host may be absent before calls raise `QueueLost`. `tags` are names by
    which this client's consumer can be addressed, in addition to its own. A `helper` puts for another
    producer, which stays connected for as long: it is not counted for the end of the queue.

    The client's thread calls `on_change` after anything arrived from the broker: it must be fast, and must
    not raise.

    `host`: the broker of that queue, if it is in this process. While it runs, the client needs no sockets and
    no thread.
    """

    def __init__(
        self,
        address: Address,
        access: Access = OWN,
        *,
        wait: float = 60.0,
        tags: tuple[str, ...] = (),
        helper: bool = False,
        on_change: Callable[[], None] | None = None,
        host: Broker | None = None,
    ) -> None:
        self.name = new_name()
        self._host = host
        self._wait = wait
        self.address = address
        self._access = access
        self._on_change = on_change
        self.hold = Hold(BUSY) if host is None else host.hold
        stem = new_session_stem(self.name)
        about = about_me()
        about["shares"] = about["machine"] if enabled() else ""
        self.machine = ClientProtocol(self.name, about, tags, helper=helper, stem=stem, trusts=access.trusted)
        self._sockets: ClientSockets | None = None
        self.driver: Driver | None = None
        self.closed = False
        self._mentioned: dict[str, int] = {}
        self._glimpse = 0
        self._glimpsed: dict[str, int] = {}
        self.waited_for = True
        """Whether the program waits at its exit until the host has received all items put."""
        self.waiting = 0
        """The number of calls that wait now."""

    @safe
    def reach(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for a host; returns whether one answered. Raises `QueueLost`."""
        with self.hold:
            self._begin()
            self.wait_until(lambda: bool(self.machine.facts), time.monotonic() + timeout)
            return bool(self.machine.facts)

    # -- requests --------------------------------------------------------------------------------

    @safe
    def ask(self, what: str, argument: Any = None) -> Any:
        """Send the broker a request, and return its answer."""
        with self.hold:
            self.open()
            return self.ask_now(QueueMessageType.ASK, what, argument)

    @safe
    def mention(self, what: str, figure: int) -> None:
        """Send the broker a figure, one of `session.TOLD`, which it keeps until this session ends.

        Never waits: a figure is skipped while the broker has not confirmed the previous one.
        """
        with self.hold:
            asks = self.machine.asks
            if self.driver is not None and not asks.unanswered(self._mentioned.get(what, 0)):
                self._mentioned[what] = asks.add(QueueMessageType.ASK, what, figure)
                self.driver.wake()

    @safe
    def glimpse_counts(self) -> dict[str, int]:
        """The queue's figures as last received; also requests new ones. Never waits."""
        with self.hold:
            asks = self.machine.asks
            if asks.answered(self._glimpse):
                self._glimpsed = asks.take(self._glimpse) or {}
            if self.driver is not None and not asks.unanswered(self._glimpse):
                self._glimpse = asks.add(QueueMessageType.ASK, "counts")
                self.driver.wake()
            return self._glimpsed

    @property
    def facts(self) -> dict[str, Any]:
        """The broker's facts about the queue; waits for them on first use."""
        return safely(self._facts)

    def _facts(self) -> dict[str, Any]:
        with self.hold:
            return self.open().facts

    def ask_now(
        self,
        kind: QueueMessageType,
        what: str = "",
        argument: Any = None,
        until: Callable[[], bool] = lambda: False,
        ready: Callable[[], bool] | None = None,
    ) -> Any:
        """Send a request, and wait for its answer, or `until`; `ready` as for `wait_until`."""
        asks = self.machine.asks
        number = asks.add(kind, what, argument)
        try:
            self.wait_until(
                lambda: asks.answered(number) or until(),
                None,
                ready=lambda: asks.answered(number) or (ready or until)(),
            )
        finally:
            answer = asks.take(number)
        return answer

    def asked(self, what: str, deadline: float | None) -> bool:
        """Send a request whose answer has no content; returns whether it was answered in time."""
        asks = self.machine.asks
        number = asks.add(QueueMessageType.ASK, what)
        try:
            self.wait_until(lambda: asks.answered(number), deadline)
            return asks.answered(number)
        finally:
            asks.take(number)

    # -- closing ---------------------------------------------------------------------------------

    @safe
    def close(self) -> None:
        """Send all items and then BYE, in the background; `join` waits for that. Calls that wait raise
        `ValueError`."""
        with self.hold:
            if self.closed:
                return
            self.closed = True
            self.machine.sender.bar()
            self.machine.leave()
            if self.driver is not None:
                self.driver.wake()

    def between_turns(self, do: Callable[[], object]) -> None:
        """Call `do`: now, or if a garbage collection has interrupted the queue's own code, after that."""
        try:
            do()
        except Busy:
            self.need_driver().afterwards(do)

    @safe
    def abandon(self) -> None:
        """Leave at once, without BYE."""
        with self.hold:
            self.closed = True
            self.machine.abandon()
            if self.driver is not None:
                self.driver.wake()

    @property
    def gone(self) -> bool:
        """Whether the client has left, and its thread, if it had one, has ended."""
        if self.driver is None:
            return True
        return self.machine.calling.stage is SessionStage.CLOSED and (
            self._sockets is None or not self.driver.running
        )

    @safe
    def join(self, timeout: float | None = None) -> None:
        """After `close`: wait until the broker has answered, or is absent and nothing remains to be sent.

        Raises `QueueLost` if the host does not return to receive the items.
        """
        if self.driver is None:
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            with self.hold:
                self.wait_until(self._may_go, deadline, leaving=True)
                if not self._may_go():
                    raise QueueLost(f"the queue at {self.address} did not take all items in {timeout:g} s")
        finally:
            self.abandon()
            if self._sockets is not None:
                self.driver.join(5.0)

    def _may_go(self) -> bool:
        machine = self.machine
        if machine.refused or machine.barred:
            return machine.sender.handed_over
        return machine.may_go(time.monotonic())

    # -- inside (with the lock held) -------------------------------------------------------------

    def open(self, *, produces: bool = False, consumes: bool = False) -> ClientProtocol:
        """Connect on first use, wait for WELCOME, and add roles."""
        machine = self.machine
        self._begin()
        if not machine.facts:
            self.wait_until(lambda: bool(machine.facts), None)
        machine.roles.produces |= produces
        machine.roles.consumes |= consumes
        return machine

    def _begin(self) -> None:
        if self.closed:
            raise ValueError("the queue is closed")
        self._check_admitted()
        machine = self.machine
        if machine.calling.stage is not SessionStage.NEW:
            return
        if self._host is not None and self._host.attach(machine, self._lose_host):
            self.driver = self._host.driver
            return
        make_room(CALLER, "a client of a queue")
        machine.connect(time.monotonic())
        self._open_sockets()

    def _open_sockets(self) -> None:
        self._sockets = ClientSockets(self.machine, self.address, self._access, self.hold, self._on_change)
        self.driver = self._sockets.driver

    def _lose_host(self) -> None:
        """The broker in this process has ended: from now on use sockets, like any other client."""
        if self.machine.calling.stage is not SessionStage.CLOSED:
            self.machine.begin_again(time.monotonic())
            try:
                self._open_sockets()
            except RuntimeError:  # no more threads, at the exit of the process
                self.machine.abandon()

    @property
    def session(self) -> BrokerSession:
        assert self.machine.session is not None
        return self.machine.session

    def need_driver(self) -> Driver:
        assert self.driver is not None
        return self.driver

    def wait_until(
        self,
        done: Callable[[], Any],
        deadline: float | None,
        *,
        leaving: bool = False,
        ready: Callable[[], Any] | None = None,
    ) -> None:
        """Wait until `done`, the deadline, or `close`, or until the host has been absent for too long. (A put
        that waits for room would otherwise keep `close` from finishing.)

        `ready`: whether to call `done`, if that does more than to read; other threads call it as well.
        """
        deferred_call, helped = deferred_call_here(), None
        self.waiting += 1
        try:
            while not done():
                if deferred_call is not None and deferred_call.abandoned:
                    raise Abandoned
                now, driver = time.monotonic(), self.need_driver()
                until = self._latest(now, deadline, leaving)
                if until <= now:
                    driver.wake()
                    return
                help_first = driver is not helped and not self.machine.quiet(now)
                helped = driver
                if not help_first and self.machine.receiver.news():
                    driver.wake_within(LINGER, now)
                held = self.hold.give_up()
                try:
                    if help_first:
                        driver.help()
                    driver.wait_until(partial(self._wait_is_over, ready or done, driver, leaving), until)
                finally:
                    self.hold.take_back(held)
        finally:
            self.waiting -= 1

    def _wait_is_over(self, ready: Callable[[], Any], driver: Driver, leaving: bool) -> bool:
        """Without the lock: a change after this comes with a turn, or with a call of `rouse`."""
        return (
            ready()
            or self.machine.calling.stage is SessionStage.CLOSED
            or (self.closed and not leaving)
            or self.driver is not driver  # the hosting in this process has ended
        )

    def _latest(self, now: float, deadline: float | None, leaving: bool) -> float:
        """When to stop waiting; raises if the wait must end for another reason than the deadline."""
        calling = self.machine.calling
        if calling.stage is SessionStage.OPEN and (leaving or not self.closed):
            until = now + self._wait
        else:
            self.check_host(now)
            if calling.stage is SessionStage.CLOSED or (self.closed and not leaving):
                raise SystemExit if left_behind() else ValueError("the queue is closed")
            until = (now if calling.stage is SessionStage.OPEN else calling.away_since) + self._wait
        return until if deadline is None else min(until, deadline)

    def _check_admitted(self) -> None:
        machine = self.machine
        if machine.refused:
            raise QueueLost(f"the queue at {self.address} refused this client: {machine.refused}")
        if machine.barred:
            raise NotAdmitted(f"cannot use the queue at {self.address}: {machine.barred}")

    def check_host(self, now: float) -> None:
        machine = self.machine
        if machine.refused or machine.barred:
            self._check_admitted()
        if machine.calling.stage is SessionStage.GREETING and now >= machine.calling.away_since + self._wait:
            raise QueueLost(f"no host has answered at {self.address} for {self._wait:g} s")
