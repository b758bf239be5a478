"""The pools over which the API tests run, and multiprocessing's as the reference."""

from __future__ import annotations

import importlib.util
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from nearfar.coordinator.server import StandaloneCoordinator
from nearfar.errors import NearfarError, RemoteError
from nearfar.net.addresses import Address
from nearfar.net.auth import OWN, Access
from nearfar.pool.executor import Executor
from nearfar.pool.pool import Pool
from nearfar.worker.agent import Agent
from nearfar.worker.supervisor import Supervisor, WorkerListener
from tests.pool.tasks import Trouble
from tests.support import dask_cluster
from tests.support.keys import keys
from tests.support.waiting import eventually


@dataclass(frozen=True)
class Maker:
    """How a test makes a pool of one kind: ``with make(processes) as pool``, which cleans up everything."""

    name: str
    make: Callable[[int], AbstractContextManager[Any]]
    ours: bool = True
    """Whether it has what nearfar adds to the standard."""
    kills: bool = False
    """Whether `terminate` stops what runs."""
    trouble: type[Exception] = Trouble
    """As what a task's `Trouble` comes home."""

    def __str__(self) -> str:
        return self.name


@contextmanager
def standard(processes: int) -> Iterator[Any]:
    pool = multiprocessing.get_context("fork").Pool(processes)
    try:
        yield pool
    finally:
        pool.terminate()
        pool.join()


@contextmanager
def over(executor: futures.Executor, workers: int | None = None) -> Iterator[Pool]:
    """A pool over `executor`, which is shut down afterwards."""
    pool = Pool(workers, executor=executor)
    try:
        yield pool
    finally:
        pool.terminate()
        pool.join()
        executor.shutdown(wait=True)


def processes_executor(processes: int) -> futures.ProcessPoolExecutor:
    executor = futures.ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("fork"))
    executor.submit(int).result()  # starts all of them
    return executor


def threads_executor(processes: int) -> futures.ThreadPoolExecutor:
    executor = futures.ThreadPoolExecutor(processes)
    barrier = threading.Barrier(processes)
    list(executor.map(lambda _: barrier.wait(), range(processes)))  # starts all of them
    return executor


def loky_executor(processes: int) -> futures.Executor:
    import loky

    executor: futures.Executor = loky.ProcessPoolExecutor(processes, timeout=None)
    executor.submit(int).result()
    return executor


@contextmanager
def shared(processes: int) -> Iterator[Pool]:
    """A pool that shares the engine of a nearfar executor."""
    inner = threads_executor(processes)
    with over(Executor(executor=inner)) as pool:
        yield pool
    inner.shutdown()


@contextmanager
def near(processes: int, method: str = "fork") -> Iterator[Pool]:
    """Worker processes of our own."""
    pool = Pool(processes, context=multiprocessing.get_context(method))
    try:
        yield pool
    finally:
        pool.terminate()
        pool.join()


@contextmanager
def agent(
    address: str,
    processes: int,
    access: Access = OWN,
    on_error: Callable[[BaseException], object] | None = None,
    plain: tuple[str, ...] | None = None,
) -> Iterator[Agent]:
    """Workers that join at `address` over the network, from a thread of this process.

    `on_error` hears of an error that ends them.
    """

    def hire(listener: WorkerListener) -> Supervisor:
        return Supervisor(listener, processes, context=multiprocessing.get_context("forkserver"), plain=plain)

    made = Agent(Address.parse(address), hire, processes, access=access)

    def run() -> None:
        try:
            made.run()
        except NearfarError as error:
            if on_error is None:
                raise
            on_error(error)

    thread = threading.Thread(target=run, name="agent")
    thread.start()
    try:
        yield made
    finally:
        made.leave()
        made.leave()
        thread.join()


@contextmanager
def hosted(processes: int) -> Iterator[Pool]:
    """A pool without own workers: all have joined over tcp."""
    pool = Pool(0, address="tcp://127.0.0.1:*")
    try:
        with agent(pool.address or "", processes):
            workers = f"{processes} worker"
            assert eventually(lambda: workers in repr(pool))
            yield pool
    finally:
        pool.terminate()
        pool.join()


@contextmanager
def both(processes: int) -> Iterator[Pool]:
    """Own workers, and others over tcp."""
    own = (processes + 1) // 2
    pool = Pool(own, address="tcp://127.0.0.1:*")
    try:
        with agent(pool.address or "", processes - own) if processes > own else nullcontext():
            workers = f"{processes} worker"
            assert eventually(lambda: workers in repr(pool))
            yield pool
    finally:
        pool.terminate()
        pool.join()


@contextmanager
def coordinated(processes: int, plain: tuple[str, ...] | None = None, access: Access = OWN) -> Iterator[str]:
    """The address of a separate coordinator, whose workers have joined."""
    coordinator = StandaloneCoordinator(Address.parse("tcp://127.0.0.1:*"), access=access)
    try:
        with agent(str(coordinator.address), processes, access, plain=plain):
            assert eventually(lambda: coordinator.counts()["workers"] == processes)
            yield str(coordinator.address)
    finally:
        coordinator.stop(0)
        coordinator.join()


@contextmanager
def far(processes: int) -> Iterator[Pool]:
    """A client of a separate coordinator, over tcp, with keys."""
    with coordinated(processes, access=Access(str(keys()))) as address:
        pool = Pool.connect(address, keys=keys())
        try:
            yield pool
        finally:
            pool.terminate()
            pool.join()


@contextmanager
def plainly(processes: int) -> Iterator[Pool]:
    """Client and workers that read no pickle."""
    with coordinated(processes, ("tests.pool", "builtins:abs")) as address:
        pool = Pool.connect(address, plain=True)
        try:
            yield pool
        finally:
            pool.terminate()
            pool.join()


@contextmanager
def dask_pool(processes: int) -> Iterator[Pool]:
    """The workers of a Dask cluster, which all tests of a run share."""
    pool = Pool.connect(dask_cluster.common(processes).address)
    try:
        assert eventually(lambda: f" {processes} worker" in repr(pool), 40)
        dask_cluster.open_connections(pool)
        yield pool
    finally:
        pool.terminate()
        pool.join()


# A pool of another engine joins the suite with a row here.
MAKERS = [
    Maker("standard", standard, ours=False, kills=True),
    Maker("near", near, kills=True),
    Maker("hosted", hosted, kills=True),
    Maker("both", both, kills=True),
    Maker("far", far, kills=True),
    Maker("plain", plainly, kills=True, trouble=RemoteError),
    Maker("processes", lambda count: over(processes_executor(count))),
    Maker("threads", lambda count: over(threads_executor(count))),
    Maker("shared", shared),
]
if importlib.util.find_spec("loky"):
    MAKERS.append(Maker("loky", lambda count: over(loky_executor(count))))

if not dask_cluster.MISSING:
    MAKERS.append(Maker("dask", dask_pool))

OURS = [maker for maker in MAKERS if maker.ours]
