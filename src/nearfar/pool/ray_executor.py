"""Calls run by a Ray cluster: ``Pool.connect("ray://head:10001")``, the address of its Ray Client server."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import grpc  # noqa: F401, Ray's client needs it, and its own error is longer
import ray
from ray import exceptions

from nearfar.coordinator.state import Initializer
from nearfar.coordinator.task import Mode
from nearfar.errors import CoordinatorLost, WorkerLost
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
from nearfar.pool.engine import PoolPromises
from nearfar.pool.engine_worker import EngineAnswer, PackedCall, Unprepared
from nearfar.pool.executor_engine import ForeignEngine, Packing
from nearfar.pool.limited_calls import Failed, run_call
from nearfar.worker.lifetime import WorkerInfo

__all__ = ["RayExecutor", "connect"]

_LOST = (
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.LocalRayletDiedError,
    exceptions.OutOfMemoryError,
    exceptions.ObjectLostError,
)


def connect(
    address: str,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    *,
    wait: float,
    **options: Any,
) -> ForeignEngine:
    """As `factory.connect_engine`, for ``ray://HOST:PORT``, or ``ray://HOST:PORT?window=CALLS``.

    Raises `CoordinatorLost` if no Ray Client server answers for `wait` seconds.
    """
    place, window = foreign_address("ray", address, options)
    until = time.monotonic() + wait
    wait_for_listener("Ray Client server", "ray", place, wait)
    codec, name = pickled(far=True, main={}), new_name()
    first = travelling_initializer(codec, initializer, initargs)
    read_error = partial(read_initializer_error, codec)
    executor = RayExecutor(f"ray://{place}", name, first, read_error, until)
    return ForeignEngine(executor, None, window, ahead=AHEAD, owned=True, packing=Packing(name, codec))


class RayExecutor(ClusterExecutor):
    """Submits packed calls to a Ray cluster, one for each CPU at a time; Ray runs none of them again.

    A call whose worker died ends with `WorkerLost`. All end with `CoordinatorLost` once the connection is
    lost. The end of this executor ends its job in the cluster, with the calls that run.
    """

    promises = PoolPromises(
        "ray",
        crosses_machines=True,
        reports_losses=True,
        runs_once=True,
        retries=True,
        timeouts=True,
        initializers=True,
        names_workers=True,
        ends_running=True,
    )

    def __init__(
        self,
        address: str,
        name: str,
        initializer: Initializer | None,
        read_error: Callable[[bytes], BaseException],
        until: float,
    ) -> None:
        """`until`: when to give up connecting, of `time.monotonic`. Raises `CoordinatorLost`."""
        super().__init__("ray", read_error)
        self._address = address
        self._ended = threading.Event()
        self._max_workers = 0
        # Ray's client has a state for each thread: a thread of its own leaves the program's alone.
        self._ray = ThreadPoolExecutor(1, "nearfar-ray-client")
        while True:  # a head under load gives a client up that it could not serve within half a minute
            try:
                self._ray.submit(self._begin, name, initializer).result()
                break
            except (OSError, RuntimeError, exceptions.RaySystemError) as error:
                if time.monotonic() >= until:
                    self._ray.shutdown()
                    said = " ".join(str(error).split())
                    raise CoordinatorLost(f"no Ray Client server can be used at {address}: {said}") from None
        self._looking = threading.Thread(target=self._look, name="nearfar-ray-look", daemon=True)
        self._looking.start()

    def _start(self, call: PackedCall, outcome: Future[Any]) -> None:
        self._ray.submit(self._send, call, outcome)

    def _close(self) -> None:
        self._ended.set()
        self._looking.join()
        self._ray.submit(self._disconnect)
        self._ray.shutdown()

    # -- in the thread of Ray's client -------------------------------------------------------------

    def _begin(self, name: str, initializer: Initializer | None) -> None:
        self._context = ray.init(self._address, allow_multiple=True)
        self._context.__enter__()
        # Not the functions of `ray` itself: without a connection, those start a cluster on this machine.
        self._client = ray.util.client.ray
        self._run = self._client.remote(max_retries=0, num_cpus=1)(run_in_ray)
        self._first: list[Any] = []
        if initializer is not None:
            buffers = [bytes(each) for each in initializer.buffers]
            packed = PackedCall(name, Mode.PREPARE, initializer.function, initializer.blob, buffers)
            self._first.append(self._client.put(packed))
        self._count()

    def _count(self) -> None:
        self._max_workers = int(self._client.cluster_resources().get("CPU", 0))

    def _send(self, call: PackedCall, outcome: Future[Any]) -> None:
        try:
            answer = self._run.options(name=call.describe()).remote(call, self._first)
            answer.future().add_done_callback(partial(self._answered, outcome))
        except Exception as error:
            lost = not self._client.is_connected()
            self._tell(outcome, None, self._translated(ConnectionError(*error.args) if lost else error))

    def _disconnect(self) -> None:
        with suppress(Exception):  # the cluster is gone
            self._context.__exit__()
            self._context.disconnect()

    # -- in other threads --------------------------------------------------------------------------

    def _look(self) -> None:
        while not self._ended.wait(LOOK_EVERY):
            with suppress(Exception):  # the cluster is gone: then every call ends
                self._ray.submit(self._count).result()

    def _answered(self, outcome: Future[Any], answer: Future[Any]) -> None:
        error = answer.exception()
        value = answer.result() if error is None else None
        self._tell(outcome, value, None if error is None else self._translated(error))

    def _translated(self, error: BaseException) -> BaseException:
        if isinstance(error, _LOST):
            how = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            return WorkerLost(f"of {self._address}", "", 0, f"was lost: {how}")
        if isinstance(error, ConnectionError):
            said = " ".join(str(error).split())
            return CoordinatorLost(f"the connection to {self._address} is lost: {said}")
        return error


def run_in_ray(call: PackedCall, first: list[Any]) -> EngineAnswer | Unprepared | Failed:
    """Run a call in a worker of Ray, after the initializer to which `first` refers, if there is one."""
    name = str(ray.get_runtime_context().get_worker_id())
    me = WorkerInfo(-1, name, socket.gethostname(), os.getpid())
    return run_call(call, me, partial(ray.get, first[0]) if first else None)
