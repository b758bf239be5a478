"""What the engines share that whoever waits drives: who may use them, what waits to go in, what is told."""

from __future__ import annotations

import atexit
import os
import secrets
import socket
import threading
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from time import monotonic

from nearfar.coordinator.tasks import State
from nearfar.errors import PoolBroken
from nearfar.net import forks
from nearfar.net.pickles.calls import CallPickler
from nearfar.net.waker import Waker
from nearfar.pool.call import Call
from nearfar.pool.endings import Outcomes, tell
from nearfar.pool.leader import Leadership
from nearfar.pool.shield import Shield

HELP_EVERY = 64
"""Calls handed in after which whoever does so does some of the I/O, too."""


class DrivenEngine(ABC):
    """See `Engine`. Any thread may use it; a child that inherits it by a fork may not.

    What moves tasks is touched in `step` and under its lock only. A call goes into `_inbox` without the
    lock, so that Ctrl-C can do no harm there.
    """

    def __init__(self, name: str, pickler: CallPickler) -> None:
        self.name = name
        self._pickler = pickler
        self._owner = os.getpid()
        self._inherited = False
        """Whether this is a child's copy: costs less to ask than who we are."""
        self._lock = threading.Lock()
        self._shield = Shield()
        self._inbox: deque[Call] = deque()
        self._handed_in = 0
        self._hungry = True
        """Whether a worker has room for more, as far as the last step knew."""
        self._broken: PoolBroken | None = None
        self._failed = False
        """Whether a step raised, which may have lost sight of a call."""
        self._closing = False
        self._stopping = False
        self._over = False
        self._stepping: int | None = None
        """The thread that is in a step: what it does may start a garbage collection, which may end a pool."""
        self._waker = Waker()
        self._leadership = Leadership(self, self._waker, f"nearfar-pool-{name}")
        forks.watch(self)

    def _begin(self) -> None:
        """Everything is there: begin to work."""
        _working.add(self)
        self._leadership.start()

    # -- for Pool and Executor ---------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        """As `Engine.submit`."""
        if self._closing or self._broken or self._inherited:
            self._refuse()
        func, args, kwargs = call.take()
        call.client = self.name
        if call.mode:
            call.function, call.blob, call.buffers = self._pickler.dump_chunk(func, args)
        else:
            call.function, call.blob, call.buffers = self._pickler.dump_call(func, args, kwargs)
        self._inbox.append(call)
        if self._hungry:
            self.step([])  # tells nothing: a caller may hold a lock that some callback takes
            self._leadership.reconsider()
            if self._outcomes:
                self._waker.wake()
        else:
            self._handed_in += 1
            if self._handed_in >= HELP_EVERY:
                self._handed_in = 0
                self._leadership.help()

    def cancel(self, call: Call) -> bool:
        """As `Engine.cancel`. A worker elsewhere that may not have begun is asked: that takes a moment."""
        with self._lock, self._shield:
            self._take_in()
            cancelled = None if call.state is State.SETTLED else self._cancel(call)
        if cancelled:
            call.failed(CancelledError())
        self.step([])
        if cancelled is None and not call.settled:
            self._leadership.reconsider()
            self.wait_until(lambda: self._knows(call), None)
        return bool(cancelled) or (call.settled and call.cancelled())

    def cancel_waiting(self) -> None:
        """As `Engine.cancel_waiting`."""
        with self._lock, self._shield:
            self._take_in()
            cancelled = [call for call in self._waiting() if self._cancel(call)]
        for call in cancelled:
            call.failed(CancelledError())

    def wait_until(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """As `Engine.wait_until`. Raises `PoolBroken` if the pool's own work failed: `ready` may never be."""
        met = self._leadership.wait_until(lambda: ready() or self._failed, timeout)
        if self._failed and self._broken is not None and not ready():
            raise self._broken
        return met

    def close(self) -> None:
        """As `Engine.close`."""
        if self._owner == os.getpid() and not self._closing:
            self._closing = True
            if self._stepping != threading.get_ident():
                self.step([])
                self._waker.wake()

    def terminate(self) -> None:
        """As `Engine.terminate`."""
        if self._owner != os.getpid():
            return
        self._closing = self._stopping = True
        if self._stepping == threading.get_ident():  # a garbage collection, in the middle of a step
            return
        self.step([])
        self.tell()
        self._waker.wake()
        self._leadership.join()

    def join(self, timeout: float | None = None) -> bool:
        """As `Engine.join`."""
        if self._owner != os.getpid():
            return True
        if not self._leadership.wait_until(lambda: self._over, timeout):
            return False
        self._leadership.join()
        return True

    # -- the work, for who leads -------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """As `Work.over`."""
        return self._over

    def step(self, events: list[tuple[int, int]]) -> None:
        """As `Work.step`."""
        with self._lock, self._shield:
            self._stepping = threading.get_ident()
            try:
                if not self._over:
                    self._step(events, monotonic())
                if self._stopping and not self._over:
                    self._stop()
            except BaseException as error:
                self._failed = True
                self._break(f"the pool's own work failed: {error!r}", error)
            finally:
                self._stepping = None

    def tell(self) -> bool:
        """As `Work.tell`."""
        return tell(self._outcomes)

    def forget_parent(self) -> None:
        """In a forked child: no use of this engine works there."""
        self._inherited = True
        self._lock = threading.Lock()
        forks.keep(self._waker, self._leadership)

    # -- under the lock ----------------------------------------------------------------------------

    def _stop(self) -> None:
        self._take_in()
        self._fail_all(CancelledError())
        self._leave_now()

    def _take_in(self) -> None:
        inbox, submit = self._inbox, self._submit
        while inbox:
            submit(inbox.popleft())

    def _end(self) -> None:
        """Nothing is left to do, or to wait for."""
        if not self._over:
            self._over = True
            self._let_go()
            self._waker.wake()

    def _break(self, reason: str | BaseException, cause: BaseException | None = None) -> None:
        """Nothing works any more: say so to every caller, now and later."""
        if self._broken is None:
            self._broken = reason if isinstance(reason, PoolBroken) else PoolBroken(str(reason))
            self._broken.__cause__ = cause or self._broken.__cause__
            self._fail_all(self._broken)

    def _refuse(self) -> None:
        if self._owner != os.getpid():
            raise RuntimeError("this pool belongs to the process that made it")
        if self._broken:
            raise self._broken
        raise RuntimeError("cannot schedule new futures after shutdown")

    # -- what differs ------------------------------------------------------------------------------

    @property
    @abstractmethod
    def size(self) -> int:
        """As `Engine.size`."""

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """As `Engine.counts`."""

    @abstractmethod
    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """As `Work.poll`."""

    @abstractmethod
    def deadline(self) -> float | None:
        """As `Work.deadline`."""

    @property
    @abstractmethod
    def _outcomes(self) -> Outcomes:
        """What tasks have come to."""

    @abstractmethod
    def _submit(self, call: Call) -> None:
        """Take a call in."""

    @abstractmethod
    def _cancel(self, call: Call) -> bool | None:
        """True: it never runs, and nobody else will say so. False: too late. None: its outcome will tell."""

    @abstractmethod
    def _knows(self, call: Call) -> bool:
        """Whether it is known what became of the wish to cancel."""

    @abstractmethod
    def _waiting(self) -> list[Call]:
        """The calls that have not gone out."""

    @abstractmethod
    def _fail_all(self, error: BaseException) -> None:
        """Every call without an outcome comes to this one."""

    @abstractmethod
    def _step(self, events: list[tuple[int, int]], now: float) -> None:
        """Do all that is to be done now."""

    @abstractmethod
    def _leave_now(self) -> None:
        """Stop what runs, and see to it that `_end` is called."""

    @abstractmethod
    def _let_go(self) -> None:
        """Close everything."""


def new_name() -> str:
    """A client's name, like no other."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


_working: weakref.WeakSet[DrivenEngine] = weakref.WeakSet()


def _at_exit() -> None:
    for engine in list(_working):
        if not engine.over:
            engine.terminate()


atexit.register(_at_exit)
