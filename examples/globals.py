"""The tutorial's first lesson: a worker's globals are its own.

A task changes the global `m`. The next task in the same worker finds it changed; the parent and the other
worker do not. An initializer is how every worker gets what its tasks need.

``tcp://127.0.0.1:5556`` as an argument asks the workers of the coordinator there instead.
"""

import sys
import time
from collections.abc import Iterable
from typing import Any

from nearfar import Pool, WorkerInfo, current_worker

m = 0
greeting = "nobody greets"

Seen = tuple[WorkerInfo, Any]


def prepare(words: str) -> None:
    """Runs once in each worker process, before its first task."""
    global greeting
    greeting = words


def greet(_: int) -> Seen:
    time.sleep(0.02)  # or one worker would take all of them
    return here(), greeting


def add(amount: int) -> Seen:
    global m
    m += amount
    return here(), m


def look(_: int) -> Seen:
    time.sleep(0.02)
    return here(), m


def here() -> WorkerInfo:
    worker = current_worker()
    assert worker is not None, "this runs in a worker"
    return worker


def by_worker(seen: Iterable[Seen]) -> list[Seen]:
    return sorted(dict(seen).items(), key=lambda each: each[0].name)


def open_pool() -> Pool:
    if len(sys.argv) > 1:
        return Pool.connect(sys.argv[1], initializer=prepare, initargs=("hello from",))
    return Pool(2, prepare, ("hello from",))


if __name__ == "__main__":
    with open_pool() as pool:
        for worker, words in by_worker(pool.imap_unordered(greet, range(20))):
            print(f"{words} worker {worker.name} (slot {worker.slot}, pid {worker.pid} on {worker.host})")
        changed, value = pool.apply(add, (5,))
        print(f"worker {changed.name} changed m to {value}")
        for worker, value in by_worker(pool.map(look, range(20), chunksize=1)):
            print(f"worker {worker.name} finds m = {value}")
    print(f"the parent finds m = {m} and {greeting!r}; its current_worker() is {current_worker()}")
