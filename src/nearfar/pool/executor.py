"""`concurrent.futures.Executor`'s API over any engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from itertools import islice
from multiprocessing.context import BaseContext
from typing import Any, Self, Unpack

from nearfar.coordinator.tasks import Mode
from nearfar.pool.call import Call, Chunk, raise_from
from nearfar.pool.engine import Engine, describe, hand_in
from nearfar.pool.futures import Future
from nearfar.pool.making import LEASE, WAIT, Workers, connect_engine, make_engine
from nearfar.pool.options import AccessOptions, Limits
from nearfar.queues.deadlines import deadline_of, left

__all__ = ["Executor"]


class _Core:
    """What the views of one executor share."""

    shut = False

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

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
        lease: float = LEASE,
        plain: bool = False,
        **access: Unpack[AccessOptions],
    ) -> None:
        """Start `max_workers` workers (None: one for each CPU).

        The other arguments are those of `Pool`. Raises `ValueError` or `TypeError` for arguments that make
        no sense, `AddressError`.
        """
        if max_workers is not None and max_workers < (1 if address is None else 0):
            raise ValueError("max_workers must be greater than 0")
        workers = Workers(
            max_workers, initializer, initargs, max_tasks_per_child, mp_context, daemon=False, plain=plain
        )
        engine = make_engine(
            workers, address=address, executor=executor, timeout=timeout, lease=lease, **access
        )
        self._begin(_Core(engine), (timeout, retries))

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
        **access: Unpack[AccessOptions],
    ) -> Self:
        """An executor of the workers of the coordinator at `address`; as `Pool.connect`."""
        engine = connect_engine(
            address, initializer, initargs, wait=wait, daemon=False, plain=plain, **access
        )
        return cls.__new__(cls)._begin(_Core(engine), (timeout, retries))

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
        limits = (
            self._limits[0] if timeout is None else timeout,
            self._limits[1] if retries is None else retries,
        )
        return type(self).__new__(type(self))._begin(self._core, limits)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """A future of ``fn(*args, **kwargs)``, run in a worker. What cannot be pickled is the future's error.

        Raises `RuntimeError` after `shutdown`, `BrokenExecutor` if nothing can run any more.
        """
        self._check_open()
        future = Future(self._core.engine, fn, args, kwargs)
        future.timeout, future.retries = self._limits
        try:
            self._core.engine.submit(future)
        except futures.BrokenExecutor:
            raise
        except Exception as error:
            future.settle(None, error)
        return future

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
        `ValueError` for sizes below 1.
        """
        self._check_open()
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
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

    def _check_open(self) -> None:
        if self._core.shut:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def _chunks(
        self, fn: Callable[..., Any], source: Iterator[Sequence[Any]], size: int, most: int | None
    ) -> Iterator[Call]:
        """Submit up to `most` chunks of `source`."""
        while most is None or most > 0:
            items = tuple(islice(source, size))
            if not items:
                return
            call = Chunk(fn, items, Mode.STARMAP, None)
            call.timeout, call.retries = self._limits
            hand_in(self.engine, call)
            yield call
            most = None if most is None else most - 1

    def _results(
        self, calls: deque[Call], deadline: float | None, more: Callable[[], Iterable[Call]]
    ) -> Iterator[Any]:
        try:
            while calls:
                values = self._take(calls, deadline)
                calls.extend(more())
                while values:
                    yield values.pop()  # nothing here holds what was taken
        finally:
            for call in calls:
                self.engine.cancel(call)

    def _take(self, calls: deque[Call], deadline: float | None) -> list[Any]:
        """The values of the next chunk, last one first."""
        call = calls[0]
        if not call.settled and not self.engine.wait_until(lambda: call.settled, left(deadline)):
            raise TimeoutError
        calls.popleft()
        try:
            values: list[Any] = call.result()
        except StopIteration as error:
            raise_from(error)
        values.reverse()
        return values
