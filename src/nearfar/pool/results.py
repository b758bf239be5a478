"""What `apply_async` and `map_async` return."""

from __future__ import annotations

import threading
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from multiprocessing import TimeoutError
from types import GenericAlias
from typing import Any, Protocol, TypeVar

from nearfar.coordinator.task import Mode, TaskState
from nearfar.net.interrupts import Abandoned, Shield, checkpoint, deferred_call_here, safely
from nearfar.pool.call import ERROR, PENDING, RAW_ERROR, RAW_VALUE, VALUE, Call, Chunk, Part, call_back
from nearfar.pool.engine import Engine, hand_in
from nearfar.pool.options import Limits
from nearfar.pool.progress import Reporter
from nearfar.queues.base import left

__all__ = [
    "AsyncResult",
    "Callback",
    "Callbacks",
    "InterruptibleCondition",
    "MapResult",
    "drop",
    "obtain",
    "paired",
]


T_co = TypeVar("T_co", covariant=True)
Callback = Callable[[Any], object]
Callbacks = tuple[Callback | None, Callback | None]
"""The callbacks for a value, and for an error."""

_CALL, _NEW, _SETTLED = Mode.CALL, TaskState.NEW, TaskState.SETTLED


def paired(callback: Callback | None, error_callback: Callback | None) -> Callbacks | None:
    """Both in one, or None for neither: most calls have none, and there may be a million of them."""
    return None if callback is None and error_callback is None else (callback, error_callback)


class _InWait(threading.local):
    """The result whose callback runs in this thread."""

    result: AsyncResult | None = None


_here = _InWait()


class AsyncResult(Call):
    """The outcome of one call, as `multiprocessing.pool.AsyncResult`; it can be cancelled, too.

    A callback runs before `get` returns, in the pool's own thread; for a pool over a foreign executor, in the
    thread that reports the result. An exception of a callback is logged. For a call that was cancelled, or
    dropped by `terminate`, no callback runs.
    """

    __slots__ = ("_callbacks", "_engine", "_keeper", "loud")

    __class_getitem__: Any = classmethod(GenericAlias)

    def __init__(
        self,
        engine: Engine,
        keeper: object,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None = None,
        callbacks: Callbacks | None = None,
        limits: Limits = (None, 0),
    ) -> None:
        """`keeper` (the pool) is kept alive until the call has ended. `callbacks`: for a value, an error."""
        # As in `Call.__init__`, whose call would cost a third of all this.
        self.function, self.blob, self.buffers = func, args, kwargs
        self.mode = _CALL
        self.state = _NEW
        self.timeout, self.retries = limits
        self.losses = 0
        self.settled = False
        self._how = PENDING
        self._engine = engine
        self._keeper: object = keeper
        self._callbacks = callbacks
        self.loud = callbacks is not None

    def get(self, timeout: float | None = None) -> Any:
        """The value, or raises the call's error.

        Raises `multiprocessing.TimeoutError` after `timeout` seconds, `CancelledError` if it was cancelled,
        and `RuntimeError` without a timeout if the answer could never arrive: in a callback, for another
        call of a foreign executor.
        """
        if not self.settled and _here.result is not self:
            self._engine.wait_until(self.ready, timeout)
            if not self.settled:
                raise TimeoutError
        return self._value if self._how == VALUE else self.result()

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the outcome, for up to `timeout` seconds."""
        if not self.settled:
            self._engine.wait_until(self.ready, timeout)

    def ready(self) -> bool:
        """Whether the outcome has arrived."""
        return self.settled

    def successful(self) -> bool:
        """Whether it ended without an error. Raises `ValueError` if it has not ended."""
        if not self.settled:
            raise ValueError(f"{self!r} not ready")
        return self.error() is None

    def cancel(self) -> bool:
        """Drop the call. True: it never runs, and `get` raises `CancelledError`. False: it began."""
        return not self.settled and self._engine.cancel(self)

    def drop(self) -> None:
        """Drop tasks that have not begun, without waiting for an answer: the outcome is not needed."""
        self._engine.cancel(self, wait=False)

    def returned(self, value: Any) -> None:
        """As `Call.returned`; in one step if there is no callback."""
        if self._callbacks is None:
            self.blob = b""
            self._value = value
            self._how = VALUE
            self._keeper = None
            self.state = _SETTLED
            self.settled = True
        else:
            super().returned(value)

    def _end(self) -> None:
        if self._callbacks is None:
            self.state = _SETTLED
            self._keeper = None
            self.settled = True
        else:
            super()._end()

    def on_settled(self) -> None:
        """Run the callback."""
        self._keeper = None
        callbacks, self._callbacks = self._callbacks, None
        if callbacks is None or self.cancelled():
            return
        error = self.error()
        callback = callbacks[error is not None]
        if callback is not None:
            self._call_back(callback, self._value if error is None else error)

    def _call_back(self, callback: Callback, argument: Any) -> None:
        outer, _here.result = _here.result, self
        try:
            call_back("callback", callback, argument)
        finally:
            _here.result = outer


class Applied(AsyncResult):
    """The result of `apply`: its caller waits for it at once."""

    __slots__ = ()

    awaited = True


class MapResult(AsyncResult):
    """The outcome of a map: a list of all values, or the error of the chunk that failed first.

    It is ready when all chunks have ended, also after an error.
    """

    __slots__ = ("_chunks", "_counter", "_failed", "_reporter", "_total")

    def __init__(
        self,
        engine: Engine,
        keeper: object,
        callbacks: Callbacks | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        """An empty result: `send` submits its chunks."""
        super().__init__(engine, keeper, list, (), None, callbacks)
        self._chunks: list[Part] = []
        self._failed: list[Part] = []
        """Failed chunks, in the order of their ends."""
        self._counter = count(1)
        """Counts ended chunks, and `send`, in one step of C, in any thread."""
        self._total = 0
        """The final count, once it is known."""
        self._reporter = reporter

    def send(
        self,
        func: Callable[..., Any],
        pieces: Iterable[Sequence[Any]],
        mode: Mode,
        limits: Limits,
    ) -> None:
        """Submit one chunk for each of `pieces`, with these limits. Called once.

        An exception of `pieces` becomes the outcome, as that of a failed chunk.
        """
        safely(partial(self._send, func, iter(pieces), mode, limits))

    def _send(
        self, func: Callable[..., Any], pieces: Iterator[Sequence[Any]], mode: Mode, limits: Limits
    ) -> None:
        try:
            while True:
                try:
                    piece = next(pieces, None)
                except Exception as error:
                    self._add(func, (), mode).settle(None, error)
                    break
                if piece is None:
                    break
                self._submit(self._add(func, piece, mode), limits)
                checkpoint()
        except BaseException:  # an interruption of the caller, which never gets this result
            self.drop()
            raise
        finally:
            self._total = len(self._chunks) + 1
            self._count(None)

    def _submit(self, chunk: Chunk, limits: Limits) -> None:
        chunk.timeout, chunk.retries = limits
        hand_in(self._engine, chunk)

    def _add(self, func: Callable[..., Any], piece: Sequence[Any], mode: Mode) -> Chunk:
        loud = self._callbacks is not None or self._reporter is not None
        chunk = Chunk(func, piece, mode, self._ended, loud=loud)
        self._chunks.append(chunk)
        return chunk

    def cancel(self) -> bool:
        """Drop every chunk that has not begun. True: no chunk ever runs.

        If only some could be dropped, the others run to their end and `get` raises `CancelledError`.
        """
        if self.settled:
            return False
        chunks = list(self._chunks)
        return bool(chunks) and self._engine.cancel(*chunks)

    def drop(self) -> None:
        """As `AsyncResult.drop`."""
        self._engine.cancel(*self._chunks, wait=False)

    def _ended(self, chunk: Part) -> None:
        if self._reporter is not None:
            self._reporter.add(chunk.size)
        self._count(chunk)

    def _count(self, chunk: Part | None) -> None:
        if chunk is not None and chunk.raised:
            self._failed.append(chunk)
        if next(self._counter) == self._total:
            self._all_ended()

    def _all_ended(self) -> None:
        if self._reporter is not None:
            self._reporter.close()
        failed = self._failed[0] if self._failed else None
        self._failed = []
        if failed is None:
            self._how = RAW_VALUE
        elif failed.cancelled():
            self._chunks = []
            self.settle(None, failed.error())
            return
        else:
            self._chunks = [failed]
            self._how = RAW_ERROR
        self._end()

    def _raw(self) -> Any:
        return self._chunks

    def _read(self, how: int, raw: Any) -> tuple[Any, int]:
        if how == RAW_ERROR:
            return raw[0].error(), ERROR
        values: list[Any] = []
        for chunk in raw:
            values += chunk.result()
        return values, VALUE

    def _drop_raw(self) -> None:
        self._chunks = []


class Obtainable(Protocol[T_co]):
    """A result for `obtain`."""

    def get(self) -> T_co: ...
    def ready(self) -> bool: ...
    def drop(self) -> None: ...


def obtain(result: Obtainable[T_co]) -> T_co:
    """The value of `result`, for a caller that has no other reference to it: if interrupted, by Ctrl-C or
    another signal handler that raises, drop the tasks that have not begun."""
    try:
        return result.get()
    except BaseException:
        drop(result)
        raise


def drop(result: Obtainable[Any]) -> None:
    """Drop the tasks of `result` that have not begun, because its caller was interrupted."""
    if not result.ready():
        result.drop()


class InterruptibleCondition:
    """Waiting threads check a condition again at each `notify`. No thread holds a lock meanwhile.

    Several threads may wait, and a signal handler may wait in the middle of its thread's wait: each wait has
    a lock of its own to sleep on.
    """

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: deque[Any] = deque()

    def wait(self, ready: Callable[[], bool], deadline: float | None) -> bool:
        """Return once `ready()`, after which `notify` was called; False at `deadline` (None: wait for ever).

        Signal handlers run while it sleeps. Raises `Abandoned` in a deputy whose caller waits no more.
        """
        if ready():
            return True
        deferred_call = deferred_call_here()
        if deferred_call is not None:
            deferred_call.stir = self.notify
        waiter = allocate_lock()
        waiter.acquire()
        self._waiters.append(waiter)  # before the check: a change after it notifies this waiter
        try:
            while not ready():
                if deferred_call is not None and deferred_call.abandoned:
                    raise Abandoned
                patience = left(deadline)
                depth = _shield.lower()
                try:
                    woken = waiter.acquire(True, -1 if patience is None else patience)
                finally:
                    _shield.lift(depth)
                if not woken:
                    return ready()
            return True
        finally:
            self._waiters.remove(waiter)

    def notify(self) -> None:
        """Wake the waiting threads: something changed."""
        for waiter in tuple(self._waiters):
            with suppress(RuntimeError):  # it was woken already
                waiter.release()


_shield = Shield()
