"""A `concurrent.futures.Future` that is the call itself."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from concurrent.futures import _base
from concurrent.futures.process import _RemoteTraceback
from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]
from typing import Any

from nearfar.coordinator.tasks import State
from nearfar.net.pickles.failures import original_of
from nearfar.pool.call import Call, Chunk, Item
from nearfar.pool.callbacks import call_back
from nearfar.pool.engine import Engine

__all__ = ["Future", "Piece", "Single"]

# Held for a few stores only: while a future gets its condition, and while it is settled. Reentrant: a garbage
# collection inside may run a finalizer that does so, too.
_lock = threading.RLock()
os.register_at_fork(after_in_child=_lock._at_fork_reinit)  # type: ignore[attr-defined]


def as_executors_do(error: BaseException) -> BaseException:
    """A task's error as the standard's executors raise it, not its pools: for a result that cannot be pickled
    what pickling raised, and the worker's traceback in their own type."""
    error = original_of(error)
    cause = error.__cause__
    if isinstance(cause, RemoteTraceback):
        error.__cause__ = _RemoteTraceback(cause.tb)
    return error


class Piece(Chunk):
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
    """What a future needs once somebody else than the caller of `result` looks at it."""

    __slots__ = ("callbacks", "condition", "waiters")

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.waiters: list[Any] = []
        self.callbacks: list[Callable[[Any], object]] = []


class Future(Call, futures.Future[Any]):
    """The outcome of one call, for everything that takes a `concurrent.futures.Future`.

    The standard's functions find its condition, waiters and callbacks, which are made when one of them
    first asks; making them is most of what the standard's futures cost. `cancel` is true only if the call
    never runs. A thread that waits in `result` or `exception` does the engine's work meanwhile.
    """

    __slots__ = ("_engine", "_watched")

    def __init__(
        self,
        engine: Engine,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        Call.__init__(self, func, args, kwargs)  # the standard's would make what this class saves
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
        """Whether the outcome is there."""
        return self.settled

    def running(self) -> bool:
        """Whether a worker has the call: it may have begun."""
        return not self.settled and self.state == State.GIVEN

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self.settled and Call.cancelled(self)

    def cancel(self) -> bool:
        """Drop the call. True: it never runs, or was cancelled before; False: it began, or has ended."""
        if self.settled:
            return self.cancelled()
        return self._engine.cancel(self) or self.cancelled()

    def set_running_or_notify_cancel(self) -> bool:
        """As the standard's. For executors; nearfar's do not need it."""
        if self.cancelled():
            return False
        if self.settled or self.state == State.GIVEN:
            raise RuntimeError("Future in unexpected state")
        self.state = State.GIVEN
        return True

    def set_result(self, result: Any) -> None:
        """As the standard's. For executors; nearfar's do not need it."""
        self._check_unsettled()
        self.settle(result, None)

    def set_exception(self, exception: BaseException | None) -> None:
        """As the standard's. For executors; nearfar's do not need it."""
        self._check_unsettled()
        self.settle(None, exception)

    def _check_unsettled(self) -> None:
        if self.settled:
            raise futures.InvalidStateError(f"{self._state}: {self!r}")

    @property
    def loud(self) -> bool:  # type: ignore[override]
        """Whether anybody watches."""
        return self._watched is not None

    def on_settled(self) -> None:
        """Tell those who watch, and run the callbacks."""
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

    # What the standard's functions, and those methods that are inherited, touch.

    @property
    def _state(self) -> str:  # type: ignore[override]
        if self.settled:
            return _base.CANCELLED_AND_NOTIFIED if Call.cancelled(self) else _base.FINISHED
        return _base.RUNNING if self.state == State.GIVEN else _base.PENDING

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
            made = _Watched()  # not under the lock: it may start a garbage collection, and that anything
            with _lock:
                if self._watched is None:
                    self._watched = made
        return self._watched
