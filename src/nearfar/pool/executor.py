"""`concurrent.futures.Executor`'s API over any engine."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from itertools import islice
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any, Self

from nearfar.coordinator.tasks import Mode
from nearfar.pool.call import Call, Part, raise_from
from nearfar.pool.engine import SHUT, Closed, Engine, describe, hand_in
from nearfar.pool.futures import Future, Piece, Single
from nearfar.pool.making import WAIT, Workers, connect_engine, count_of, make_engine
from nearfar.pool.options import Limits, checked
from nearfar.queues.deadlines import deadline_of, left

__all__ = ["Executor"]


class _Core:
    """What the views of one executor share."""

    shut = False

    def __init__(self, engine: Engine, context: BaseContext | None = None) -> None:
        self.engine = engine
        self.context = context

    def __del__(self) -> None:
        if not self.shut:
            self.engine.close()  # as the standard's: what was submitted still runs


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
        retries: int = 0,
        timeout: float | None = None,
        lease: float | None = None,
        plain: bool = False,
        keys: str | os.PathLike[str] | None = None,
        insecure: bool = False,
    ) -> None:
        """Start `max_workers` workers (None: one for each CPU).

        The other arguments are those of `Pool`. Raises `ValueError` or `TypeError` for arguments that make
        no sense, `AddressError`.
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
            limits=checked(timeout, retries),
            lease=lease,
            keys=keys,
            insecure=insecure,
        )
        self._begin(_Core(engine, mp_context), (timeout, retries))

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
        """What runs the calls; a pool over this executor shares it."""
        return self._core.engine

    def __repr__(self) -> str:
        state = ", shut down" if self._core.shut else ""
        return f"<nearfar.{type(self).__name__} {describe(self.engine)}{state}>"

    def options(self, *, timeout: float | None = None, retries: int | None = None) -> Self:
        """The same executor, whose calls have these limits (None: as before).

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
        """A future of ``fn(*args, **kwargs)``, run in a worker. What cannot be pickled is the future's error.

        Raises `RuntimeError` after `shutdown` and once the program ends, `BrokenExecutor` if nothing can run
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
        """Take no more calls; with `wait`, return when all have ended and the workers are gone.

        `cancel_futures`: cancel those that have not begun. May be called again.
        """
        self._core.shut = True
        if cancel_futures:
            self.engine.cancel_waiting()
        self.engine.close()
        if wait:
            self.engine.join()

    def terminate_workers(self) -> None:
        """Send SIGTERM to every worker process, and take no more calls, as Python 3.14's.

        What runs ends with `WorkerLost` (a `BrokenProcessPool`), what has not begun is cancelled. Nothing is
        waited for. Workers elsewhere cannot be sent a signal: those that run a call of this executor are
        killed by their agent; after `connect`, such calls end with `CancelledError`. Raises `RuntimeError` if
        the workers belong to an executor that this one was made over.
        """
        self._end_workers(signal.SIGTERM)

    def kill_workers(self) -> None:
        """As `terminate_workers`, by SIGKILL."""
        self._end_workers(signal.SIGKILL)

    def _end_workers(self, signum: int) -> None:
        self.engine.end_workers(signum)
        self._core.shut = True

    # -- what programs know of the insides of the standard's ---------------------------------------

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
        """Something true once nothing can run any more."""
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
                part = Piece(fn, items, Mode.STARMAP, None)
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
                    yield values.pop()  # nothing here holds what was taken
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
