"""The engine that is a client of a remote coordinator."""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any

from nearfar.coordinator.connection import CoordinatorConnection
from nearfar.coordinator.task import Task
from nearfar.net.addresses import Address
from nearfar.net.auth import Access
from nearfar.net.interrupts import safely
from nearfar.net.process import about_me, new_name, new_session_stem
from nearfar.net.resources import CALLER, make_room
from nearfar.net.session import SendMessage, SessionStage
from nearfar.pool.base_engine import BaseEngine, no_workers, read_initializer_error, travelling_initializer
from nearfar.pool.call import Call
from nearfar.pool.codec import pickled, without_pickle
from nearfar.pool.engine import PoolPromises
from nearfar.pool.far_client import FarClient

FAREWELL = 2.0
"""Seconds that a terminated pool waits for its coordinator to receive BYE."""


class FarEngine(BaseEngine):
    """The workers of the coordinator at `place`, which other programs may use, too; connects with
    `access`."""

    def __init__(
        self,
        place: Address,
        access: Access,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        *,
        wait: float = 60.0,
        daemon: bool = True,
        plain: bool = False,
    ) -> None:
        """`wait`: seconds without a coordinator after which every call fails with `CoordinatorLost`.
        `plain`: send and read no pickle.

        Nothing is sent before first use. Raises `AddressError`, and what pickling raises.
        """
        make_room(CALLER, "a client of a pool")
        codec = without_pickle() if plain else pickled(far=True, main={})
        first = travelling_initializer(codec, initializer, initargs)
        super().__init__(new_name(), codec, daemon=daemon)
        self._caller = CoordinatorConnection(place.seen_from_here(), access)
        self._machine = FarClient(
            self.name,
            about_me() | {"host": socket.gethostname()},
            initializer=None if first is None else (first.function, first.blob, list(first.buffers)),
            read_error=partial(read_initializer_error, codec),
            wait=wait,
            place=self.address,
            stem=new_session_stem(self.name),
        )
        self._outcomes = self._machine.outcomes
        self._poll = select.epoll()
        self._poll.register(self._waker.fileno(), select.EPOLLIN)
        self._descriptor = -1
        self._unread = False
        """Whether there may be unread messages that the descriptor does not report any more."""
        self._last_moment = float("inf")
        self._patience: float | None = None
        """When to warn that no coordinator or worker is available."""
        self._look_at = 0.0
        """When a step must check more than received messages and submitted calls."""
        self._begin()

    @property
    def address(self) -> str:
        """The address of the coordinator."""
        return str(self._caller.address)

    @property
    def size(self) -> int:
        """As `Engine.size`. On first use, waits for the coordinator's answer."""
        if not self._machine.workers and not self.over:
            safely(self._connect)
            self.wait_until(lambda: self._machine.calling.stage >= SessionStage.OPEN or self.over, None)
        return max(1, self._machine.workers)

    def counts(self) -> dict[str, int]:
        """As `Engine.counts`, for this client's calls; the workers are shared."""
        (waiting, given), handed_in = safely(
            partial(self._alone.look, lambda: (self._machine.counts(), len(self._inbox)))
        )
        running = min(given, self._machine.workers)
        ahead = given - running
        return {
            "workers": self._machine.workers,
            "running": running,
            "waiting": waiting + ahead + handed_in,
            "done": self._machine.done,
            "stale": self._machine.stale,
        }

    def promises(self) -> PoolPromises:
        """As `Engine.promises`."""
        return replace(super().promises(), survives_killed_coordinator=True)

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """As `Work.poll`. If there are unread messages, the next step is due at once."""
        try:
            return self._poll.poll(timeout)
        except (OSError, ValueError):  # closed meanwhile
            return []

    def _deadline(self) -> float | None:
        if self._machine.calling.stage in (SessionStage.NEW, SessionStage.CLOSED):
            return None
        self._look_at = min(self._machine.deadline(monotonic()), self._last_moment)
        if self._patience is not None:
            self._look_at = min(self._look_at, self._patience)
        return 0.0 if self._unread else self._look_at  # its descriptor may not report them again

    def end_workers(self, signum: int) -> None:
        """As `Engine.end_workers`: the coordinator has the workers killed that run a call of this client."""
        self.terminate()

    # -- under the lock ----------------------------------------------------------------------------

    def _connect(self) -> None:
        self._alone(None, self._machine.connect, monotonic())
        self.step([])
        self._schedule_flush()

    def _step(self, events: list[tuple[int, int]], now: float) -> None:
        for descriptor, _ in events:
            if descriptor == self._descriptor:
                self._unread = True
            else:
                self._waker.clear()
        machine = self._machine
        looks = now >= self._look_at or machine.calling.stage is not SessionStage.OPEN or self._closing
        if self._unread or looks:
            heard, why = self._caller.receive(read=self._unread)
            for envelope in heard:
                machine.receive(envelope, now)
            if why:
                machine.turned_away(why, now)
        if self._inbox:
            if machine.calling.stage is SessionStage.NEW:
                machine.connect(now)
            self._take_in()
        if looks:
            machine.tick(now)
            if self._closing:
                machine.leave()
                self._shut = not machine  # BYE is sent now
        for action in machine.flush(now):
            if isinstance(action, SendMessage):
                self._caller.send(action.envelope)
            else:
                self._open(action.session)
        self._unread = self._caller.pending()
        self._has_capacity = machine.has_capacity or machine.error is not None or self._broken is not None
        if looks or machine.error is not None or machine.calling.stage is not SessionStage.OPEN:
            self._look(now)

    def _look(self, now: float) -> None:
        """Checks that not every step needs: for a warning, and for the end."""
        machine = self._machine
        self._look_at = now  # until `_deadline` sets it
        self._notices.look(self._missing(now), now)
        self._patience = self._notices.deadline()
        if machine.error is not None and self._broken is None:
            self._break(machine.error)
        over = machine.calling.stage is SessionStage.CLOSED or (
            machine.calling.stage is SessionStage.NEW and self._closing
        )
        if (over and (self._closing or machine.error is not None)) or now >= self._last_moment:
            self._end()

    def _missing(self, now: float) -> str:
        machine = self._machine
        if machine.away(now) or machine.calling.stage is SessionStage.GREETING:
            return f"no coordinator answers at {self.address}; waiting for one"
        waiting = machine.calling.stage is SessionStage.OPEN and not machine.workers and len(machine)
        return no_workers(self.address) if waiting else ""

    def _open(self, session: str) -> None:
        if self._descriptor >= 0:  # before it is closed: a forked child may keep it open
            self._poll.unregister(self._descriptor)
            self._descriptor = -1
        descriptor = self._caller.open(session)
        if descriptor >= 0:
            self._poll.register(descriptor, select.EPOLLIN)
        self._descriptor = descriptor

    def _submit(self, calls: deque[Call]) -> None:
        self._machine.submit_all(calls)

    def _cancel(self, calls: Sequence[Call]) -> list[Call]:
        return self._machine.cancel(calls)

    def _asked_back(self) -> Container[Task]:
        return self._machine.cancelling

    def _waiting(self) -> list[Call]:
        return [task for task in self._machine.unsent if isinstance(task, Call)]

    def _fail_all(self, error: BaseException) -> None:
        self._machine.fail(error)

    def _leave_now(self) -> None:
        self._machine.leave()
        self._last_moment = min(self._last_moment, monotonic() + FAREWELL)
        if self._machine.calling.stage is not SessionStage.OPEN or self._machine.away(monotonic()):
            self._end()

    def _let_go(self) -> None:
        self._caller.close()
        self._poll.close()
