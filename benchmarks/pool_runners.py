"""The pools side by side, each behind the same few calls."""

from __future__ import annotations

import contextlib
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing.pool import Pool as StandardPool
from pathlib import Path
from typing import Any, Protocol

from benchmarks.serving import free_port
from nearfar import Pool
from nearfar.coordinator.status import ask
from nearfar.net import auth
from nearfar.net.addresses import Address
from nearfar.net.auth import approach

WORKERS = 2
PATIENCE = 10.0
"""Seconds for a coordinator to answer."""
ROOT = Path(__file__).parent.parent


class Runner(Protocol):
    """Something that runs tasks."""

    def singly(self, func: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """Submit one by one, then get all."""

    def submit(self, func: Callable[[Any], Any], item: Any) -> Any:
        """Submit one, and get what will tell its outcome."""

    def call(self, func: Callable[[Any], Any], item: Any) -> Any:
        """Submit one, and wait for it."""

    def map(self, func: Callable[[Any], Any], items: Sequence[int]) -> list[Any]:
        """In the chunks that a pool cuts by default."""

    def unordered(self, func: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        """As they come, in chunks of one. Raises `NotImplementedError` if there is no such thing."""


class PoolRunner:
    """Over the API of `multiprocessing.Pool`."""

    def __init__(self, pool: StandardPool | Pool) -> None:
        self._pool: Any = pool

    def singly(self, func: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        submit = self._pool.apply_async
        return [result.get() for result in [submit(func, (item,)) for item in items]]

    def submit(self, func: Callable[[Any], Any], item: Any) -> Any:
        return self._pool.apply_async(func, (item,))

    def call(self, func: Callable[[Any], Any], item: Any) -> Any:
        return self._pool.apply(func, (item,))

    def map(self, func: Callable[[Any], Any], items: Sequence[int]) -> list[Any]:
        values: list[Any] = self._pool.map(func, items)
        return values

    def unordered(self, func: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        values: Iterable[Any] = self._pool.imap_unordered(func, items)
        return values


class ExecutorRunner:
    """Over `concurrent.futures.Executor`."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def singly(self, func: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        submit = self._executor.submit
        return [future.result() for future in [submit(func, item) for item in items]]

    def submit(self, func: Callable[[Any], Any], item: Any) -> Any:
        return self._executor.submit(func, item)

    def call(self, func: Callable[[Any], Any], item: Any) -> Any:
        return self._executor.submit(func, item).result()

    def map(self, func: Callable[[Any], Any], items: Sequence[int]) -> list[Any]:
        chunksize = -(-len(items) // (4 * WORKERS))
        return list(self._executor.map(func, items, chunksize=chunksize))

    def unordered(self, func: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        raise NotImplementedError


Opening = Callable[[str], contextlib.AbstractContextManager[Runner]]
"""Makes one whose workers are started by the method of that name."""


@contextlib.contextmanager
def standard(method: str) -> Iterator[Runner]:
    with multiprocessing.get_context(method).Pool(WORKERS) as pool:
        yield PoolRunner(pool)


@contextlib.contextmanager
def near(method: str) -> Iterator[Runner]:
    with Pool(WORKERS, context=multiprocessing.get_context(method)) as pool:
        yield PoolRunner(pool)


@contextlib.contextmanager
def executor(method: str) -> Iterator[Runner]:
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context(method)) as made:
        yield ExecutorRunner(made)


@contextlib.contextmanager
def hosting() -> Iterator[Opening]:
    """A pool whose coordinator is in the caller's process, and all of whose workers join from elsewhere."""

    @contextlib.contextmanager
    def hosted(method: str) -> Iterator[Runner]:
        with Pool(0, address="tcp://127.0.0.1:*") as pool:
            assert pool.address is not None
            with _program("worker", "--connect", pool.address, "--processes", str(WORKERS)):
                yield PoolRunner(pool)

    yield hosted


@contextlib.contextmanager
def far_workers(keys: Path | None = None) -> Iterator[Opening]:
    """A coordinator and workers, programs of their own on loopback: gives what makes its clients.

    `keys`: a folder of keys, and all that travels is encrypted; None: what only this user's processes reach.
    """
    address = f"tcp://127.0.0.1:{free_port()}"
    with_keys = ["--keys", str(keys)] if keys else []
    with (
        _program("coordinator", "--bind", address, "--grace", "1", *with_keys),
        _program("worker", "--connect", address, "--processes", str(WORKERS), *with_keys),
    ):

        @contextlib.contextmanager
        def far(method: str) -> Iterator[Runner]:
            with Pool.connect(address, keys=keys) as pool:
                yield PoolRunner(pool)

        place = Address.parse(address)
        access = approach(place, keys, insecure=False)
        while ask(place, PATIENCE, access).counts["workers"] < WORKERS:
            time.sleep(0.05)
        yield far


@contextlib.contextmanager
def keys() -> Iterator[Path]:
    """A folder of fresh keys, a service's and a client's."""
    with tempfile.TemporaryDirectory(prefix="nearfar-bench-") as folder:
        made = Path(folder) / "keys"
        auth.init(made)
        yield made


@contextlib.contextmanager
def _program(*words: str) -> Iterator[None]:
    command = [sys.executable, "-m", "nearfar", *words, "-q"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()
