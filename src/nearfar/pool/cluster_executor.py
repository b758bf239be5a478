"""What executors over the clusters of other engines share: addresses, outcomes, and an end that may come from
any thread."""

from __future__ import annotations

import abc
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from nearfar.errors import AddressError, CoordinatorLost
from nearfar.net.schemes import shown
from nearfar.pool.engine_worker import PackedCall, Unprepared, run_packed
from nearfar.pool.limited_calls import Failed

__all__ = ["AHEAD", "LOOK_EVERY", "ClusterExecutor", "foreign_address", "wait_for_listener"]

AHEAD = 16
"""Calls in the cluster for each worker: engines pass messages in batches, and starve with few."""
LOOK_EVERY = 1.0
"""Seconds between two looks at how many workers there are."""


class ClusterExecutor(Executor, abc.ABC):
    """Submits packed calls to a cluster, for a `ForeignEngine`."""

    _max_workers: int
    """Calls that run at once in the cluster, as of the last look."""

    def __init__(self, name: str, read_error: Callable[[bytes], BaseException]) -> None:
        """`name`: of the engine, for threads. `read_error` reads the error of an initializer."""
        self._name = name
        self._read_error = read_error
        self._process = os.getpid()
        self._lock = threading.RLock()  # a garbage collection inside may end the same pool
        self._closing: threading.Thread | None = None
        # Callbacks may wait, and the threads of the engine's client must not.
        self._callbacks = ThreadPoolExecutor(1, f"nearfar-{name}")

    @abc.abstractmethod
    def _start(self, call: PackedCall, outcome: Future[Any]) -> None:
        """Submit a call; `_tell` is called with its outcome."""

    @abc.abstractmethod
    def _close(self) -> None:
        """Leave the cluster, and end all threads but `_callbacks`."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As `Executor.submit`, only for ``run_packed(call)``."""
        assert fn is run_packed, "this executor is only for ForeignEngine"
        (call,) = args
        outcome: Future[Any] = Future()
        self._start(call, outcome)
        return outcome

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As `Executor.shutdown`. What becomes of calls that run is the engine's ``ends_running``."""
        if self._process != os.getpid() or sys.is_finalizing():  # then no thread can be started any more
            return
        with self._lock:
            if self._closing is None:  # in a thread: this may be a callback, or the engine's own thread
                self._closing = threading.Thread(target=self._end, name=f"nearfar-{self._name}-end")
                self._closing.start()
        if wait:
            self._closing.join()

    def _end(self) -> None:
        self._close()
        self._callbacks.shutdown()

    def _tell(self, outcome: Future[Any], value: Any, error: BaseException | None) -> None:
        """Give a call its outcome, in the thread for callbacks."""
        if isinstance(value, Unprepared):
            error = self._read_error(value.error)
        elif isinstance(value, Failed):
            error = value.error
        with suppress(RuntimeError):  # the pool was terminated
            if error is None:
                self._callbacks.submit(outcome.set_result, value)
            else:
                self._callbacks.submit(outcome.set_exception, error)


def foreign_address(scheme: str, address: str, options: Mapping[str, Any]) -> tuple[str, int | None]:
    """``HOST:PORT`` and the window of ``SCHEME://HOST:PORT?window=CALLS``, for an engine that does not know
    nearfar's keys and plain format. Raises `AddressError`, and `ValueError` for such an option.
    """
    host = r"\[[0-9a-fA-F:.]+\]|[\w.-]+"
    found = re.fullmatch(rf"{scheme}://({host}):(\d{{1,5}})(?:\?window=([1-9]\d{{0,8}}))?", address)
    if found is None:
        raise AddressError(
            f"cannot read the address {shown(address)!r}: expected {scheme}://HOST:PORT, or"
            f" {scheme}://HOST:PORT?window=CALLS"
        )
    for name in ("plain", "keys", "insecure"):
        if options.get(name):
            raise ValueError(
                f"{name}= is for nearfar's own pools: the engine behind {scheme}:// does not know it"
            )
    host, port, window = found.groups()
    return f"{host}:{port}", None if window is None else int(window)


def wait_for_listener(kind: str, scheme: str, place: str, wait: float) -> None:
    """Wait until a program listens at ``HOST:PORT``: the clients of engines give up late, or leave a thread.

    Raises `CoordinatorLost` after `wait` seconds; it names the `kind` of program.
    """
    host, _, port = place.rpartition(":")
    until, pause = time.monotonic() + wait, threading.Event()
    while True:
        try:
            socket.create_connection(
                (host.strip("[]"), int(port)), max(0.1, until - time.monotonic())
            ).close()
            return
        except (OSError, OverflowError) as error:
            if time.monotonic() >= until:
                said = f"no {kind} answers at {scheme}://{place} after {wait:g} s: {error}"
                raise CoordinatorLost(said) from None
        pause.wait(0.1)
