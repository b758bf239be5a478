"""Where the roles of a run find each other, and on which machines they live."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from random import Random

from tests.chaos.faults.proxied import LISTEN, TARGET


def spread() -> Iterator[str]:
    """The machines on which roles live: the first on one, the others spread over the rest."""
    yield "a"
    while True:
        yield from ("b", "c", "d")


def free_ports(count: int) -> list[int]:
    """So many ports in a row that nobody uses, below those that the kernel gives out."""
    for first in Random().sample(range(20_000, 32_000 - count), 200):
        ports = list(range(first, first + count))
        if all(map(_free, ports)):
            return ports
    raise AssertionError("no ports are free")


def _free(port: int) -> bool:
    for address in ("127.0.0.1", LISTEN, TARGET):
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True
