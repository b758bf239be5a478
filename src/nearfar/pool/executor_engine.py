"""An engine over any `concurrent.futures.Executor`: of the standard library, loky, Dask or MPI."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from functools import partial
from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]
from typing import Any, NoReturn

from nearfar.coordinator.task import Mode, TaskState
from nearfar.errors import WorkerLost
from nearfar.net.interrupts import Shield, safely, struck_anywhere
from nearfar.pool.call import Call
from nearfar.pool.engine import NOT_OURS, SHUT, Closed, check_callable
from nearfar.pool.results import InterruptibleCondition
from nearfar.queues.base import deadline_of
from nearfar.serialization.tracebacks import anew

__all__ = ["ForeignEngine", "run_call"]


class Raised:
    """Wraps an exception of a task that could be mistaken for the executor's own."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def run_call(
    func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any] | None, mode: int
) -> Any:
    """Run a call: the function that is submitted to the executor."""
    try:
        if mode == Mode.MAP:
            return [func(each) for each in args]
        if mode == Mode.STARMAP:
            return [func(*each) for each in args]
        return func(*args, **(kwargs or {}))
    except (BrokenExecutor, CancelledError) as error:
        return Raised(error)


class ForeignEngine:
    """Runs calls with an executor's `submit`, and uses no other method of it.

    At most `window` calls are submitted to the executor; the others wait here, so that `cancel` is reliable
    and the executor's memory is bounded. A call submitted to the executor counts as begun. A task cannot be
    killed: a call with a timeout is refused, and after `terminate` the executor's calls run to their end, and
    their outcomes are dropped. No call is run again by this engine: a lost worker breaks most executors, and
    Dask runs its tasks again (``distributed.scheduler.allowed-failures`` times).
    """

    def __init__(
        self,
        executor: Executor,
        workers: int | None = None,
        window: int | None = None,
        *,
        owned: bool = False,
    ) -> None:
        """`workers`: None for the executor's number, or the CPUs of this machine. `window`: None for twice
        that. `owned`: `close` and `terminate` shut the executor down.
        """
        self.size: int = workers or getattr(executor, "_max_workers", None) or os.cpu_count() or 1
        self._window = window or 2 * self.size
        self._executor = executor
        self._owned = owned
        # Reentrant: a garbage collection inside may end a pool, which terminates its engine.
        self._lock = threading.RLock()
        self._changed = InterruptibleCondition()
        self._waiting: deque[Call] = deque()
        self._given: dict[Call, Future[Any] | None] = {}
        self._feeding = False
        self._closed = False
        self._terminated = False
        self._broken: BrokenExecutor | None = None
        self._taken = 0
        self._done = 0
        self._here = threading.local()

    @property
    def address(self) -> None:
        """As `Engine.address`: unknown for a foreign executor."""

    def submit(self, call: Call) -> None:
        """As `Engine.submit`. A pickling error is the call's outcome: executors pickle later."""
        if struck_anywhere():
            safely(partial(self._submit, call))
        else:
            self._submit(call)

    def _submit(self, call: Call) -> None:
        self.check_limits(call.timeout, call.retries)
        with _shield, self._lock:
            if self._broken is not None:
                raise anew(self._broken)
            if self._closed:
                raise Closed(SHUT)
            check_callable(call.function)
            call.state = TaskState.WAITING
            self._waiting.append(call)
            self._taken += 1
        self._feed()

    def check_limits(self, timeout: float | None, retries: int) -> None:
        """As `Engine.check_limits`."""
        if timeout is not None:
            raise ValueError("a foreign executor cannot kill a task: give it calls without timeout=")
        if retries:
            raise ValueError(
                "a foreign executor does not report which task a lost worker ran, so none can run again:"
                " give it calls without retries="
            )

    def cancel(self, *calls: Call, wait: bool = True) -> bool:
        """As `Engine.cancel`. A call submitted to the executor counts as begun, though it may wait there."""
        safely(partial(self._cancel_here, set(calls)))
        return all(call.settled and call.cancelled() for call in calls)

    def _cancel_here(self, wanted: set[Call]) -> None:
        with _shield, self._lock:
            dropped = [call for call in self._waiting if call in wanted]
            gone = set(dropped)
            self._waiting = deque(call for call in self._waiting if call not in gone)
        for call in dropped:
            self._settle(call, None, CancelledError())

    def cancel_waiting(self) -> None:
        """As `Engine.cancel_waiting`, for the calls that wait here."""
        self._drop(CancelledError)

    def wait_until(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """As `Engine.wait_until`. Raises `RuntimeError` if it would wait for ever: without a timeout in a
        callback, since the thread that runs it is the one that receives the next answer.
        """
        if ready():
            return True
        if timeout is None and getattr(self._here, "settling", False):
            raise RuntimeError("a callback cannot wait for another call: it would wait for ever")
        return safely(partial(self._changed.wait, ready, deadline_of(True, timeout)))

    def close(self) -> None:
        """As `Engine.close`."""
        with _shield, self._lock:
            self._closed = True
        self._shut_if_over()

    def terminate(self) -> None:
        """As `Engine.terminate`. Running calls of a foreign executor go on; their outcomes are dropped."""
        with _shield, self._lock:
            self._closed = self._terminated = True
            given, self._given = self._given, {}
        for call, future in given.items():
            if future is not None:
                future.cancel()
            self._settle(call, None, CancelledError())
        self._drop(CancelledError)
        if self._owned:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def end_workers(self, signum: int) -> NoReturn:
        """As `Engine.end_workers`: they are not ours."""
        raise RuntimeError(NOT_OURS)

    def join(self, timeout: float | None = None) -> bool:
        """As `Engine.join`. An owned executor is joined regardless of `timeout`."""
        ended = self.wait_until(self._is_empty, timeout)
        if ended and self._owned:
            self._executor.shutdown(wait=True)
        return ended

    def counts(self) -> dict[str, int]:
        """As `Engine.counts`; ``running`` is an estimate, because the executor does not report it."""
        with _shield, self._lock:
            running = min(len(self._given), self.size)
            waiting = len(self._waiting) + len(self._given) - running
            return {"workers": self.size, "running": running, "waiting": waiting, "done": self._done}

    def _is_empty(self) -> bool:
        return self._done == self._taken

    def _shut_if_over(self) -> None:
        if self._owned and self._closed and self._is_empty():
            self._executor.shutdown(wait=False)

    def _feed(self) -> None:
        """Submit as many calls as the window allows. One thread at a time, so that calls keep their order."""
        with _shield, self._lock:
            if self._feeding:
                return
            self._feeding = True
        try:
            while (call := self._next()) is not None:
                self._give(call)
        except BaseException:
            self._feeding = False
            raise

    def _next(self) -> Call | None:
        with _shield, self._lock:
            if not self._waiting or len(self._given) >= self._window:
                self._feeding = False
                return None
            call = self._waiting.popleft()
            self._given[call] = None
            call.state = TaskState.GIVEN
            return call

    def _give(self, call: Call) -> None:
        func, args, kwargs = call.take()
        try:
            future = self._executor.submit(run_call, func, args, kwargs, call.mode)
        except Exception as error:
            self._answer(call, None, error)
            if isinstance(error, BrokenExecutor):
                self._break(error)
            return
        with _shield, self._lock:
            if call in self._given:
                self._given[call] = future
            terminated = self._terminated
        if terminated:
            future.cancel()
        future.add_done_callback(partial(self._answered, call))

    def _answered(self, call: Call, future: Future[Any]) -> None:
        """The executor has ended a call. Runs in a thread of the executor, perhaps under its locks."""
        if future.cancelled():
            # Not cancelled by us. The canceller may hold the lock that `submit` needs: do not submit here.
            self._answer(call, None, CancelledError())
            self._drop(CancelledError)
            return
        value: Any = None
        error = future.exception()
        if isinstance(error, BrokenExecutor) and not isinstance(
            error, WorkerLost
        ):  # of one call, not of the executor
            self._break(error)  # some executors report this under the lock that `submit` needs
            self._answer(call, None, error)
            return
        if error is None:
            value = future.result()
            if isinstance(value, Raised):
                value, error = None, value.error  # the call's error, not the executor's
            self._answer(call, value, error)
        else:
            self._answer(call, None, call.seen(with_remote_traceback(error)))
        self._feed()
        self._shut_if_over()

    def _answer(self, call: Call, value: Any, error: BaseException | None) -> None:
        """Settle a call of the executor, unless `terminate` has settled it."""
        with _shield, self._lock:
            known = call in self._given
            self._given.pop(call, None)
        if known:
            outer = getattr(self._here, "settling", False)
            self._here.settling = True
            try:
                self._settle(call, value, error)
            finally:
                self._here.settling = outer

    def _settle(self, call: Call, value: Any, error: BaseException | None) -> None:
        try:
            call.settle(value, error)
        finally:
            with _shield, self._lock:
                self._done += 1
            self._changed.notify()

    def _break(self, error: BrokenExecutor) -> None:
        with _shield, self._lock:
            self._broken = error
        self._drop(lambda: anew(error))

    def _drop(self, error: Callable[[], BaseException]) -> None:
        """Settle each waiting call with an error."""
        with _shield, self._lock:
            dropped, self._waiting = self._waiting, deque()
        for call in dropped:
            self._settle(call, None, error())


def with_remote_traceback(error: BaseException) -> BaseException:
    """`error` with the worker's traceback in the type that `multiprocessing.pool` uses for it."""
    text = getattr(error.__cause__, "tb", None)
    if isinstance(text, str):
        error.__cause__ = RemoteTraceback(text)
    return error


_shield = Shield()
