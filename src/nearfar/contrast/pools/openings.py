"""One seam over all pools: open it, submit to it, map over it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from multiprocessing.pool import Pool as StandardPool
from pathlib import Path
from typing import Any, Protocol

from nearfar import Pool
from nearfar.contrast.names import EXECUTOR, FAR_IPC, FAR_TCP, NEAR, POOL
from nearfar.contrast.transports.base import FORK
from nearfar.net import keyring

WORKERS = 2
Function = Callable[[Any], Any]
Answer = Callable[[float | None], Any]
"""Waits so many seconds (None: for ever) for the value; raises the call's error, or `TimeoutError`."""


class Runner(Protocol):
    """A pool that is open."""

    def submit(self, func: Function, item: Any) -> Answer:
        """Submit one call."""

    def map(self, func: Function, items: Sequence[Any]) -> list[Any]:
        """In the chunks that a pool cuts by default."""


class PoolRunner:
    """Over the API of `multiprocessing.Pool`."""

    def __init__(self, pool: StandardPool | Pool) -> None:
        self._pool: Any = pool

    def submit(self, func: Function, item: Any) -> Answer:
        answer: Answer = self._pool.apply_async(func, (item,)).get
        return answer

    def map(self, func: Function, items: Sequence[Any]) -> list[Any]:
        values: list[Any] = self._pool.map(func, items)
        return values


class ExecutorRunner:
    """Over `concurrent.futures.Executor`, whose map cuts no chunks unless told."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def submit(self, func: Function, item: Any) -> Answer:
        return self._executor.submit(func, item).result

    def map(self, func: Function, items: Sequence[Any]) -> list[Any]:
        chunksize = max(1, -(-len(items) // (4 * WORKERS)))
        return list(self._executor.map(func, items, chunksize=chunksize))


@contextlib.contextmanager
def open_standard(folder: Path) -> Iterator[Runner]:
    with FORK.Pool(WORKERS) as pool:
        yield PoolRunner(pool)


@contextlib.contextmanager
def open_executor(folder: Path) -> Iterator[Runner]:
    with ProcessPoolExecutor(WORKERS, mp_context=FORK) as executor:
        yield ExecutorRunner(executor)


@contextlib.contextmanager
def open_near(folder: Path) -> Iterator[Runner]:
    with Pool(WORKERS, context=FORK) as pool:
        yield PoolRunner(pool)


@contextlib.contextmanager
def open_far(scheme: str, folder: Path) -> Iterator[Runner]:
    """A coordinator in this process, and all workers behind its address, as on another machine."""
    # TCP with keys: without, loopback is none (`nearfar.net.twins`), and "insecure" would let anyone in.
    keys = folder / "keys" if scheme == "tcp" else None
    if keys is not None:
        keyring.init(keys)
    asked = f"ipc://{folder}/pool" if keys is None else "tcp://127.0.0.1:*"
    with Pool(0, address=asked, keys=keys) as pool:
        assert pool.address is not None
        command = [sys.executable, "-m", "nearfar", "worker", "-q", "--processes", str(WORKERS)]
        command += [] if keys is None else ["--keys", str(keys)]
        agent = subprocess.Popen([*command, "--connect", pool.address], stdout=subprocess.DEVNULL)
        try:
            yield PoolRunner(pool)
        finally:
            agent.terminate()
            agent.wait()


POOLS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Runner]]] = {
    POOL: open_standard,
    EXECUTOR: open_executor,
    NEAR: open_near,
    FAR_IPC: partial(open_far, "ipc"),
    FAR_TCP: partial(open_far, "tcp"),
}
