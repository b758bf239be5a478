"""Which engine a pool or an executor runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent import futures
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Any, Unpack

from nearfar.pool.engine import Engine
from nearfar.pool.foreign import ForeignEngine
from nearfar.pool.options import AccessOptions
from nearfar.pool.shared import SharedEngine

__all__ = ["LEASE", "WAIT", "Workers", "connect_engine", "make_engine"]

LEASE = 10.0
"""Seconds of silence after which a worker on another machine counts as dead."""
WAIT = 60.0
"""Seconds without an answer after which a coordinator counts as lost."""


@dataclass(frozen=True)
class Workers:
    """What the workers are to be: the constructor's arguments of `multiprocessing.Pool`."""

    processes: int | None = None
    initializer: Callable[..., object] | None = None
    initargs: Iterable[Any] = ()
    maxtasksperchild: int | None = None
    context: BaseContext | None = None
    daemon: bool = True
    """They may have no children of their own, and at the program's exit what they run is dropped. Else it is
    waited for, as the standard's executors do."""
    plain: bool = False
    """No pickle, both ways."""

    def check(self, *, least: int) -> None:
        """Raise what the standard raises for arguments that make no sense."""
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
    timeout: float | None = None,
    lease: float = LEASE,
    **options: Unpack[AccessOptions],
) -> Engine:
    """An engine for new workers (and others that join at `address`), or over an `executor` that is there.

    Raises `ValueError` and `TypeError` for what makes no sense, and what starting the workers raises.
    """
    workers.check(least=1 if address is None else 0)
    if executor is not None:
        return over(executor, workers, address, timeout)
    from nearfar.pool.near import NearEngine

    place = access = None
    if address is not None:
        # Only here: a pool without an address needs no ZeroMQ.
        from nearfar.net.access import admit
        from nearfar.net.addresses import Address

        place = Address.parse(address)
        access = admit(place, options.get("keys"), insecure=options.get("insecure", False))
    return NearEngine(
        workers.processes,
        workers.initializer,
        tuple(workers.initargs),
        workers.maxtasksperchild,
        workers.context,
        place=place,
        access=access,
        lease=lease,
        daemon=workers.daemon,
        plain=workers.plain,
    )


def connect_engine(
    address: str,
    initializer: Callable[..., object] | None,
    initargs: Iterable[Any],
    *,
    wait: float = WAIT,
    daemon: bool = True,
    plain: bool = False,
    **options: Unpack[AccessOptions],
) -> Engine:
    """An engine that is a client of the coordinator at `address`; `daemon` as in `Workers`.

    Raises `AddressError`, `KeysError`.
    """
    Workers(initializer=initializer).check(least=1)
    from nearfar.net.access import approach
    from nearfar.net.addresses import Address
    from nearfar.pool.far import FarEngine

    place = Address.parse_remote(address)
    access = approach(place, options.get("keys"), insecure=options.get("insecure", False))
    return FarEngine(place, access, initializer, tuple(initargs), wait=wait, daemon=daemon, plain=plain)


def over(executor: futures.Executor, workers: Workers, address: str | None, timeout: float | None) -> Engine:
    """An engine over somebody's executor; a nearfar one's engine is shared."""
    own = workers.initializer, workers.maxtasksperchild, workers.context
    if workers.plain or any(each is not None for each in own):
        raise ValueError("initializer, maxtasksperchild, context and plain are for the executor itself")
    if address is not None:
        raise ValueError("address and executor exclude each other")
    engine = getattr(executor, "engine", None)
    if isinstance(engine, Engine):
        return SharedEngine(engine, executor)
    if timeout is not None:
        raise ValueError("a foreign executor cannot kill a task, so it keeps no timeout")
    return ForeignEngine(executor, workers.processes)
