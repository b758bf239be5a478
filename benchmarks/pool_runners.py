"""The pools side by side, each behind the same few calls."""

from __future__ import annotations

import contextlib
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing.pool import Pool as StandardPool
from pathlib import Path
from typing import Any, Protocol

from benchmarks.serving import free_port
from nearfar import Pool
from nearfar.coordinator.asking import ask
from nearfar.net.addresses import Address

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
def loky(method: str) -> Iterator[Runner]:
    """It has start methods of its own."""
    from loky import ProcessPoolExecutor as LokyExecutor

    made = LokyExecutor(max_workers=WORKERS)
    try:
        yield ExecutorRunner(made)
    finally:
        made.shutdown(wait=True)


@contextlib.contextmanager
def far_workers() -> Iterator[Opening]:
    """A coordinator and workers, programs of their own on loopback: gives what makes its clients."""
    address = f"tcp://127.0.0.1:{free_port()}"
    with (
        _program("coordinator", "--bind", address, "--grace", "1"),
        _program("worker", "--connect", address, "--processes", str(WORKERS)),
    ):

        @contextlib.contextmanager
        def far(method: str) -> Iterator[Runner]:
            with Pool.connect(address) as pool:
                yield PoolRunner(pool)

        place = Address.parse(address)
        while ask(place, PATIENCE).counts["workers"] < WORKERS:
            time.sleep(0.05)
        yield far


@contextlib.contextmanager
def _program(*words: str) -> Iterator[None]:
    command = [sys.executable, "-m", "nearfar", *words, "-q"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()
