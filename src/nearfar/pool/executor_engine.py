"""An engine over any `concurrent.futures.Executor`: of the standard library, loky, Dask or MPI."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from functools import partial
from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]
from typing import Any, NamedTuple, NoReturn

from nearfar.coordinator.task import Mode, TaskState
from nearfar.errors import WorkerLost
from nearfar.net.interrupts import Shield, safely, struck_anywhere
from nearfar.pool.call import Call
from nearfar.pool.codec import ClientCodec
from nearfar.pool.engine import NOT_OURS, SHUT, Closed, PoolPromises, check_callable
from nearfar.pool.engine_worker import EngineAnswer, PackedCall, run_packed
from nearfar.pool.results import InterruptibleCondition
from nearfar.queues.base import deadline_of
from nearfar.serialization.tracebacks import anew

__all__ = ["ForeignEngine", "Packing", "run_call"]


class Raised:
    """Wraps an exception of a task that could be mistaken for the executor's own."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Packing(NamedTuple):
    """How calls are packed for an engine's workers, and the name of their client."""

    client: str
    codec: ClientCodec

    def pack(self, call: Call) -> PackedCall:
        """Pack a call that has not been. Raises what pickling raises."""
        if call.mode:
            packed = self.codec.dump_chunk(call.function, call.blob)
        else:
            packed = self.codec.dump_call(call.function, call.blob, call.buffers)
        return PackedCall(self.client, call.mode, *packed, call.timeout)


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
    and the executor's memory is bounded. A call submitted to the executor counts as begun. After `terminate`,
    the executor's calls run to their end, and their outcomes are dropped. Most executors can kill no task,
    and a lost worker breaks them: a call with a timeout or with retries is refused, unless the executor
    promises to keep it (the attribute ``promises``, a `PoolPromises`).
    """

    def __init__(
        self,
        executor: Executor,
        workers: int | None = None,
        window: int | None = None,
        *,
        ahead: int = 2,
        owned: bool = False,
        packing: Packing | None = None,
    ) -> None:
        """`workers`: None for the executor's number, or the CPUs of this machine. `window`: None for `ahead`
        times that. `owned`: `close` and `terminate` shut the executor down. `packing`: calls are packed when
        they are submitted here, and the executor gets ``run_packed(call)``; None: the executor packs them.
        """
        self._workers = workers
        self._window = window
        self._ahead = ahead
        self._packing = packing
        promises = getattr(executor, "promises", None)
        self._promises = promises if isinstance(promises, PoolPromises) else PoolPromises("executor")
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
    def size(self) -> int:
        """As `Engine.size`."""
        return max(1, self._present())

    def _present(self) -> int:
        """The workers now, as far as the executor says; a cluster may have none."""
        found: int | None = self._workers or getattr(self._executor, "_max_workers", None)
        return (os.cpu_count() or 1) if found is None else found

    @property
    def address(self) -> None:
        """As `Engine.address`: unknown for a foreign executor."""

    def submit(self, call: Call, *, more: bool = False) -> None:
        """As `Engine.submit`. A pickling error is the call's outcome: executors pickle later."""
        # An engine's client takes milliseconds, in which an interruption would lose the call.
        if self._packing is not None or struck_anywhere():
            safely(partial(self._submit, call))
        else:
            self._submit(call)

    def _submit(self, call: Call) -> None:
        self.check_limits(call.timeout, call.retries)
        self._check_open()
        check_callable(call.function)
        if self._packing is not None:
            call.function = self._packing.pack(call)
            call.blob = call.buffers = None
        with _shield, self._lock:
            self._check_open()  # packing took time, and ran code of the program
            call.state = TaskState.WAITING
            self._waiting.append(call)
            self._taken += 1
        self._feed()

    def _check_open(self) -> None:
        if self._broken is not None:
            raise anew(self._broken)
        if self._closed:
            raise Closed(SHUT)

    def flush(self) -> None:
        """As `Engine.flush`: no call waits for it."""

    def check_limits(self, timeout: float | None, retries: int) -> None:
        """As `Engine.check_limits`."""
        if timeout is not None and not self._promises.timeouts:
            raise ValueError("a foreign executor cannot kill a task: give it calls without timeout=")
        if retries and not self._promises.retries:
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
            workers = self._present()
            running = min(len(self._given), workers)
            waiting = len(self._waiting) + len(self._given) - running
            return {"workers": workers, "running": running, "waiting": waiting, "done": self._done}

    def promises(self) -> PoolPromises:
        """As `Engine.promises`: those of an executor that has any."""
        return self._promises

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
            if not self._waiting or len(self._given) >= (self._window or self._ahead * self.size):
                self._feeding = False
                return None
            call = self._waiting.popleft()
            self._given[call] = None
            call.state = TaskState.GIVEN
            return call

    def _give(self, call: Call) -> None:
        func, args, kwargs = call.take()
        if self._packing is None:
            self._hand_on(call, run_call, func, args, kwargs, call.mode)
        else:
            self._hand_on(call, run_packed, func)

    def _hand_on(self, call: Call, *what: Any) -> None:
        try:
            future = self._executor.submit(*what)
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
        future.add_done_callback(partial(self._answered, call, what))

    def _answered(self, call: Call, what: tuple[Any, ...], future: Future[Any]) -> None:
        """The executor has ended a call. Runs in a thread of the executor, perhaps under its locks."""
        if future.cancelled():
            # Not cancelled by us. The canceller may hold the lock that `submit` needs: do not submit here.
            self._answer(call, None, CancelledError())
            self._drop(CancelledError)
            return
        value: Any = None
        error = translated(future.exception())
        if isinstance(error, WorkerLost):  # of one call, not of the executor
            error = self._lost(call, what, error)
            if error is None:
                return
        elif isinstance(error, BrokenExecutor):
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

    def _lost(self, call: Call, what: tuple[Any, ...], error: WorkerLost) -> WorkerLost | None:
        """The error of a call whose worker died; None if it is submitted again."""
        if call.losses < call.retries and call in self._given:
            call.lose()
            self._hand_on(call, *what)
            return None
        task = what[1].describe() if self._packing is not None else error.task
        return WorkerLost(error.worker, error.host, error.pid, error.how, task)

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
            if isinstance(value, EngineAnswer):
                call.answered(*value)
            else:
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


def translated(error: BaseException | None) -> BaseException | None:
    """`error`, or `WorkerLost` for what Parsl says of the call of a dead worker: its executor goes on."""
    host = getattr(error, "hostname", None)
    if host is None or type(error).__module__ != "parsl.executors.high_throughput.errors":
        return error
    return WorkerLost(str(getattr(error, "worker_id", "of Parsl")), host, 0, f"was lost: {error}")


def with_remote_traceback(error: BaseException) -> BaseException:
    """`error` with the worker's traceback in the type that `multiprocessing.pool` uses for it."""
    text = getattr(error.__cause__, "tb", None)
    if isinstance(text, str):
        error.__cause__ = RemoteTraceback(text)
    return error


_shield = Shield()
