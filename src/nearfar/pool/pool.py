"""`multiprocessing.Pool`'s API over any engine."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sized
from concurrent import futures
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, Unpack

from nearfar.coordinator.task import Mode
from nearfar.pool.engine import Engine, PoolPromises, WeakBag, describe, hand_in
from nearfar.pool.factory import WAIT, Workers, connect_engine, make_engine, show
from nearfar.pool.imap import IMapIterator, IMapUnorderedIterator, InputFeed
from nearfar.pool.options import CallOptions, ImapOptions, Limits, MapOptions, checked, cut, limits
from nearfar.pool.progress import reporter
from nearfar.pool.results import Applied, AsyncResult, Callback, Callbacks, MapResult, drop, obtain, paired

if TYPE_CHECKING:
    from nearfar.dashboard.server import Dashboard

__all__ = ["Pool"]

It = TypeVar("It", bound=IMapIterator)

RUN, CLOSE, TERMINATE = "RUN", "CLOSE", "TERMINATE"
WORDS = {RUN: "", CLOSE: ", closed", TERMINATE: ", terminated"}


class Pool:
    """Worker processes and calls for them, as `multiprocessing.Pool`.

    Every method that submits takes by keyword, beyond the standard's arguments, `timeout` and `retries`: the
    limits of a task, see `CallOptions` (in maps, a task is a chunk). Maps take `progress`, too: True to show
    a bar on a terminal, or a callback ``progress(done, total)``, called in any thread, one call at a time.
    """

    _dashboard: Dashboard | None = None
    _state: str = TERMINATE  # until there is an engine: for `__del__` of a pool whose constructor failed

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: BaseContext | None = None,
        *,
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
        """Start `processes` workers (None: one for each CPU).

        * `initializer`: called with `initargs` once in each worker. `maxtasksperchild`: a worker is replaced
          after so many tasks. `context` starts the processes.
        * `address`: workers on other machines may join here; then `processes` may be 0.
        * `executor`: run on this executor instead, which the pool does not shut down; `processes` is then
          the number of its workers, if it does not report it. A foreign executor cannot kill a task, nor
          report which one a lost worker ran: `timeout` and `retries` are refused. `window`: calls that it
          has at once, the others wait here (None: twice the number of its workers; 16 times, over Dask's).
        * `keys`: a folder of keys: processes with these keys may join at `address`; None: the folder in
          ``NEARFAR_KEYS``, or, without that variable, only this user's processes may join. `insecure`: every
          process may. `lease`: seconds of silence after which a remote worker counts as dead (None: 10).
        * `timeout`, `retries`: the default limits of calls, see `CallOptions`.
        * `plain`: send and read no pickle: only functions of modules, by name, and plain data.
        * `dashboard`: serve a page, JSON and metrics at ``HOST:PORT`` until the pool ends; True:
          ``127.0.0.1:8787``, or another port if that is in use (`dashboard_url`). `dashboard_token`: a file
          with the token that a browser must show; needed beyond loopback.

        Raises `AddressError`, `KeysError`, and `ValueError` or `TypeError` for invalid arguments.
        """
        workers = Workers(processes, initializer, initargs, maxtasksperchild, context, plain=plain)
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
        self._begin(engine, timeout, retries)
        if dashboard is not False:
            try:
                self._dashboard = show(engine, dashboard, dashboard_token)
                weakref.finalize(self, self._dashboard.close)
            except BaseException:
                self.terminate()
                raise

    @property
    def dashboard_url(self) -> str | None:
        """Where a browser finds the dashboard; None if there is none."""
        return None if self._dashboard is None else self._dashboard.url

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
        """A pool of the workers of the coordinator at `address`, which other programs may use as well.

        `wait`: seconds without an answer of the coordinator, after which every call fails with
        `CoordinatorLost`. `keys` and `insecure` must match the coordinator's; if they do not, every
        call fails with `NotAdmitted`. Nothing is sent before the pool is used. `plain` as for a new pool.
        Raises `AddressError`, `KeysError`, and `ItemError` for an initializer that cannot be sent without
        pickle.
        """
        engine = connect_engine(
            address,
            initializer,
            initargs,
            limits=checked(timeout, retries),
            wait=wait,
            plain=plain,
            keys=keys,
            insecure=insecure,
        )
        pool = cls.__new__(cls)
        pool._begin(engine, timeout, retries)
        return pool

    def _begin(self, engine: Engine, timeout: float | None, retries: int) -> None:
        self._engine, self._state, self._limits = engine, RUN, (timeout, retries)
        self._reading: WeakBag[InputFeed] = WeakBag()

    def __repr__(self) -> str:
        return f"<nearfar.{type(self).__name__} {describe(self._engine)}{WORDS[self._state]}>"

    @property
    def address(self) -> str | None:
        """The address where workers may join, or of the coordinator; None for a pool of this process only."""
        return self._engine.address

    def promises(self) -> PoolPromises:
        """What the pool's engine guarantees: which losses it reports, which options it takes."""
        return self._engine.promises()

    def __reduce__(self) -> NoReturn:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __enter__(self) -> Self:
        self._check_running()
        return self

    def __exit__(self, *_error: object) -> None:
        self.terminate()

    def __del__(self) -> None:
        if self._state == RUN:
            try:  # it ends even if warnings are errors
                warnings.warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, 2, self)
            finally:
                self._engine.terminate()

    def _check_running(self) -> None:
        if self._state != RUN:
            raise ValueError("Pool not running")

    def apply(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> Any:
        """``func(*args, **kwds)`` in a worker: its value, or raises its error."""
        result = self._apply(Applied, func, args, kwds, None, options)
        try:
            return result.get()
        except BaseException:
            drop(result)
            raise

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult:
        """As `apply`, without waiting. A callback gets the value, or the error."""
        callbacks = None if callback is None and error_callback is None else (callback, error_callback)
        return self._apply(AsyncResult, func, args, kwds, callbacks, options)

    def map(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        **options: Unpack[MapOptions],
    ) -> list[Any]:
        """``[func(x) for x in iterable]``, or raises the first error once all tasks have ended."""
        return obtain(self.map_async(func, iterable, chunksize, **options))

    def map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
        **options: Unpack[MapOptions],
    ) -> MapResult:
        """As `map`, without waiting. A callback gets the whole list, or the error."""
        return self._map(Mode.MAP, func, iterable, chunksize, paired(callback, error_callback), options)

    def starmap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        **options: Unpack[MapOptions],
    ) -> list[Any]:
        """``[func(*x) for x in iterable]``, or raises the first error once all tasks have ended."""
        return obtain(self.starmap_async(func, iterable, chunksize, **options))

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
        **options: Unpack[MapOptions],
    ) -> MapResult:
        """As `map_async`, for `starmap`."""
        return self._map(Mode.STARMAP, func, iterable, chunksize, paired(callback, error_callback), options)

    def imap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int = 1,
        **options: Unpack[ImapOptions],
    ) -> IMapIterator:
        """An iterator over ``func(x)`` for each x, in order; the input may be endless. See `IMapIterator`.

        `window`: items that may be read ahead of the results that were taken (None: 256, or four chunks for
        each worker if that is more; four times as many while items and results are below 1 KiB).
        """
        return self._imap(IMapIterator, func, iterable, chunksize, options)

    def imap_unordered(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int = 1,
        **options: Unpack[ImapOptions],
    ) -> IMapUnorderedIterator:
        """As `imap`, but in the order in which tasks end."""
        return self._imap(IMapUnorderedIterator, func, iterable, chunksize, options)

    def close(self) -> None:
        """Accept no more calls. The workers end when all calls are done, including inputs of `imap`."""
        if self._state == RUN:
            self._state = CLOSE
            self._close_when_read()

    def terminate(self) -> None:
        """Kill the workers at once. Results of unfinished calls raise `CancelledError`."""
        self._state = TERMINATE
        for feed in self._reading.members():
            feed.stop()
        self._engine.terminate()
        if self._dashboard is not None:
            self._dashboard.close()

    def join(self) -> None:
        """Wait until the workers have ended. Raises `ValueError` before `close` or `terminate`.

        Reads the rest of the inputs of `imap`; their results can be taken later, as in the standard library.
        """
        if self._state == RUN:
            raise ValueError("Pool is still running")
        for feed in self._reading.members():
            feed.read_all()
        self._engine.close()
        self._engine.join()
        if self._dashboard is not None:
            self._dashboard.close()

    def _apply(
        self,
        kind: type[AsyncResult],
        func: Callable[..., Any],
        args: Iterable[Any],
        kwds: Mapping[str, Any] | None,
        callbacks: Callbacks | None,
        options: CallOptions,
    ) -> AsyncResult:
        if self._state != RUN:
            self._check_running()
        limits = self._asked(options, CallOptions) if options else self._limits
        result = kind(self._engine, self, func, tuple(args), kwds, callbacks, limits)
        hand_in(self._engine, result)
        return result

    def _asked(self, options: Mapping[str, Any], allowed: type) -> Limits:
        """The limits of a call. Raises `TypeError` and `ValueError` for invalid options."""
        if not options:
            return self._limits
        asked = limits(options, self._limits, allowed)
        self._engine.check_limits(*asked)
        return asked

    def _map(
        self,
        mode: Mode,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        callbacks: Callbacks | None,
        options: MapOptions,
    ) -> MapResult:
        self._check_running()
        asked = self._asked(options, MapOptions)
        pieces, total = cut(iterable, chunksize, self._engine)
        result = MapResult(self._engine, self, callbacks, reporter(options.get("progress"), total))
        result.send(func, pieces, mode, asked)
        return result

    def _imap(
        self,
        kind: type[It],
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int,
        options: ImapOptions,
    ) -> It:
        self._check_running()
        total = len(iterable) if isinstance(iterable, Sized) else None
        return kind(
            self._engine,
            func,
            iterable,
            chunksize,
            options.get("window"),
            self._asked(options, ImapOptions),
            reporter(options.get("progress"), total),
            self._reading.add,
            self._input_read,
            self,
        )

    def _input_read(self, feed: InputFeed) -> None:
        self._reading.discard(feed)
        self._close_when_read()

    def _close_when_read(self) -> None:
        """Close the engine, unless an `imap` has not yet read its input to the end."""
        if self._state == CLOSE and not self._reading.members():
            self._engine.close()
