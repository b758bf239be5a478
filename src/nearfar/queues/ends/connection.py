"""One process's connection to a far queue: opened when first used, waited on, asked, and left."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from nearfar.errors import NotAdmitted, QueueLost
from nearfar.net.access import OWN, Access
from nearfar.net.addresses import Address
from nearfar.net.deputy import Abandoned, errand_here, safe, safely
from nearfar.net.descriptors import CALLER, make_room
from nearfar.net.ending import left_behind
from nearfar.net.here import about_me, new_name, new_session_stem
from nearfar.queues.ends.hold import BUSY, Hold
from nearfar.queues.ends.loop import EndLoop
from nearfar.queues.ends.machine import EndMachine, State
from nearfar.queues.ends.session import Session
from nearfar.queues.wire import Kind


class Connection:
    """Connects to the queue at `address` when it is first used, as `access` says.

    `wait` (seconds) is how long a host may be away before calls raise `QueueLost`. `tags` are names under
    which this end's consumer can be addressed, besides its own. A `helper` puts for another producer that
    stays for as long: neither its coming nor its loss matters for the counted end.

    `on_change` is called by the end's thread after anything came from the host: it must be quick and never
    raise.
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
    ) -> None:
        self.name = new_name()
        self._wait = wait
        self._address = address
        self._access = access
        self._on_change = on_change
        self._hold = Hold()
        stem = new_session_stem(self.name)
        self._machine = EndMachine(
            self.name, about_me(), tags, helper=helper, stem=stem, trusts=access.trusted
        )
        self._loop: EndLoop | None = None
        self._closed = False
        self._mentioned: dict[str, int] = {}
        self._glimpse = 0
        self._glimpsed: dict[str, int] = {}
        self.waited_for = True
        """Whether its program waits at its end for what was put to be with the host."""
        self.waiting = 0
        """Calls that wait for something now."""

    @safe
    def reach(self, timeout: float) -> bool:
        """Look for a host for up to `timeout` seconds; tells whether one has answered. Raises `QueueLost`."""
        with self._hold:
            self._begin()
            self._wait_until(lambda: bool(self._machine.facts), time.monotonic() + timeout)
            return bool(self._machine.facts)

    # -- questions -------------------------------------------------------------------------------

    @safe
    def ask(self, what: str, argument: Any = None) -> Any:
        """Ask the host."""
        with self._hold:
            self._open()
            return self._ask(Kind.ASK, what, argument)

    @safe
    def mention(self, what: str, figure: int) -> None:
        """Tell the host a figure, one of `asks.TOLD`, which it forgets with this end.

        Never waits: a figure is left out while the host has not confirmed the one before.
        """
        with self._hold:
            asks = self._machine.asks
            if self._loop is not None and not asks.unanswered(self._mentioned.get(what, 0)):
                self._mentioned[what] = asks.add(Kind.ASK, what, figure)
                self._loop.wake()

    @safe
    def glimpse_counts(self) -> dict[str, int]:
        """The queue's figures as the host told them last, and ask for them anew. Never waits."""
        with self._hold:
            asks = self._machine.asks
            if asks.answered(self._glimpse):
                self._glimpsed = asks.take(self._glimpse) or {}
            if self._loop is not None and not asks.unanswered(self._glimpse):
                self._glimpse = asks.add(Kind.ASK, "counts")
                self._loop.wake()
            return self._glimpsed

    @property
    def facts(self) -> dict[str, Any]:
        """What the host told about the queue; asks it if it has not yet."""
        return safely(self._facts)

    def _facts(self) -> dict[str, Any]:
        with self._hold:
            return self._open().facts

    def _ask(
        self, kind: Kind, what: str = "", argument: Any = None, until: Callable[[], bool] = lambda: False
    ) -> Any:
        asks = self._machine.asks
        number = asks.add(kind, what, argument)
        try:
            self._wait_until(lambda: asks.answered(number) or until(), None)
        finally:
            answer = asks.take(number)
        return answer

    def _asked(self, what: str, deadline: float | None) -> bool:
        """Ask something of which only that it is answered matters; tells whether it was, in time."""
        asks = self._machine.asks
        number = asks.add(Kind.ASK, what)
        try:
            self._wait_until(lambda: asks.answered(number), deadline)
            return asks.answered(number)
        finally:
            asks.take(number)

    # -- the end of an end -----------------------------------------------------------------------

    @safe
    def close(self) -> None:
        """Say goodbye, in the background; `join` waits for it. Calls that wait raise `ValueError`."""
        with self._hold:
            if self._closed:
                return
            self._closed = True
            self._machine.sender.bar()
            self._hold.notify()
            self._machine.leave()
            if self._loop is not None:
                self._loop.wake()

    @safe
    def abandon(self) -> None:
        """Leave at once, without goodbye."""
        with self._hold:
            self._closed = True
            self._machine.abandon()
            if self._loop is not None:
                self._loop.wake()

    @property
    def gone(self) -> bool:
        """Whether nothing of it runs any more."""
        return self._loop is None or not self._loop.running

    @safe
    def join(self, timeout: float | None = None) -> None:
        """After `close`: wait until the host has said goodbye, or is away and there is nothing to tell it.

        Raises `QueueLost` when the host does not come back for what was put.
        """
        if self._loop is None:
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            with self._hold:
                self._wait_until(self._may_go, deadline, leaving=True)
                if not self._may_go():
                    raise QueueLost(f"the queue at {self._address} did not take in all within {timeout:g} s")
        finally:
            self.abandon()
            self._loop.join(5.0)

    def _may_go(self) -> bool:
        machine = self._machine
        if machine.refused or machine.barred:
            return machine.sender.handed_over
        return machine.may_go(time.monotonic())

    # -- inside (with the lock held) -------------------------------------------------------------

    def _open(self, *, produces: bool = False, consumes: bool = False) -> EndMachine:
        """Connect if this is the first use, wait for the host's welcome, and take on a role."""
        machine = self._machine
        self._begin()
        if not machine.facts:
            self._wait_until(lambda: bool(machine.facts), None)
        machine.roles.produces |= produces
        machine.roles.consumes |= consumes
        return machine

    def _begin(self) -> None:
        if self._closed:
            raise ValueError("the queue is closed")
        self._check_admitted()
        machine = self._machine
        if machine.state is State.NEW:
            make_room(CALLER, "an end of a queue")
            machine.connect(time.monotonic())
            self._loop = EndLoop(machine, self._address, self._access, self._hold, self._on_change)

    @property
    def _session(self) -> Session:
        assert self._machine.session is not None
        return self._machine.session

    def _need_loop(self) -> EndLoop:
        assert self._loop is not None
        return self._loop

    def _wait_until(self, done: Callable[[], Any], deadline: float | None, *, leaving: bool = False) -> None:
        """Wait until `done`, or the deadline, or the host has been away for too long, or until `close`: what
        a put has no room for would else never let it say goodbye."""
        loop, seated, called = self._need_loop(), False, False
        if loop.turning:
            raise RuntimeError(BUSY)
        errand = errand_here()
        if errand is not None:
            errand.stir = loop.stir
        self.waiting += 1
        try:
            while not done():
                if errand is not None and errand.abandoned:
                    raise Abandoned
                patience = self._patience(deadline, leaving)
                if patience <= 0:
                    loop.wake()
                    return
                seated = seated or loop.take_seat()
                if seated:
                    loop.sit(patience)
                else:
                    if not called:
                        loop.wake()
                        called = True
                    self._hold.wait(patience)
        finally:
            self.waiting -= 1
            if seated:
                loop.leave_seat()

    def _patience(self, deadline: float | None, leaving: bool) -> float:
        """Seconds to wait at most; raises what the wait ends with, if not with the deadline."""
        machine, now = self._machine, time.monotonic()
        self._check_host(now)
        if machine.state is State.CLOSED or (self._closed and not leaving):
            raise SystemExit if left_behind() else ValueError("the queue is closed")
        until = (now if machine.state is State.OPEN else machine.greeting_since) + self._wait
        return (until if deadline is None else min(until, deadline)) - now

    def _check_admitted(self) -> None:
        machine = self._machine
        if machine.refused:
            raise QueueLost(f"the queue at {self._address} refused this end: {machine.refused}")
        if machine.barred:
            raise NotAdmitted(f"cannot use the queue at {self._address}: {machine.barred}")

    def _check_host(self, now: float) -> None:
        self._check_admitted()
        machine = self._machine
        if machine.state is State.GREETING and now >= machine.greeting_since + self._wait:
            raise QueueLost(f"no host has answered at {self._address} for {self._wait:g} s")
