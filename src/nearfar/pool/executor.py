"""`concurrent.futures.Executor`'s API over any engine, and its futures."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from concurrent.futures import _base
from concurrent.futures.process import _RemoteTraceback
from itertools import islice
from multiprocessing.context import BaseContext
from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, Self

from nearfar.coordinator.task import Mode, TaskState
from nearfar.pool.call import Call, Chunk, Item, Part, call_back, raise_from
from nearfar.pool.engine import SHUT, Closed, Engine, PoolPromises, describe, hand_in
from nearfar.pool.factory import WAIT, Workers, connect_engine, count_of, make_engine, show
from nearfar.pool.options import Limits, checked
from nearfar.queues.base import deadline_of, left
from nearfar.serialization.pickles.results import original_of

if TYPE_CHECKING:
    from nearfar.dashboard.server import Dashboard

__all__ = ["Executor", "Future", "MapChunk", "Single"]


# Held only briefly: while a future gets its condition, and while it is settled. Reentrant: a garbage
# collection # inside may run a finalizer that does the same.
_lock = threading.RLock()
os.register_at_fork(after_in_child=_lock._at_fork_reinit)  # type: ignore[attr-defined]


def as_executors_do(error: BaseException) -> BaseException:
    """A task's error as the standard library's executors raise it, not its pools: for a result that cannot be
    pickled what pickling raised, and the worker's traceback in their own type."""
    error = original_of(error)
    cause = error.__cause__
    if isinstance(cause, RemoteTraceback):
        error.__cause__ = _RemoteTraceback(cause.tb)
    return error


class MapChunk(Chunk):
    """Some items of an executor's map."""

    __slots__ = ()

    def seen(self, error: BaseException) -> BaseException:
        """As `Call.seen`."""
        return as_executors_do(error)


class Single(Item):
    """One item of an executor's map."""

    __slots__ = ()

    def seen(self, error: BaseException) -> BaseException:
        """As `Call.seen`."""
        return as_executors_do(error)


class _Watched:
    """The attributes of a future that only uses other than `result` need."""

    __slots__ = ("callbacks", "condition", "waiters")

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.waiters: list[Any] = []
        self.callbacks: list[Callable[[Any], object]] = []


class Future(Call, futures.Future[Any]):
    """The outcome of one call, for everything that takes a `concurrent.futures.Future`.

    The standard library's functions find its condition, waiters and callbacks, which are made on first use;
    making them is most of the cost of its futures. `cancel` is true only if the call never runs. A thread
    that waits in `result` or `exception` does the engine's work meanwhile.
    """

    __slots__ = ("_engine", "_watched")

    def __init__(
        self,
        engine: Engine,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        Call.__init__(self, func, args, kwargs)  # futures.Future would make what `_Watched` has
        self._engine = engine
        self._watched: _Watched | None = None

    def result(self, timeout: float | None = None) -> Any:
        """The value, or raises the call's error.

        Raises `TimeoutError` after `timeout` seconds, `CancelledError` if it was cancelled.
        """
        self._wait(timeout)
        try:
            return Call.result(self)
        finally:
            del self  # the error's traceback holds this frame, and the future holds the error

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The call's error or None. Raises `TimeoutError` and `CancelledError` as `result` does."""
        self._wait(timeout)
        if self.cancelled():
            raise futures.CancelledError
        return self.error()

    def seen(self, error: BaseException) -> BaseException:
        """As `Call.seen`."""
        return as_executors_do(error)

    def _wait(self, timeout: float | None) -> None:
        if not self.settled and not self._engine.wait_until(self.done, timeout):
            raise TimeoutError

    def done(self) -> bool:
        """Whether the outcome has arrived."""
        return self.settled

    def running(self) -> bool:
        """Whether a worker has the call, which may have begun."""
        return not self.settled and self.state == TaskState.GIVEN

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self.settled and Call.cancelled(self)

    def cancel(self) -> bool:
        """Drop the call. True: it never runs, or was cancelled before; False: it began, or has ended."""
        if self.settled:
            return self.cancelled()
        return self._engine.cancel(self) or self.cancelled()

    def set_running_or_notify_cancel(self) -> bool:
        """As in `futures.Future`. For executors; nearfar's do not need it."""
        if self.cancelled():
            return False
        if self.settled or self.state == TaskState.GIVEN:
            raise RuntimeError("Future in unexpected state")
        self.state = TaskState.GIVEN
        return True

    def set_result(self, result: Any) -> None:
        """As in `futures.Future`. For executors; nearfar's do not need it."""
        self._check_unsettled()
        self.settle(result, None)

    def set_exception(self, exception: BaseException | None) -> None:
        """As in `futures.Future`. For executors; nearfar's do not need it."""
        self._check_unsettled()
        self.settle(None, exception)

    def _check_unsettled(self) -> None:
        if self.settled:
            raise futures.InvalidStateError(f"{self._state}: {self!r}")

    @property
    def loud(self) -> bool:  # type: ignore[override]
        """Whether callbacks or waiters are registered."""
        return self._watched is not None

    def on_settled(self) -> None:
        """Notify the waiters, and run the callbacks."""
        with _lock:
            watched = self._watched
            if watched is None:
                self.settled = True
                return
        with watched.condition:
            self.settled = True
            for waiter in watched.waiters:
                if self.cancelled():
                    waiter.add_cancelled(self)
                elif self.raised:
                    waiter.add_exception(self)
                else:
                    waiter.add_result(self)
        for callback in watched.callbacks:
            call_back("callback", callback, self)

    # Attributes that the standard library's functions, and inherited methods, use.

    @property
    def _state(self) -> str:  # type: ignore[override]
        if self.settled:
            return _base.CANCELLED_AND_NOTIFIED if Call.cancelled(self) else _base.FINISHED
        return _base.RUNNING if self.state == TaskState.GIVEN else _base.PENDING

    @property
    def _result(self) -> Any:  # type: ignore[override]
        return self._value if self.settled and self.error() is None else None

    @property
    def _exception(self) -> BaseException | None:  # type: ignore[override]
        return self.error() if self.settled else None

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        return self._watch().condition

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]
        return self._watch().waiters

    @property
    def _done_callbacks(self) -> list[Callable[[Any], object]]:
        return self._watch().callbacks

    def _watch(self) -> _Watched:
        if self._watched is None:
            made = _Watched()  # not under the lock: it may start a garbage collection, which may run any code
            with _lock:
                if self._watched is None:
                    self._watched = made
        return self._watched


class _Core:
    """The state that all views of one executor share."""

    shut = False

    def __init__(self, engine: Engine, context: BaseContext | None = None) -> None:
        self.engine = engine
        self.context = context
        self.dashboard: Dashboard | None = None

    def show(self, where: bool | str, token: str | os.PathLike[str] | None) -> None:
        """Serve a dashboard. If it cannot be, the workers end, and the error is raised."""
        try:
            self.dashboard = show(self.engine, where, token)
            weakref.finalize(self, self.dashboard.close)
        except BaseException:
            self.shut = True
            self.engine.terminate()
            raise

    def hide(self) -> None:
        """End the dashboard, if there is one."""
        if self.dashboard is not None:
            self.dashboard.close()

    def __del__(self) -> None:
        if not self.shut:
            self.engine.close()  # as in the standard library: submitted calls still run


class Executor(futures.Executor):
    """Worker processes and futures, as `concurrent.futures.ProcessPoolExecutor`.

    A pool can share its workers: ``Pool(executor=executor)``.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        *,
        max_tasks_per_child: int | None = None,
        address: str | None = None,
        executor: futures.Executor | None = None,
        window: int | None = None,
        retries: int = 0,
        timeout: float | None = None,
        lease: float | None = None,
        plain: bool = False,
        keys: str | os.PathLike[str] | None = None,
        insecure: bool = False,
        dashboard: bool | str = False,
        dashboard_token: str | os.PathLike[str] | None = None,
    ) -> None:
        """Start `max_workers` workers (None: one for each CPU).

        The other arguments are those of `Pool`; a dashboard is served until `shutdown` has waited, or the
        workers are ended. Raises `ValueError` or `TypeError` for invalid arguments, `AddressError` and
        `KeysError`.
        """
        least = 1 if address is None else 0
        count_of(max_workers, "max_workers", "Executor")
        if max_workers is not None and max_workers < least:
            raise ValueError("max_workers must be greater than 0")
        workers = Workers(
            max_workers, initializer, initargs, max_tasks_per_child, mp_context, daemon=False, plain=plain
        )
        engine = make_engine(
            workers,
            address=address,
            executor=executor,
            window=window,
            limits=checked(timeout, retries),
            lease=lease,
            keys=keys,
            insecure=insecure,
        )
        core = _Core(engine, mp_context)
        if dashboard is not False:
            core.show(dashboard, dashboard_token)
        self._begin(core, (timeout, retries))

    @classmethod
    def connect(
        cls,
        address: str,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        retries: int = 0,
        timeout: float | None = None,
        wait: float = WAIT,
        plain: bool = False,
        keys: str | os.PathLike[str] | None = None,
        insecure: bool = False,
    ) -> Self:
        """An executor of the workers of the coordinator at `address`; as `Pool.connect`."""
        limits = checked(timeout, retries)
        engine = connect_engine(
            address,
            initializer,
            initargs,
            limits=limits,
            wait=wait,
            daemon=False,
            plain=plain,
            keys=keys,
            insecure=insecure,
        )
        return cls.__new__(cls)._begin(_Core(engine), limits)

    def _begin(self, core: _Core, limits: Limits) -> Self:
        self._core = core
        self._limits = limits
        return self

    @property
    def engine(self) -> Engine:
        """The engine that runs the calls; a pool over this executor shares it."""
        return self._core.engine

    @property
    def dashboard_url(self) -> str | None:
        """Where a browser finds the dashboard; None if there is none."""
        return None if self._core.dashboard is None else self._core.dashboard.url

    def promises(self) -> PoolPromises:
        """What the executor's engine guarantees, as `Pool.promises`."""
        return self.engine.promises()

    def __repr__(self) -> str:
        state = ", shut down" if self._core.shut else ""
        return f"<nearfar.{type(self).__name__} {describe(self.engine)}{state}>"

    def options(self, *, timeout: float | None = None, retries: int | None = None) -> Self:
        """The same executor with these limits for its calls (None: unchanged).

        `timeout`: seconds that a task may run, from its start: `TaskTimeout`. `retries`: how often it may
        run again after the loss of its worker.
        """
        limits = checked(
            self._limits[0] if timeout is None else timeout,
            self._limits[1] if retries is None else retries,
        )
        self.engine.check_limits(*limits)
        return type(self).__new__(type(self))._begin(self._core, limits)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """A future of ``fn(*args, **kwargs)``, run in a worker. A pickling error becomes the future's error.

        Raises `RuntimeError` after `shutdown` and once the program ends, `BrokenExecutor` if no call can run
        any more.
        """
        future = Future(self._core.engine, fn, args, kwargs)
        self._submit(future)
        return future

    def _submit(self, call: Call) -> None:
        self._check_open()
        call.timeout, call.retries = self._limits
        hand_in(self._core.engine, call, (futures.BrokenExecutor, Closed))

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """An iterator over ``fn(*each)`` for each of ``zip(*iterables)``, in order, as Python 3.14's.

        `chunksize` items make one task. Without `buffersize` the whole input is read now; with it, at most so
        many items (or one chunk) are ahead of the results that were taken. A task that failed raises at its
        place (for StopIteration, `RuntimeError` is raised), and the iterator ends there; what it has not
        taken is cancelled.

        Raises `TimeoutError` from the iterator if a result is not there `timeout` seconds after this call,
        `ValueError` for sizes below 1, `TypeError` for a `buffersize` that is not a whole number.
        """
        self._check_open()
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        deadline = deadline_of(True, timeout)
        source = zip(*iterables, strict=False)
        if buffersize is None:
            return self._results(deque(self._chunks(fn, source, chunksize, None)), deadline, tuple)
        first = deque(self._chunks(fn, source, chunksize, max(1, buffersize // chunksize)))
        return self._results(first, deadline, lambda: self._chunks(fn, source, chunksize, 1))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls; with `wait`, return when all calls and workers have ended.

        `cancel_futures`: cancel calls that have not begun. May be called again.
        """
        self._core.shut = True
        if cancel_futures:
            self.engine.cancel_waiting()
        self.engine.close()
        if wait:
            self.engine.join()
            self._core.hide()

    def terminate_workers(self) -> None:
        """Send SIGTERM to every worker process, and accept no more calls, as in Python 3.14.

        Running calls end with `WorkerLost` (a `BrokenProcessPool`), others are cancelled. Does not wait.
        Remote workers cannot be sent a signal: their agent kills those that run a call of this executor;
        after `connect`, such calls end with `CancelledError`. Raises `RuntimeError` if the workers belong to
        an executor that this one was made over.
        """
        self._end_workers(signal.SIGTERM)

    def kill_workers(self) -> None:
        """As `terminate_workers`, by SIGKILL."""
        self._end_workers(signal.SIGKILL)

    def _end_workers(self, signum: int) -> None:
        self.engine.end_workers(signum)
        self._core.shut = True
        self._core.hide()

    # -- private attributes of the standard library's executor that programs use -------------------

    @property
    def _max_workers(self) -> int:
        return self.engine.size

    @property
    def _processes(self) -> dict[int, BaseProcess]:
        """The worker processes of this machine; none for an executor over another one, or connected."""
        found: dict[int, BaseProcess] = getattr(self.engine, "processes", {})
        return found

    @property
    def _broken(self) -> object:
        """A true value once no call can run any more."""
        return getattr(self.engine, "broken", None) or False

    @property
    def _mp_context(self) -> BaseContext:
        return self._core.context or multiprocessing.get_context()

    # -- inside ------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._core.shut:
            raise Closed(SHUT)

    def _chunks(
        self, fn: Callable[..., Any], source: Iterator[Sequence[Any]], size: int, most: int | None
    ) -> Iterator[Part]:
        """Submit up to `most` chunks of `source`."""
        while most is None or most > 0:
            items = tuple(islice(source, size))
            if not items:
                return
            part: Part
            if size == 1:
                part = Single(fn, tuple(items[0]), None, self._limits)
            else:
                part = MapChunk(fn, items, Mode.STARMAP, None)
            self._submit(part)
            yield part
            most = None if most is None else most - 1

    def _results(
        self, calls: deque[Part], deadline: float | None, more: Callable[[], Iterable[Part]]
    ) -> Iterator[Any]:
        try:
            while calls:
                values = self._take(calls, deadline)
                calls.extend(more())
                while values:
                    yield values.pop()  # no reference to a returned value remains here
        finally:
            self.engine.cancel(*calls, wait=False)

    def _take(self, calls: deque[Part], deadline: float | None) -> list[Any]:
        """The values of the next chunk, last one first."""
        call = calls[0]
        if not call.settled and not self.engine.wait_until(lambda: call.settled, left(deadline)):
            raise TimeoutError
        calls.popleft()
        try:
            values = list(call.values())
        except StopIteration as error:
            raise_from(error)
        values.reverse()
        return values
