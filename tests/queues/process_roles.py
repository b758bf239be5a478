"""Functions of the processes that tests kill and freeze; found by name, so that any start method works.

``python -m tests.queues.process_roles NAME ARGUMENT...`` runs one of them in a program of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

from nearfar.errors import QueueLost
from nearfar.net.addresses import Address
from nearfar.queues.client.client import QueueClient
from nearfar.queues.far import FarQueue


def hold(queue: Any, gate: Connection, count: int) -> None:
    """Take `count` items and print a line; when told to, ack them and echo further ones."""
    held = [queue.receive() for _ in range(count)]
    gate.send([delivery.item for delivery in held])
    gate.recv()
    for delivery in held:
        delivery.ack()
    for item in queue:
        gate.send(item)


def produce_and_wait(queue: Any, gate: Connection, items: list[Any]) -> None:
    """Put `items`, and stay alive."""
    queue.put_many(items)
    queue.qsize()  # the answer comes after the items were stored
    gate.send("put")
    gate.recv()


def help_and_wait(queue: Any, gate: Connection, items: list[Any]) -> None:
    """Put `items` for another producer, and stay alive."""
    end = QueueClient(Address.parse_remote(queue.address), helper=True)
    end.put(items, block=True, timeout=None)
    end.ask("size")  # the answer comes after the items were stored
    gate.send("put")
    gate.recv()


def die_of_poison(queue: Any, gate: Connection) -> None:
    """Report each item, and die at the one called poison."""
    while True:
        delivery = queue.receive()
        if delivery.item == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        gate.send(delivery.item)
        delivery.ack()


def wait_for_items(queue: Any) -> None:
    """Print the pid, and the error that ends it, each in one write: siblings share standard output."""
    os.write(1, f"{os.getpid()}\n".encode())
    try:
        queue.get()
    except QueueLost:
        os.write(1, b"lost\n")


def parent(method: str) -> None:
    """Host a queue with two children, which wait for its items for ever."""
    context = multiprocessing.get_context(method)
    queue = FarQueue(0, lease=1.0, wait=1.0)
    for _ in range(2):
        context.Process(target=wait_for_items, args=(queue,)).start()  # type: ignore[attr-defined]
    signal.pause()


def put_and_end(address: str, how: str) -> None:
    """Put items and exit without a close."""
    queue = FarQueue.connect(address, wait=5.0)
    for number in range(1000):
        queue.put(number)
    if how == "sys.exit":
        sys.exit(3)
    if how == "raise":
        raise ArithmeticError


def put_and_end_later(address: str) -> None:
    """Put items, print a line, and exit when the standard input ends."""
    queue = FarQueue.connect(address, wait=1.0)
    queue.put_many(range(1000))
    print("put", flush=True)
    sys.stdin.read()
    queue.put("last")


def get_from_nobody(address: str) -> None:
    FarQueue.connect(address, wait=0.5).get()


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    globals()[name](*arguments)
