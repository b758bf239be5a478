"""Which engine a pool or an executor runs on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent import futures
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any

from nearfar.net.reliable import LEASE
from nearfar.pool.engine import Engine, SharedEngine
from nearfar.pool.executor_engine import ForeignEngine
from nearfar.pool.options import Limits

if TYPE_CHECKING:
    from nearfar.dashboard.server import Dashboard

__all__ = ["WAIT", "Workers", "connect_engine", "make_engine", "show"]

WAIT = 60.0
"""Seconds without an answer after which a coordinator counts as lost."""


@dataclass(frozen=True)
class Workers:
    """The workers to start: the constructor's arguments of `multiprocessing.Pool`."""

    processes: int | None = None
    initializer: Callable[..., object] | None = None
    initargs: Iterable[Any] = ()
    maxtasksperchild: int | None = None
    context: BaseContext | None = None
    daemon: bool = True
    """They cannot have children of their own, and their calls are dropped at the program's exit. Else the
    exit waits for the calls, as with the standard library's executors."""
    plain: bool = False
    """Send and read no pickle."""

    def check(self, *, least: int) -> None:
        """Raise the standard library's errors for invalid arguments."""
        count_of(self.processes, "processes", "Pool")
        if self.processes is not None and self.processes < least:
            raise ValueError(f"Number of processes must be at least {least}")
        lifetime = self.maxtasksperchild
        if lifetime is not None and (not isinstance(lifetime, int) or lifetime <= 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        if self.initializer is not None and not callable(self.initializer):
            raise TypeError("initializer must be a callable")


def make_engine(
    workers: Workers,
    *,
    address: str | None = None,
    executor: futures.Executor | None = None,
    window: int | None = None,
    limits: Limits = (None, 0),
    lease: float | None = None,
    keys: str | os.PathLike[str] | None = None,
    insecure: bool = False,
) -> Engine:
    """An engine for new workers (and others that join at `address`), or over an existing `executor`.

    Raises `ValueError` and `TypeError` for arguments that are invalid or not supported, and the errors of
    starting the workers.
    """
    workers.check(least=1 if address is None else 0)
    of_an_address = {"lease": lease is not None, "keys": keys is not None, "insecure": insecure}
    if executor is not None:
        if address is not None:
            raise ValueError("address and executor exclude each other")
        engine = over(executor, workers, of_an_address, window)
        engine.check_limits(*limits)
        return engine
    if window is not None:
        raise ValueError("window= would mean nothing without executor=: this pool has workers of its own")
    from nearfar.pool.near_engine import NearEngine

    place = access = None
    if address is None:
        if any(of_an_address.values()):
            raise ValueError(
                f"{named(of_an_address)} would mean nothing without address=: no worker can join"
            )
    else:
        # Only here: a pool without an address needs no ZeroMQ.
        from nearfar.net.addresses import Address
        from nearfar.net.auth import admit

        place = Address.parse(address)
        access = admit(place, keys, insecure=insecure)
    return NearEngine(
        workers.processes,
        workers.initializer,
        tuple(workers.initargs),
        workers.maxtasksperchild,
        workers.context,
        place=place,
        access=access,
        lease=LEASE if lease is None else lease,
        daemon=workers.daemon,
        plain=workers.plain,
    )


def show(engine: Engine, where: bool | str, token: str | os.PathLike[str] | None) -> Dashboard:
    """Serve a dashboard of the pool or executor that `engine` runs; its owner must close it.

    Raises `AddressError` and `KeysError`, and `ValueError` for an engine without workers of its own.
    """
    # Only here: few pools have one.
    from nearfar.dashboard.board import Board
    from nearfar.dashboard.server import Dashboard
    from nearfar.pool.near_engine import NearEngine

    if not isinstance(engine, NearEngine):
        raise ValueError("dashboard= is for workers of one's own: the executor= may have a dashboard")
    board = Board("pool")
    made = Dashboard(board, where, token)
    engine.show(board)
    return made


def connect_engine(
    address: str,
    initializer: Callable[..., object] | None,
    initargs: Iterable[Any],
    *,
    limits: Limits = (None, 0),
    wait: float = WAIT,
    daemon: bool = True,
    plain: bool = False,
    keys: str | os.PathLike[str] | None = None,
    insecure: bool = False,
) -> Engine:
    """An engine for the pool at `address`, whose scheme chooses the engine; `daemon` as in `Workers`.

    Raises `AddressError`, `KeysError`, `ValueError` for `limits` or options that the engine cannot keep, and
    `PoolBroken` of an engine that connects at once.
    """
    Workers(initializer=initializer).check(least=1)
    from nearfar.net import schemes

    connect: Callable[..., Engine] = schemes.load(schemes.POOLS, address)
    engine = connect(
        address,
        initializer,
        tuple(initargs),
        wait=wait,
        daemon=daemon,
        plain=plain,
        keys=keys,
        insecure=insecure,
    )
    try:
        engine.check_limits(*limits)
    except BaseException:
        engine.terminate()
        engine.join()
        raise
    return engine


def connect_coordinator(
    address: str,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    *,
    wait: float,
    daemon: bool,
    plain: bool,
    keys: str | os.PathLike[str] | None,
    insecure: bool,
) -> Engine:
    """An engine that is a client of the coordinator at `address`, over ZeroMQ."""
    from nearfar.net.addresses import Address
    from nearfar.net.auth import approach
    from nearfar.pool.far_engine import FarEngine

    place = Address.parse_remote(address)
    access = approach(place, keys, insecure=insecure)
    return FarEngine(place, access, initializer, initargs, wait=wait, daemon=daemon, plain=plain)


def over(
    executor: futures.Executor, workers: Workers, given: dict[str, bool], window: int | None = None
) -> Engine:
    """An engine over an executor; a nearfar executor's engine is shared. `given`: the other arguments.
    `window` as for `ForeignEngine`.
    """
    if window is not None and (not isinstance(window, int) or window < 1):
        raise ValueError(f"window must be a number of calls, 1 or more, not {window!r}")
    given = given | {
        "initializer": workers.initializer is not None,
        "initargs": bool(tuple(workers.initargs)),
        "maxtasksperchild": workers.maxtasksperchild is not None,
        "context": workers.context is not None,
        "plain": workers.plain,
    }
    engine = getattr(executor, "engine", None)
    if isinstance(engine, Engine):
        given["window"] = window is not None
    if any(given.values()):
        raise ValueError(f"{named(given)} would be for the executor itself, which has its workers already")
    if not callable(getattr(executor, "submit", None)):
        raise TypeError(f"executor= takes a concurrent.futures.Executor, not {executor!r}")
    if isinstance(engine, Engine):
        return SharedEngine(engine, executor, workers.processes)
    if type(executor).__module__ == "distributed.cfexecutor":  # which alone would run calls again
        from nearfar.pool.dask_executor import over_client

        return over_client(executor._client, workers=workers.processes, window=window)  # type: ignore[attr-defined]
    return ForeignEngine(executor, workers.processes, window)


def count_of(number: Any, name: str, kind: str) -> int | None:
    """`number`, which must be a number of workers, or None. Raises `TypeError`; an address gets a hint."""
    if number is None or (isinstance(number, int) and not isinstance(number, bool)):
        return number
    if isinstance(number, str) and "://" in number:
        raise TypeError(
            f"{name} is a number of workers, not an address: {kind}.connect({number!r}) uses the workers of a"
            f" coordinator there, {kind}(4, address={number!r}) has 4 workers and lets others join there"
        )
    raise TypeError(f"{name} is a number of workers or None, not {number!r}")


def named(given: dict[str, bool]) -> str:
    """The names of the given arguments: ``keys= and lease=``."""
    return " and ".join(f"{name}=" for name, there in given.items() if there)
