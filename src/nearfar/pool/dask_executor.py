"""Calls run by a Dask cluster: ``Pool.connect("dask://scheduler:8786")``."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import astuple
from functools import partial
from typing import Any

import distributed
from distributed.scheduler import KilledWorker

from nearfar.coordinator.state import Initializer
from nearfar.coordinator.task import Mode
from nearfar.errors import CoordinatorLost, PoolBroken, WorkerLost
from nearfar.net.process import new_name
from nearfar.pool.base_engine import read_initializer_error, travelling_initializer
from nearfar.pool.cluster_executor import (
    AHEAD,
    LOOK_EVERY,
    ClusterExecutor,
    foreign_address,
    wait_for_listener,
)
from nearfar.pool.codec import pickled
from nearfar.pool.dask_scheduler import NAME, PREFIX, OnceOnly
from nearfar.pool.engine import PoolPromises
from nearfar.pool.engine_worker import EngineAnswer, PackedCall, Unprepared
from nearfar.pool.executor_engine import ForeignEngine, Packing
from nearfar.pool.limited_calls import Failed, run_call
from nearfar.worker.lifetime import WorkerInfo

__all__ = ["DaskExecutor", "connect", "over_client"]


def connect(
    address: str,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    *,
    wait: float,
    **options: Any,
) -> ForeignEngine:
    """As `factory.connect_engine`, for ``dask://HOST:PORT``, or ``dask://HOST:PORT?window=CALLS``.

    Raises `CoordinatorLost` if no scheduler answers for `wait` seconds, `PoolBroken` if it lacks nearfar.
    """
    place, window = foreign_address("dask", address, options)
    wait_for_listener("Dask scheduler", "dask", place, wait)
    try:
        client = distributed.Client(f"tcp://{place}", timeout=wait, set_as_default=False)
    except OSError as error:
        raise CoordinatorLost(f"no Dask scheduler answers at {address} after {wait:g} s: {error}") from None
    try:
        return over_client(client, initializer, initargs, window=window, close=client.close)
    except BaseException:
        client.close()
        raise


def over_client(
    client: Any,
    initializer: Callable[..., object] | None = None,
    initargs: tuple[Any, ...] = (),
    *,
    workers: int | None = None,
    window: int | None = None,
    close: Callable[[], object] = lambda: None,
) -> ForeignEngine:
    """An engine over a `distributed.Client`; `close` is called at its end. Raises as `connect`."""
    codec, name = pickled(far=True, main={}), new_name()
    first = travelling_initializer(codec, initializer, initargs)
    executor = DaskExecutor(client, name, first, partial(read_initializer_error, codec), close)
    return ForeignEngine(executor, workers, window, ahead=AHEAD, owned=True, packing=Packing(name, codec))


class Moved(Exception):
    """The call is not this worker's any more. The caller does not see this."""


class DaskExecutor(ClusterExecutor):
    """Submits packed calls to a Dask cluster, where each begins once at most.

    A call whose worker died ends with `WorkerLost`. All end with `CoordinatorLost` once the connection to the
    scheduler is lost, as Dask gives them up then.
    """

    promises = PoolPromises(
        "dask",
        crosses_machines=True,
        reports_losses=True,
        runs_once=True,
        retries=True,
        timeouts=True,
        initializers=True,
        names_workers=True,
    )

    def __init__(
        self,
        client: Any,
        name: str,
        initializer: Initializer | None,
        read_error: Callable[[bytes], BaseException],
        close: Callable[[], object],
    ) -> None:
        super().__init__("dask", read_error)
        self._client = client
        self._pool = name
        self._close_client = close
        self._prepared = initializer is not None
        self._numbers = itertools.count()
        try:
            client.register_plugin(OnceOnly(), name=NAME)
            if initializer is not None:
                first = (
                    initializer.function,
                    initializer.blob,
                    [bytes(each) for each in initializer.buffers],
                )
                client.sync(client.scheduler.nearfar_offer, client=client.id, pool=name, initializer=first)
        except Exception as error:
            raise PoolBroken(
                f"the Dask scheduler at {client.scheduler.address} does not take the plugin that lets each"
                f" call run once; its Python needs this version of nearfar: {error!r}"
            ) from error
        self._max_workers = sum(client.nthreads().values())
        self._loop = client.loop.asyncio_loop
        self._looking = asyncio.run_coroutine_threadsafe(self._look(), self._loop)

    def _start(self, call: PackedCall, outcome: Future[Any]) -> None:
        key = f"{PREFIX}{call.describe()}-{self._pool}-{next(self._numbers)}"
        given = self._client.submit(run_once, key, call, self._prepared, key=key, pure=False)
        asyncio.run_coroutine_threadsafe(self._follow(given, outcome), self._loop)

    def _close(self) -> None:
        self._looking.cancel()
        with suppress(Exception):  # the scheduler is gone
            self._close_client()

    async def _follow(self, given: Any, outcome: Future[Any]) -> None:
        value: Any = None
        error: BaseException | None = None
        try:
            value = await given
        except KilledWorker as death:
            last = death.last_worker
            error = WorkerLost(str(last.name), last.host, last.pid, "was lost")
        except (asyncio.CancelledError, CancelledError) as lost:
            error = CoordinatorLost(f"Dask has given up the call: {lost or 'its client was closed'}")
        except Exception as other:
            error = other
        self._tell(outcome, value, error)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            with suppress(Exception):  # it connects again, or every call ends
                self._max_workers = sum((await self._client.nthreads()).values())


def run_once(key: str, call: PackedCall, prepared: bool) -> EngineAnswer | Unprepared | Failed:
    """Run a call in a worker of Dask, unless it has begun before; if `prepared`, after the initializer."""
    worker = distributed.get_worker()
    me = WorkerInfo(-1, str(worker.name), socket.gethostname(), os.getpid())
    allowed, other = ask(
        worker, worker.scheduler.nearfar_begin, key=key, worker=worker.address, me=astuple(me)
    )
    if not allowed:
        if other is None:
            raise Moved(key)
        first = WorkerInfo(*other)
        return Failed(WorkerLost(first.name, first.host, first.pid, "was lost"))

    def read() -> PackedCall:
        return PackedCall(
            call.client, Mode.PREPARE, *ask(worker, worker.scheduler.nearfar_initializer, pool=call.client)
        )

    return run_call(call, me, read if prepared else None)


def ask(worker: Any, handler: Callable[..., Any], /, **message: Any) -> Any:
    """Ask the scheduler from a thread of a worker."""
    return distributed.utils.sync(worker.loop, handler, **message)
