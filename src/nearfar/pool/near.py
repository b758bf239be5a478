"""The engine whose coordinator is this process: its workers are children, and whoever joins at an address."""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import secrets
import socket
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from multiprocessing.context import BaseContext
from time import monotonic
from typing import Any

from nearfar.coordinator.clients import Client
from nearfar.coordinator.local import LocalWorkers
from nearfar.coordinator.machine import Coordinator
from nearfar.coordinator.status import counts, idle
from nearfar.coordinator.tasks import State
from nearfar.coordinator.workers import Initializer
from nearfar.errors import InitializerFailed, PoolBroken
from nearfar.net import forks
from nearfar.net.pickles.calls import CallPickler
from nearfar.net.pickles.failures import load_error
from nearfar.net.pickles.names import inherited_main
from nearfar.net.waker import Waker
from nearfar.pool.call import Call
from nearfar.pool.endings import tell
from nearfar.pool.leader import Leadership
from nearfar.pool.shield import Shield
from nearfar.worker.crew import Crew

HELP_EVERY = 64
"""Calls handed in after which whoever does so does some of the I/O, too."""

log = logging.getLogger(__name__)


class NearEngine:
    """See `Engine`. Any thread may use it; a child that inherits it by a fork may not.

    The coordinator and the crew are touched in `step` and under its lock only. A call goes into `_inbox`
    without the lock, so that Ctrl-C can do no harm there.
    """

    def __init__(
        self,
        processes: int | None,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        maxtasksperchild: int | None,
        context: BaseContext | None,
        *,
        address: str | None = None,
        insecure: bool = False,
        lease: float = 10.0,
        daemon: bool = True,
    ) -> None:
        """`processes`: None for as many as this process may use CPUs. Raises `AddressError`, `OSError`."""
        count = _usable_cpus() if processes is None else processes
        context = context or multiprocessing.get_context()
        name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        far = address is not None
        main = {} if far else inherited_main(context.get_start_method())
        self._pickler = CallPickler(far=far, main=main)
        self._client = Client(
            name, self._pickled(initializer, initargs), read_error=_initializer_failed, eager=True
        )
        self._coordinator = Coordinator()
        self._coordinator.client_came(self._client, monotonic())
        self._local = LocalWorkers(self._coordinator, self._hopeless)
        self._crew = self._local.crew = Crew(
            self._local,
            count,
            context=context,
            quota=maxtasksperchild,
            main_of=name if main else None,
            far=far,
            daemon=daemon,
        )
        self._least = count
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._shield = Shield()
        self._inbox: deque[Call] = deque()
        self._handed_in = 0
        self._hungry = True
        """Whether a worker has room for more, as far as the last step knew."""
        self._broken: PoolBroken | None = None
        self._closing = False
        self._over = False
        self._waker = Waker()
        self._crew.watch(self._waker.fileno(), self._waker.clear)
        self._leadership = Leadership(self, self._waker, f"nearfar-pool-{name}")
        forks.watch(self)
        try:
            self._crew.start()
        except BaseException:
            self._crew.close()
            self._waker.close()
            raise
        atexit.register(_at_exit, weakref.ref(self))
        self._leadership.start()

    # -- for Pool and Executor -----------------------------------------------------------------------

    @property
    def size(self) -> int:
        """As `Engine.size`."""
        return max(1, self._least, len(self._coordinator.workers))

    def submit(self, call: Call) -> None:
        """As `Engine.submit`."""
        if self._closing or self._broken or self._owner != os.getpid():
            self._refuse()
        func, args, kwargs = call.take()
        call.client = self._client.name
        if call.mode:
            call.function, call.blob, call.buffers = self._pickler.dump_chunk(func, args)
        else:
            call.function, call.blob, call.buffers = self._pickler.dump_call(func, args, kwargs)
        self._inbox.append(call)
        if self._hungry:
            self.step([])
            self._leadership.reconsider()
        else:
            self._handed_in += 1
            if self._handed_in >= HELP_EVERY:
                self._handed_in = 0
                self._leadership.help()

    def cancel(self, call: Call) -> bool:
        """As `Engine.cancel`."""
        with self._lock, self._shield:
            self._take_in()
            cancelled = call.state is not State.SETTLED and self._coordinator.cancel(call)
        if cancelled:
            call.failed(CancelledError())
        self.step([])
        return bool(cancelled)

    def cancel_waiting(self) -> None:
        """As `Engine.cancel_waiting`."""
        with self._lock, self._shield:
            self._take_in()
            waiting = [call for call in self._client.waiting if self._coordinator.cancel(call)]
        for call in waiting:
            call.failed(CancelledError())

    def wait_until(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """As `Engine.wait_until`."""
        return self._leadership.wait_until(ready, timeout)

    def close(self) -> None:
        """As `Engine.close`."""
        if self._owner == os.getpid() and not self._closing:
            self._closing = True
            self.step([])
            self._waker.wake()

    def terminate(self) -> None:
        """As `Engine.terminate`."""
        if self._owner != os.getpid():
            return
        self._closing = True
        with self._lock, self._shield:
            self._take_in()
            self._coordinator.fail_client(self._client, CancelledError())
            self._end()
        tell(self._coordinator.outcomes)
        self._waker.wake()
        self._leadership.join()

    def join(self, timeout: float | None = None) -> bool:
        """As `Engine.join`."""
        if self._owner != os.getpid() or not self._leadership.wait_until(lambda: self._over, timeout):
            return self._owner != os.getpid()
        self._leadership.join()
        return True

    def counts(self) -> dict[str, int]:
        """As `Engine.counts`."""
        with self._lock:
            now = counts(self._coordinator)
            now["workers"] += sum(not member.ready for member in self._crew.members.values())
        ahead = now["given"] - now["running"]
        return now | {"waiting": now["waiting"] + ahead + len(self._inbox)}

    # -- the work, for who leads ---------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """As `Work.over`."""
        return self._over

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """As `Work.poll`."""
        try:
            return self._crew.poll(timeout)
        except ValueError:  # closed meanwhile
            return []

    def step(self, events: list[tuple[int, int]]) -> None:
        """As `Work.step`."""
        with self._lock, self._shield:
            if not self._over:
                try:
                    self._step(events, monotonic())
                except BaseException as error:
                    self._break(f"the pool's own work failed: {error!r}", error)
        tell(self._coordinator.outcomes)

    def deadline(self) -> float | None:
        """As `Work.deadline`."""
        deadlines = [
            each for each in (self._coordinator.deadline(), self._crew.deadline()) if each is not None
        ]
        return min(deadlines, default=None)

    def forget_parent(self) -> None:
        """In a forked child: no use of this engine works there."""
        self._lock = threading.Lock()
        forks.keep(self._waker, self._leadership)

    # -- under the lock ------------------------------------------------------------------------------

    def _step(self, events: list[tuple[int, int]], now: float) -> None:
        self._crew.dispatch(events)
        self._take_in()
        self._coordinator.tick(now)
        self._crew.tick(now)
        self._coordinator.flush(now)
        self._hungry = self._coordinator.hungry
        if self._closing and idle(self._coordinator):
            self._let_workers_go()

    def _take_in(self) -> None:
        inbox, submit = self._inbox, self._coordinator.submit
        while inbox:
            submit(inbox.popleft())

    def _let_workers_go(self) -> None:
        """All is done, and no more comes: the workers end by themselves."""
        self._crew.resize(0)
        for worker in list(self._coordinator.workers.values()):
            self._coordinator.drain(worker)
        if not self._crew.members:
            self._end()

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._crew.close()
            self._waker.wake()

    def _hopeless(self, reason: str) -> None:
        self._break(reason, None)

    def _break(self, reason: str, cause: BaseException | None) -> None:
        """Nothing works any more: say so to every caller, now and later."""
        if self._broken is None:
            self._broken = PoolBroken(reason)
            self._broken.__cause__ = cause
            self._coordinator.fail_client(self._client, self._broken)

    # -- small things --------------------------------------------------------------------------------

    def _refuse(self) -> None:
        if self._owner != os.getpid():
            raise RuntimeError("this pool belongs to the process that made it")
        if self._broken:
            raise self._broken
        raise RuntimeError("cannot schedule new futures after shutdown")

    def _pickled(
        self, initializer: Callable[..., object] | None, args: tuple[Any, ...]
    ) -> Initializer | None:
        if initializer is None:
            return None
        function, blob, buffers = self._pickler.dump_call(initializer, args, None)
        return Initializer(function, blob, buffers)


def _initializer_failed(blob: Any) -> BaseException:
    cause = load_error(blob)
    error = InitializerFailed(f"the initializer raised {type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return error


def _usable_cpus() -> int:
    """As the standard's pools count them."""
    if hasattr(os, "process_cpu_count"):
        return os.process_cpu_count() or 1
    return os.cpu_count() or 1


def _at_exit(engine: weakref.ref[NearEngine]) -> None:
    alive = engine()
    if alive is not None and not alive.over:
        alive.terminate()
