"""Uses a pool over the executor of another library: ``python -m tests.pool.foreign parsl|mpi``.

It prints what became of each call, one JSON array in a line. MPI starts it with its workers, and Parsl leaves
threads, so it is a program of its own.
"""

from __future__ import annotations

import json
import operator
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from nearfar import Pool

PATIENCE = 90.0


def parsl_executor() -> Executor:
    """Two workers of Parsl, which end if their executor is silent."""
    from parsl.concurrent import ParslPoolExecutor
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    workers = HighThroughputExecutor(
        label="workers",
        address="127.0.0.1",
        max_workers_per_node=2,
        heartbeat_period=1,
        provider=LocalProvider(init_blocks=1, max_blocks=1),
    )
    folder = tempfile.mkdtemp(dir=".")
    executor: Executor = ParslPoolExecutor(Config(executors=[workers], run_dir=folder, usage_tracking=0))
    return executor


def mpi_executor() -> Executor:
    """The ranks of this MPI program, but for the first."""
    from mpi4py.futures import MPIPoolExecutor

    executor: Executor = MPIPoolExecutor()
    return executor


def tell(name: str, call: Callable[[], Any]) -> None:
    try:
        outcome = call()
    except Exception as error:
        outcome = [type(error).__name__, type(error.__cause__).__name__]
    print(json.dumps([name, outcome]), flush=True)


def main(kind: str) -> None:
    with {"parsl": parsl_executor, "mpi": mpi_executor}[kind]() as executor, Pool(executor=executor) as pool:
        tell("map", lambda: sum(pool.map(abs, range(-1000, 0))))
        tell("imap", lambda: list(pool.imap(abs, range(-5, 0), 2)))
        tell("imap_unordered", lambda: sum(pool.imap_unordered(abs, range(-500, 0), 10)))
        tell("starmap", lambda: pool.starmap(operator.add, [(1, 2), (3, 4)]))
        tell("apply_async", lambda: pool.apply_async(pow, (2, 10)).get(PATIENCE))
        tell("an error", lambda: pool.apply(operator.truediv, (1, 0)))
        tell("timeout=", lambda: Pool(executor=executor, timeout=1))
        tell("retries=", lambda: Pool(executor=executor, retries=1))
        tell("initializer=", lambda: Pool(executor=executor, initializer=print))
        if kind == "parsl":
            tell("a death", lambda: pool.apply_async(os._exit, (1,)).get(PATIENCE))
            tell("the next call", lambda: pool.apply_async(abs, (-3,)).get(PATIENCE))


if __name__ == "__main__":
    main(sys.argv[1])
