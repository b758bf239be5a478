"""Processes that use a queue on one machine of `benchmarks.scale`: as many producers as consumers.

``python -m benchmarks.scale_ends ADDRESS PROCESSES TOGETHER EACH``: prints ``ready`` once all are
connected. After a line on its standard input, each producer puts `EACH` items of 100 bytes, `TOGETHER` in a
call, and the consumers take as many. Prints how many they took.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.connection import Connection

from nearfar import Queue

SIZE = 100


def main(address: str, processes: int, together: int, each: int) -> int:
    fork = multiprocessing.get_context("fork")
    made = []
    for number in range(processes):
        here, there = fork.Pipe()
        work = produce if number % 2 == 0 else consume
        process = fork.Process(target=work, args=(there, address, together, each))
        process.start()
        made.append((process, here))
    for _, pipe in made:
        pipe.recv()
    print("ready", flush=True)
    sys.stdin.readline()
    for _, pipe in made:
        pipe.send("go")
    took = sum(pipe.recv() for _, pipe in made)
    print(took, flush=True)
    for process, _ in made:
        process.join()
    return 0


def produce(pipe: Connection, address: str, together: int, each: int) -> None:
    with Queue.connect(address, wait=120) as queue:
        queue.qsize()
        items = [os.urandom(SIZE) for _ in range(max(together, 64))]
        pipe.send("ready")
        pipe.recv()
        if together > 1:
            for _ in range(each // together):
                queue.put_many(items)
        else:
            for number in range(each):
                queue.put(items[number % len(items)])
        pipe.send(0)


def consume(pipe: Connection, address: str, together: int, each: int) -> None:
    with Queue.connect(address, wait=120) as queue:
        queue.qsize()
        pipe.send("ready")
        pipe.recv()
        taken = 0
        while taken < each:
            taken += len(queue.get_many(min(together, each - taken))) if together > 1 else bool(queue.get())
        pipe.send(taken)


if __name__ == "__main__":
    address, *numbers = sys.argv[1:]
    sys.exit(main(address, *map(int, numbers)))
