"""Ports of loopback at which no program listens, for servers that are killed and started again there.

They are below those that the kernel gives to clients: between a kill and a start, a client could get the port
of the server that it looks for, and the server could not have it again.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from random import Random

RANGE = range(20_000, 32_000)


def free_port(*, adjacent: int = 1) -> int:
    """The first of so many adjacent free ports."""
    for first in Random().sample(RANGE, 200):
        if all(map(_free, range(first, first + adjacent))):
            return first
    raise AssertionError("no ports are free")


def free_address() -> str:
    """The address of a host that does not exist."""
    return f"tcp://127.0.0.1:{free_port()}"


def _free(port: int) -> bool:
    with suppress(OSError), socket.socket() as probe:
        probe.bind(("", port))  # at every address of this machine
        return True
    return False
