"""The base class of the near and the far engine."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Container, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from math import inf
from time import monotonic
from typing import Any

from nearfar.coordinator.scheduler import Outcomes, tell
from nearfar.coordinator.state import Initializer
from nearfar.coordinator.task import Task, TaskState
from nearfar.errors import InitializerFailed, PoolBroken
from nearfar.net import process
from nearfar.net.driver import Driver, Events, Hold
from nearfar.net.interrupts import exposed, safely, struck_anywhere
from nearfar.net.process import Waker, left_behind
from nearfar.net.timers import DelayedWarning
from nearfar.pool.call import Call
from nearfar.pool.codec import ClientCodec
from nearfar.pool.engine import SHUT, Closed, PoolPromises, check_callable
from nearfar.serialization.bare import NUMBERS, are_bare
from nearfar.serialization.tracebacks import anew
from nearfar.worker.lifetime import Inherited, initialize


def travelling_initializer(
    codec: ClientCodec, initializer: Callable[..., object] | None, args: tuple[Any, ...]
) -> Initializer | None:
    """The initializer as it is sent to workers. Raises what pickling raises."""
    return None if initializer is None else Initializer(*codec.dump_call(initializer, args, None))


def near_initializer(
    codec: ClientCodec, initializer: Callable[..., object] | None, args: tuple[Any, ...]
) -> tuple[Initializer | None, Inherited | None]:
    """The initializer as sent, and what child processes inherit if it cannot be pickled.

    Raises `ItemError` if it must be sent without pickle, and cannot.
    """
    try:
        return travelling_initializer(codec, initializer, args), None
    except Exception:
        if codec.plain:
            raise
        assert initializer is not None
        return travelling_initializer(codec, initialize, ()), (initializer, args)


def read_initializer_error(codec: ClientCodec, blob: Any) -> BaseException:
    """The error that every task of a pool gets when its initializer raised."""
    cause = codec.load_error(blob)
    error = InitializerFailed(f"the initializer raised {type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return error


log = logging.getLogger("nearfar.pool")


class PoolWarnings:
    """Warnings found under an engine's lock, and logged without the lock: a log handler may use the pool."""

    def __init__(self) -> None:
        self._patience = DelayedWarning()
        self.found: deque[str] = deque()
        """Warnings to log."""

    def look(self, missing: str, now: float) -> None:
        """As `DelayedWarning.look`."""
        if said := self._patience.look(missing, now):
            self.found.append(said)

    def deadline(self) -> float | None:
        """As `DelayedWarning.deadline`."""
        return self._patience.deadline()

    def tell(self) -> None:
        """Log the found warnings. From any thread."""
        while self.found:
            with suppress(IndexError):  # another thread logs, too
                log.warning("%s", self.found.popleft())


def no_workers(address: str | None) -> str:
    """The warning for a pool that no worker has joined."""
    return f"no worker has joined {address} yet; start one with: nearfar worker --connect {address}"


HELP_EVERY = 128
"""Submitted calls after which the submitting thread does some of the I/O."""

LONGEST_CANCEL = 5.0
"""Seconds that `cancel` waits for workers to return calls that may not have begun."""


class BaseEngine(ABC):
    """An engine whose I/O is done by waiting threads; what differs between engines is abstract here.

    See `Engine`. Any thread may use it; a child that inherits it by a fork may not.

    Code that moves tasks runs only inside `_alone`, and never in an `exposed` thread: a deputy runs it
    instead (see `nearfar.net.interrupts`). Exceptions of signal handlers are delayed until it is done.
    """

    def __init__(self, name: str, codec: ClientCodec, *, daemon: bool) -> None:
        """`daemon`: drop its calls at the program's exit; else wait for them."""
        self.name = name
        self.daemon = daemon
        self._codec = codec
        self._names = codec.names
        self._owner = os.getpid()
        self._alone = Hold("a finalizer cannot wait for the pool in the middle of whose work it runs")
        self._inbox: deque[Call] = deque()
        self._handed_in = 0
        self._has_capacity = True
        """Whether a submitted call can be sent at once, as of the last step."""
        self.due = inf
        """As `Work.due`, as of the last turn."""
        self._broken: PoolBroken | None = None
        self.failed = False
        """As `Work.failed`: a turn raised."""
        self._closing = False
        self._stopping = False
        self._shut = False
        """Whether the workers are shut down, so that no call can run any more."""
        self.over = False
        """As `Work.over`."""
        self._outcomes: Outcomes
        """The outcomes of tasks, added by the subclass's state machine."""
        self._loud: Outcomes = deque()
        """Outcomes that run callers' callbacks: delivered in the background thread."""
        self._notices = PoolWarnings()
        self._waker = Waker()
        self._driver = Driver(self, self._alone, self._waker, f"nearfar-pool-{name}")
        process.watch(self)

    def _begin(self) -> None:
        """Start the driver; the engine is complete."""
        _working.add(self)
        self._driver.start()

    # -- for Pool and Executor ---------------------------------------------------------------------

    def submit(self, call: Call, *, more: bool = False) -> None:
        """As `Engine.submit`."""
        if self._closing or self._broken:
            self._refuse()
        name, args = self._names.get(id(call.function)), call.blob
        bare = name is not None and type(args) is tuple and not call.buffers
        if bare and ((len(args) == 1 and type(args[0]) in NUMBERS) or are_bare(args)):
            call.function, call.buffers = name, ()
        elif struck_anywhere():
            safely(partial(self._pickle, call))
        else:
            self._pickle(call)
        call.client = self.name
        self._inbox.append(call)
        if (
            self._has_capacity and not (call.awaited or more)
        ) or self._closing:  # checked after that: see `turn`
            safely(self._send_now)
        elif not more:
            self._handed_in += 1
            if self._handed_in >= HELP_EVERY:
                self._handed_in = 0
                self._driver.lead_once()

    def flush(self) -> None:
        """As `Engine.flush`."""
        if self._has_capacity or self._closing:
            safely(self._send_now)
        else:
            self._driver.lead_once()

    def _pickle(self, call: Call) -> None:
        check_callable(call.function)
        func, args, kwargs = call.take()
        if call.mode:
            call.function, call.blob, call.buffers = self._codec.dump_chunk(func, args)
        else:
            call.function, call.blob, call.buffers = self._codec.dump_call(func, args, kwargs)

    def _send_now(self) -> None:
        self._driver.help()  # no delivery: the caller may hold a lock that a callback takes
        if self.over:  # no other thread does
            self.tell()

    @property
    def broken(self) -> PoolBroken | None:
        """Why no call can run any more; None if calls can run."""
        return self._broken

    def check_limits(self, timeout: float | None, retries: int) -> None:  # noqa: B027
        """As `Engine.check_limits`: all limits are supported."""

    def cancel(self, *calls: Call, wait: bool = True) -> bool:
        """As `Engine.cancel`. All calls are recalled at once, and then waited for together."""
        safely(partial(self._cancel_here, calls))
        if wait and (open_ := [call for call in calls if self._is_undecided(call)]):
            self.wait_until(lambda: not any(map(self._is_undecided, open_)), LONGEST_CANCEL)
        return all(call.settled and call.cancelled() for call in calls)

    def _is_undecided(self, call: Call) -> bool:
        """Whether it is unknown if `call` has begun: a recall is pending, or its outcome is undelivered."""
        return not call.settled and (call.state is TaskState.SETTLED or call in self._asked_back())

    def _cancel_here(self, calls: Sequence[Call]) -> None:
        self._tell_cancelled(self._alone([], self._cancel_now, calls))
        self._driver.help()

    def cancel_waiting(self) -> None:
        """As `Engine.cancel_waiting`."""
        safely(self._cancel_waiting_here)

    def _cancel_waiting_here(self) -> None:
        self._tell_cancelled(self._alone([], self._cancel_all_now))

    def wait_until(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """As `Engine.wait_until`. Raises `PoolBroken` if the pool's own work failed: `ready` may never be.

        Raises `RuntimeError` in a finalizer that runs in the middle of the pool's own work.
        """
        deadline = inf if timeout is None else monotonic() + timeout
        met = safely(partial(self._wait_until, ready, deadline))
        if self.over and left_behind():
            raise SystemExit
        if self.failed and self._broken is not None and not ready():
            raise anew(self._broken)
        return met

    def _wait_until(self, ready: Callable[[], bool], deadline: float) -> bool:
        if self._inbox:
            self._driver.help()
        return self._driver.wait_until(ready, deadline)

    def close(self) -> None:
        """As `Engine.close`."""
        if self._owner == os.getpid() and not self._closing:
            self._closing = True
            safely(self._close_here)

    def _close_here(self) -> None:
        self._driver.help()
        self._waker.wake()

    def terminate(self) -> None:
        """As `Engine.terminate`."""
        if self._owner != os.getpid():
            return
        self._closing = self._stopping = True
        if self._driver.inside:  # called by a garbage collection: then the leader does it
            self._waker.wake()
            return
        safely(self._terminate_here)
        if exposed():
            safely(self._driver.join)
        else:
            self._driver.join()  # the main thread may be interrupted

    def _terminate_here(self) -> None:
        self._driver.help()
        self.tell()
        self._waker.wake()

    def join(self, timeout: float | None = None) -> bool:
        """As `Engine.join`."""
        if self._owner != os.getpid():
            return True
        deadline = inf if timeout is None else monotonic() + timeout
        if not safely(partial(self._wait_until, lambda: self.over, deadline)):
            return False
        self._driver.join()
        return True

    # -- Work, for the driver ----------------------------------------------------------------------

    def turn(self, events: Events) -> object:
        """As `Work.turn`. Not from a thread that is `exposed`."""
        alone = self._alone
        with alone.lock:  # as `with alone`, which costs more
            alone.thread = threading.get_ident()
            try:
                if not self.over:
                    self._step(events, monotonic())
                while self._inbox and self._has_capacity and not self.over:
                    # Submitted meanwhile, by a thread that saw no capacity: there may be no further event.
                    self._step([], monotonic())
                if self._stopping and not self.over:
                    self._stop()
                if self.over:
                    self._take_in()
                    self.due = inf
                else:
                    self.due = self._deadline()
            except BaseException as error:
                self._fail(error)
                if not isinstance(error, Exception):  # raised by a signal handler
                    raise
            finally:
                alone.thread = None
        return self._outcomes

    def end(self, error: BaseException | None) -> None:
        """As `Work.end`."""
        if error is not None and not self.over:
            self._alone(None, self._fail, error)

    def tell(self) -> bool:
        """As `Work.tell`."""
        if not (self._outcomes or self._loud or self._notices.found):
            return False
        if self._driver.in_background:
            self._notices.tell()
            told = tell(self._loud)
            return tell(self._outcomes) or told
        told = tell(self._outcomes, self._loud)
        if self._loud or self._notices.found:
            self._driver.call_background()
        return told

    @property
    def untold(self) -> bool:
        """As `Work.untold`."""
        return bool(self._loud or self._notices.found)

    def forget_parent(self) -> None:
        """In a forked child, where this engine cannot be used."""
        self._alone.forget_parent()
        self._broken = PoolBroken("this pool belongs to the process that made it")
        self.failed = True
        process.keep(self._waker, self._driver)

    def _tell_cancelled(self, calls: list[Call]) -> None:
        try:
            for call in calls:
                call.failed(CancelledError())
        finally:
            self._waker.wake()  # the leader or a follower may wait for one of them

    def promises(self) -> PoolPromises:
        """As `Engine.promises`: of the near and the hosted pool."""
        address = self.address
        return PoolPromises(
            "near" if address is None else address.partition("://")[0],
            crosses_machines=address is not None and not address.startswith("ipc"),
            reports_losses=True,
            runs_once=True,
            retries=True,
            timeouts=True,
            initializers=True,
            names_workers=True,
            cancels_waiting=True,
            ends_running=True,
            plain=True,
        )

    # -- abstract: all but `size`, `counts` and `poll` are called under the lock only ---------------

    @property
    @abstractmethod
    def size(self) -> int:
        """As `Engine.size`."""

    @property
    @abstractmethod
    def address(self) -> str | None:
        """As `Engine.address`."""

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """As `Engine.counts`."""

    @abstractmethod
    def poll(self, timeout: float | None) -> Events:
        """As `Work.poll`."""

    @abstractmethod
    def _submit(self, calls: deque[Call]) -> None:
        """Submit all `calls`; other threads may append to them meanwhile."""

    @abstractmethod
    def _cancel(self, calls: Sequence[Call]) -> list[Call]:
        """The calls that will never run, and get no other outcome. The others have begun, or are recalled."""

    @abstractmethod
    def _asked_back(self) -> Container[Task]:
        """The tasks whose recall is pending."""

    @abstractmethod
    def _waiting(self) -> list[Call]:
        """The calls that were not sent yet."""

    @abstractmethod
    def _fail_all(self, error: BaseException) -> None:
        """End every call without an outcome with this error."""

    @abstractmethod
    def _step(self, events: Events, now: float) -> None:
        """Do all work that is due now, and then set `_has_capacity`."""

    @abstractmethod
    def _deadline(self) -> float:
        """When the next step is due without an event."""

    @abstractmethod
    def _leave_now(self) -> None:
        """Stop the running calls; `_end` is called then."""

    @abstractmethod
    def _let_go(self) -> None:
        """Close everything."""

    # -- under the lock ----------------------------------------------------------------------------

    def _fail(self, error: BaseException) -> None:
        self.failed = True
        self._has_capacity = True
        self.due = inf
        try:
            self._break(f"the pool's own work failed: {error!r}", error)
        finally:
            self._end()

    def _cancel_now(self, calls: Sequence[Call]) -> list[Call]:
        self._take_in()
        return self._cancel([call for call in calls if call.state is not TaskState.SETTLED])

    def _cancel_all_now(self) -> list[Call]:
        self._take_in()
        return self._cancel(self._waiting())

    def _stop(self) -> None:
        self._take_in()
        self._fail_all(CancelledError())
        self._leave_now()

    def _take_in(self) -> None:
        inbox = self._inbox
        if not (self._broken is not None or self._stopping or self._shut or self.over):
            self._submit(inbox)
        while inbox:  # submitted just when this ended, too late to be refused
            error = CancelledError() if self._stopping else Closed(SHUT)
            self._outcomes.append((inbox.popleft(), self._broken or error))

    def _end(self) -> None:
        """End the engine."""
        if not self.over:
            self.over = True
            self._let_go()
            self._waker.wake()

    def _break(self, reason: str | BaseException, cause: BaseException | None = None) -> None:
        """Fail all calls, present and future, with `PoolBroken`."""
        if self._broken is None:
            self._broken = reason if isinstance(reason, PoolBroken) else PoolBroken(str(reason))
            self._broken.__cause__ = cause or self._broken.__cause__
            self._fail_all(self._broken)

    def _refuse(self) -> None:
        if self._owner != os.getpid():
            raise RuntimeError("this pool belongs to the process that made it")
        if self._broken:
            raise anew(self._broken)
        raise Closed(SHUT.replace("after", "after interpreter") if _exiting else SHUT)


_working: weakref.WeakSet[BaseEngine] = weakref.WeakSet()
_exiting = False
"""Whether the main thread has ended: executors accept no more calls, and finish those they have."""


def _finish() -> None:
    """Called, as for the standard library's executors, before threads are joined and `atexit` runs."""
    global _exiting
    _exiting = True
    waited_for = [engine for engine in _working if not (engine.daemon or engine.over)]
    for engine in waited_for:
        engine.close()
    for engine in waited_for:
        engine.join()


def _drop() -> None:
    for engine in list(_working):
        if engine.daemon and not engine.over:
            engine.terminate()


threading._register_atexit(_finish)  # type: ignore[attr-defined]
atexit.register(_drop)
