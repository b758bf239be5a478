"""The addresses and machines of a run's roles."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from random import Random

from tests.chaos.faults.proxied import LISTEN, TARGET


def spread() -> Iterator[str]:
    """The machines of the roles: the first on one, the others spread over the rest."""
    yield "a"
    while True:
        yield from ("b", "c", "d")


def free_ports(count: int) -> list[int]:
    """So many adjacent free ports, below those that the kernel assigns."""
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
