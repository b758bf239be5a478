"""The engine whose scheduler runs in this process: its workers are children, and those that join it."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Container, Sequence
from concurrent.futures import CancelledError
from functools import partial
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from time import monotonic
from typing import TYPE_CHECKING, Any

from nearfar.coordinator.scheduler import Scheduler
from nearfar.coordinator.server import LocalWorkers
from nearfar.coordinator.state import Client
from nearfar.coordinator.status import counts, idle, snapshot
from nearfar.coordinator.task import Task
from nearfar.net.driver import Events
from nearfar.net.interrupts import safely
from nearfar.net.process import new_name
from nearfar.net.reliable import LEASE
from nearfar.pool.base_engine import (
    BaseEngine,
    near_initializer,
    no_workers,
    read_initializer_error,
    travelling_initializer,
)
from nearfar.pool.call import Call
from nearfar.pool.codec import pickled, without_pickle
from nearfar.serialization.names import inherited_main
from nearfar.worker.supervisor import Supervisor

if TYPE_CHECKING:
    from nearfar.coordinator.server import CoordinatorServer
    from nearfar.dashboard.board import Board
    from nearfar.dashboard.model import Status
    from nearfar.net.addresses import Address
    from nearfar.net.auth import Access

FAREWELL = 2.0
"""Seconds that a terminated pool waits for remote workers to receive the news."""


class NearEngine(BaseEngine):
    """Worker processes of this process and, with an address, workers that join there."""

    def __init__(
        self,
        processes: int | None,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        maxtasksperchild: int | None,
        context: BaseContext | None,
        *,
        place: Address | None = None,
        access: Access | None = None,
        lease: float = LEASE,
        daemon: bool = True,
        plain: bool = False,
    ) -> None:
        """`processes`: None for the number of CPUs that this process may use. With a `place`, other workers
        with `access` may join there. `plain`: send and read no pickle.

        Raises `AddressError`, `KeysError`, `OSError`; if `plain`, also `ItemError` for the initializer.
        """
        count = _usable_cpus() if processes is None else processes
        context = context or multiprocessing.get_context()
        far = place is not None
        main = {} if far or plain else inherited_main(context.get_start_method())
        codec = without_pickle() if plain else pickled(far=far, main=main)
        if far:
            travels, inherited = travelling_initializer(codec, initializer, initargs), None
        else:
            travels, inherited = near_initializer(codec, initializer, initargs)
        super().__init__(new_name(), codec, daemon=daemon)
        read_error = partial(read_initializer_error, codec)
        self._client = Client(self.name, travels, read_error=read_error, eager=True)
        self._coordinator = Scheduler()
        self._coordinator.client_came(self._client, monotonic())
        self._outcomes = self._coordinator.outcomes
        hire = partial(
            Supervisor,
            count=count,
            context=context,
            quota=maxtasksperchild,
            main_of=self.name if main else None,
            far=far,
            daemon=daemon,
            inherited=inherited,
        )
        self._local = LocalWorkers(self._coordinator, hire, self._break)
        self._supervisor = self._local.supervisor
        self._processes = count
        self._server: CoordinatorServer | None = None
        self._board: Board | None = None
        self._last_signal: int | None = None
        """The signal that ends its workers."""
        self._last_moment: float | None = None
        """After `terminate`: when it ends at the latest."""
        self._supervisor.watch(self._waker.fileno(), self._waker.clear)
        try:
            if place is not None and access is not None:
                self._server = _open_server(place, self._coordinator, access, self._supervisor, lease)
            self._supervisor.start()
        except BaseException:
            self._let_go()
            self._waker.close()
            raise
        self._begin()

    @property
    def address(self) -> str | None:
        """The address where other workers may join, with the port that the system chose."""
        return None if self._server is None else str(self._server.address)

    @property
    def size(self) -> int:
        """As `Engine.size`."""
        return max(1, self._processes, len(self._coordinator.workers))

    def counts(self) -> dict[str, int]:
        """As `Engine.counts`."""
        now = safely(partial(self._alone.look, self._count))
        ahead = now["given"] - now["running"]
        return now | {"waiting": now["waiting"] + ahead}

    def show(self, board: Board) -> None:
        """Publish the status on `board` from now on."""
        from nearfar.coordinator.statistics import TaskStatistics

        self._coordinator.book.statistics = TaskStatistics(time.time)
        self._board = board
        self._waker.wake()

    def poll(self, timeout: float | None) -> Events:
        """As `Work.poll`. If the server has unread messages, the next step is due at once."""
        try:
            return self._supervisor.epoll.poll(timeout)
        except (OSError, ValueError):  # closed meanwhile
            return []

    def _deadline(self) -> float:
        due, alarm = self._supervisor.deadline(), self._coordinator.deadline()
        if alarm is not None and alarm < due:
            due = alarm
        if self._board is not None and self._board.due < due:
            due = self._board.due
        if self._server is None:
            return due
        if self._server.unread:  # its descriptor may not report them again
            return 0.0
        due = min(due, self._server.due)
        for each in (self._last_moment, self._notices.deadline()):
            if each is not None and each < due:
                due = each
        return due

    def end_workers(self, signum: int) -> None:
        """As `Engine.end_workers`. Remote workers that run a task are killed by their agent."""
        self._closing = True
        self._last_signal = signum
        safely(self._end_workers_here)

    @property
    def processes(self) -> dict[int, BaseProcess]:
        """The live worker processes of this machine, by pid."""
        return safely(partial(self._alone.look, self._processes_now))

    def _end_workers_here(self) -> None:
        self._driver.help()

    # -- under the lock ----------------------------------------------------------------------------

    def _step(self, events: Events, now: float) -> None:
        if events:
            self._supervisor.dispatch(events)
        if self._server is not None:
            self._server.turn(now)
        if self._inbox:
            self._take_in()
        if now >= self.due:
            self._coordinator.tick(now)
            self._supervisor.tick(now)
        self._coordinator.flush(now)
        if self._client.error is not None and self._broken is None and not self._stopping:
            self._break(self._client.error)
        self._has_capacity = bool(self._coordinator.idle) or self._broken is not None
        if self._last_signal is not None:
            self._end_workers(self._last_signal)
        if self._closing and idle(self._coordinator):
            self._let_workers_go()
        if self._server is not None and not self.over:
            alone = not (self._processes or self._coordinator.workers or idle(self._coordinator))
            self._notices.look(no_workers(self.address) if alone else "", now)
            self._server.say(now)
            self._server.pending()
        if self._board is not None:
            self._board.look(partial(self._status, now), now)

    def _status(self, now: float) -> Status:
        self._local.measure()
        book, workers = self._coordinator.book, self._coordinator.workers.values()
        found = {
            "workers": len(workers),
            "running": sum(1 for worker in workers if worker.batches),
            "waiting": len(self._client.waiting)
            + len(self._inbox),  # cancelled ones too: there may be a million
            "given": sum(worker.holds() for worker in workers),
            "done": book.done,
            "lost": book.lost,
        }
        if self._server is not None:
            found = self._server.counts() | found
        about: Status = {"address": self.address or "", "ready": bool(workers)}
        return about | snapshot(self._coordinator, found, now)

    def _count(self) -> dict[str, int]:
        now = counts(self._coordinator)
        now["waiting"] += len(self._inbox)  # counted here: calls could leave the inbox between two reads
        now["workers"] += sum(not member.ready for member in self._supervisor.members.values())
        return now

    def _submit(self, calls: deque[Call]) -> None:
        self._coordinator.book.submit_all(self._client, calls)

    def _cancel(self, calls: Sequence[Call]) -> list[Call]:
        return [call for call in calls if self._coordinator.cancel(call)]

    def _asked_back(self) -> Container[Task]:
        return self._coordinator.book.cancelled

    def _waiting(self) -> list[Call]:
        return [call for call in self._client.waiting if isinstance(call, Call)]

    def _fail_all(self, error: BaseException) -> None:
        self._coordinator.fail_client(self._client, error)

    def _processes_now(self) -> dict[int, BaseProcess]:
        return {member.pid: member.process for member in self._supervisor.members.values()}

    def _end_workers(self, signum: int) -> None:
        """End the workers; tasks that they return are dropped in the following steps."""
        self._outcomes.extend((call, CancelledError()) for call in self._cancel(self._waiting()))
        self._local.end(signum)

    def _let_workers_go(self) -> None:
        """Let the workers end: all calls are done, and there will be no more."""
        self._shut = True
        self._local.drain()
        if not self._supervisor.members:
            self._end()

    def _leave_now(self) -> None:
        if self._server is None or not self._coordinator.workers:
            self._end()
        elif self._last_moment is None:  # remote workers must be notified first
            self._last_moment = monotonic() + FAREWELL
            self._coordinator.client_gone(self.name)
            self._supervisor.resize(0)
        elif monotonic() >= self._last_moment or self._server.peers.heard():
            self._end()

    def _let_go(self) -> None:
        if self._server is not None:
            self._server.close()
        self._supervisor.close()


def _open_server(
    place: Address, coordinator: Scheduler, access: Access, polls: Supervisor, lease: float
) -> CoordinatorServer:
    # Only here: a pool without an address needs no ZeroMQ.
    from nearfar.coordinator.server import CoordinatorServer

    return CoordinatorServer(place, coordinator, access, polls, lease=lease)


def _usable_cpus() -> int:
    """As the standard library counts CPUs for its pools."""
    if hasattr(os, "process_cpu_count"):
        return os.process_cpu_count() or 1
    return os.cpu_count() or 1
