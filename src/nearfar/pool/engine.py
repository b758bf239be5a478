"""The interface under `Pool` and `Executor`: an engine runs calls; several users may share one."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, NoReturn, Protocol, TypeVar, runtime_checkable

from nearfar.coordinator.task import TaskState
from nearfar.net.interrupts import safe, safely
from nearfar.pool.call import Call

__all__ = [
    "NOT_OURS",
    "SHUT",
    "Closed",
    "Engine",
    "PoolPromises",
    "SharedEngine",
    "WeakBag",
    "check_callable",
    "describe",
    "hand_in",
]


SHUT = "cannot schedule new futures after shutdown"


class Closed(RuntimeError):
    """An engine was closed, or the program ends: it accepts no more calls."""


@dataclass(frozen=True, slots=True)
class PoolPromises:
    """What the engine of a pool guarantees, as data: a program can check a guarantee before it relies on it.

    What is not promised is refused with `ValueError` where a caller asks for it.
    """

    engine: str
    """``"near"``; the scheme of the pool's address, such as ``"tcp"`` or ``"dask"``; ``"executor"``."""
    crosses_machines: bool = False
    reports_losses: bool = False
    """A worker's death ends the call that it ran with `WorkerLost`, and the pool goes on; otherwise all calls
    may end."""
    runs_once: bool = False
    """No call begins twice, unless `retries` allows it."""
    retries: bool = False
    """`retries` runs a call again after the loss of its worker."""
    timeouts: bool = False
    """`timeout` ends a call that runs longer, and the process that runs it."""
    initializers: bool = False
    """`initializer` runs in each worker process before its first call of this pool."""
    names_workers: bool = False
    """`current_worker` returns the worker, also in the text of remote tracebacks."""
    cancels_waiting: bool = False
    """`cancel` drops every call that no worker has begun; otherwise those in the engine count as begun."""
    ends_running: bool = False
    """`terminate` stops calls that run; otherwise they run to their end, and their outcomes are dropped."""
    survives_killed_coordinator: bool = False
    """Calls go on when the coordinator is killed, and started again at the same address."""
    plain: bool = False
    """`plain` is possible: neither side reads pickle."""


@runtime_checkable
class Engine(Protocol):
    """Runs calls somewhere, and settles each exactly once.

    Every method may be called from any thread. `close` and `terminate` may also be called by a garbage
    collection, so in the middle of any other method, in the same thread: locks must be reentrant.
    """

    @property
    def size(self) -> int:
        """Workers now; at least 1, since chunk sizes are computed from it."""

    @property
    def address(self) -> str | None:
        """The address where remote workers may join, or of their coordinator; None if there is none."""

    def submit(self, call: Call, *, more: bool = False) -> None:
        """Accept `call`, which will be settled in any case. `more`: further calls follow at once, and then
        `flush`, so that they are sent together.

        If it raises, the call was not accepted: what pickling raises, `TypeError` for an object that cannot
        be called, `BrokenExecutor` (or a subclass) if no call can run any more, `Closed` after `close`,
        `ValueError` for an option that is not supported here.
        """

    def flush(self) -> None:
        """Send the calls that were submitted with `more`."""

    def check_limits(self, timeout: float | None, retries: int) -> None:
        """Raise `ValueError` if these limits are not supported here."""

    def cancel(self, *calls: Call, wait: bool = True) -> bool:
        """Drop those of `calls` that have not begun. True: none ever runs, and each is settled with
        `CancelledError`.

        A remote worker may have to be asked whether a call has begun: `cancel` waits some seconds for that,
        for all calls together. Without `wait`, calls are dropped as far as possible, and the return value
        has no meaning.
        """

    def cancel_waiting(self) -> None:
        """Do what `cancel` does for every call that has not begun."""

    def wait_until(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """Wait, and work while waiting, until `ready()`; False after `timeout` seconds (None: no limit).

        `ready` is asked after each change, perhaps by another thread: it must be cheap and not raise.
        """

    def close(self) -> None:
        """Accept no more calls; the present ones still run, and the workers end after them."""

    def terminate(self) -> None:
        """Stop now: every call that is not settled is settled with `CancelledError`."""

    def end_workers(self, signum: int) -> None:
        """Close, drop calls that have not begun, and send `signum` (SIGTERM, SIGKILL) to every worker
        process.

        Raises `RuntimeError` if the workers belong to a foreign executor.
        """

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end after `close` or `terminate`; False after `timeout` seconds."""

    def counts(self) -> dict[str, int]:
        """``workers``, ``running``, ``waiting`` and ``done``, and further counts of an engine."""

    def promises(self) -> PoolPromises:
        """What this engine guarantees."""


def check_callable(func: Any) -> None:
    """Raise `TypeError` unless `func` can be called."""
    if not callable(func):
        raise TypeError(f"the first argument is the function to call; {func!r} cannot be called")


def hand_in(engine: Engine, call: Call, but: tuple[type[Exception], ...] = ()) -> None:
    """Submit `call`; what `submit` raises becomes the call's own error, except the types in `but` and
    interruptions, which are raised."""
    what = call.function, call.blob, call.buffers
    try:
        engine.submit(call)
    except but:
        raise
    except Exception as error:
        safely(partial(_hand_in_again, engine, call, what, error))


def _hand_in_again(engine: Engine, call: Call, what: tuple[Any, Any, Any], error: Exception) -> None:
    """Submit again, safely, to distinguish the call's own error, which recurs, from a signal handler's."""
    if call.state is TaskState.NEW and not hasattr(call, "client"):  # it was not accepted
        call.function, call.blob, call.buffers = what
        try:
            engine.submit(call)
        except Exception as own:
            call.settle(None, own)
            return
    raise error


def describe(engine: Engine) -> str:
    """``4 workers, 2 running, 7 waiting``"""
    counts = engine.counts()
    return ", ".join(f"{counts[name]} {name}" for name in ("workers", "running", "waiting"))


T = TypeVar("T")


class WeakBag(Generic[T]):
    """A set of objects that it does not keep alive."""

    def __init__(self) -> None:
        self._members: weakref.WeakSet[T] = weakref.WeakSet()
        # Reentrant: a garbage collection inside may end a pool, which reads its own bag, or this one.
        self._lock = threading.RLock()

    @safe
    def add(self, member: T) -> None:
        with self._lock:
            self._members.add(member)

    @safe
    def discard(self, member: T) -> None:
        with self._lock:
            self._members.discard(member)

    @safe
    def members(self) -> list[T]:
        """The objects that exist now."""
        with self._lock:
            return list(self._members)


NOT_OURS = "these workers belong to the executor that was given, whose own methods end them"


class SharedEngine:
    """One user's calls on a shared engine, which outlives this user.

    `close` and `terminate` end this user's part only. What has begun cannot be stopped: after `terminate` it
    runs to its end.
    """

    def __init__(self, engine: Engine, owner: object, workers: int | None = None) -> None:
        """`owner` is kept alive: it closes the engine when it is collected. `workers`: the number for which
        chunk sizes are computed; None: the engine's."""
        self._engine = engine
        self._workers = workers
        self._owner = owner
        self._calls: WeakBag[Call] = WeakBag()  # does not keep outcomes that their owner has dropped
        self._closed = False

    @property
    def size(self) -> int:
        """As `Engine.size`."""
        return self._workers or self._engine.size

    @property
    def address(self) -> str | None:
        """As `Engine.address`."""
        return self._engine.address

    def submit(self, call: Call, *, more: bool = False) -> None:
        """As `Engine.submit`."""
        if self._closed:
            raise Closed(SHUT)
        self._engine.submit(call, more=more)
        self._calls.add(call)

    def flush(self) -> None:
        """As `Engine.flush`."""
        self._engine.flush()

    def check_limits(self, timeout: float | None, retries: int) -> None:
        """As `Engine.check_limits`."""
        self._engine.check_limits(timeout, retries)

    def cancel(self, *calls: Call, wait: bool = True) -> bool:
        """As `Engine.cancel`."""
        return self._engine.cancel(*calls, wait=wait)

    def cancel_waiting(self) -> None:
        """As `Engine.cancel_waiting`, for the calls of this user."""
        self._engine.cancel(*self._unsettled(), wait=False)

    def wait_until(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """As `Engine.wait_until`."""
        return self._engine.wait_until(ready, timeout)

    def close(self) -> None:
        """As `Engine.close`, for this user."""
        self._closed = True

    def terminate(self) -> None:
        """As `Engine.terminate`, for the waiting calls of this user."""
        self._closed = True
        self.cancel_waiting()

    def end_workers(self, signum: int) -> NoReturn:
        """As `Engine.end_workers`: they are not this user's."""
        raise RuntimeError(NOT_OURS)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until every call of this user is settled."""
        return self._engine.wait_until(lambda: not self._unsettled(), timeout)

    def counts(self) -> dict[str, int]:
        """As `Engine.counts`: those of the whole engine."""
        return self._engine.counts()

    def promises(self) -> PoolPromises:
        """As `Engine.promises`; `initializer` and `plain` would be for the engine's owner, and running calls
        go on."""
        promises = self._engine.promises()
        return replace(promises, initializers=False, ends_running=False, plain=False)

    def _unsettled(self) -> list[Call]:
        return [call for call in self._calls.members() if not call.settled]
