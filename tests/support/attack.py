"""Peers that must not be admitted, at every port that this process listens on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq
from zmq.utils.monitor import recv_monitor_message

LISTENING = "0A"
Key = tuple[bytes, bytes, bytes]
"""A public key, its secret, and the server's public key; all empty: no key."""


def listening_ports() -> set[int]:
    """The TCP ports that this process listens on, except those of the test runner."""
    return _listening() - RUNNERS


def _listening() -> set[int]:
    inodes = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and fields[9] in inodes:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


RUNNERS = frozenset(_listening())
"""The ports that were open when this module was read: pytest-rerunfailures listens on one."""


def strangers(server: bytes) -> dict[str, Key]:
    """The kinds of peers that the service with that public key must not admit."""
    unknown, other = zmq.curve_keypair(), zmq.curve_keypair()
    return {
        "no key": (b"", b"", b""),
        "an unknown key": (*unknown, server),
        "another server's key": (*unknown, other[0]),
    }


@contextmanager
def attack(port: int, kind: int, key: Key) -> Iterator[zmq.Socket[bytes]]:
    """A raw socket that connects to the port of this machine, in a context of its own."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(kind)
    socket.linger = 0
    public, secret, server = key
    if public:
        socket.curve_publickey, socket.curve_secretkey, socket.curve_serverkey = public, secret, server
    socket.monitor(f"inproc://attack-{os.getpid()}", zmq.EVENT_HANDSHAKE_SUCCEEDED | _FAILED)
    socket.connect(f"tcp://127.0.0.1:{port}")
    try:
        yield socket
    finally:
        socket.disable_monitor()
        socket.close()
        context.term()


_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


def gets_in(port: int, kind: int, key: Key, patience: int = 5000) -> bool:
    """Whether a handshake at that port succeeds; it fails within `patience` milliseconds otherwise."""
    with attack(port, kind, key) as socket:
        monitor = socket.context.socket(zmq.PAIR)
        monitor.linger = 0
        monitor.connect(f"inproc://attack-{os.getpid()}")
        try:
            assert monitor.poll(patience), "neither let in nor turned away"
            return int(recv_monitor_message(monitor)["event"]) == zmq.EVENT_HANDSHAKE_SUCCEEDED
        finally:
            monitor.close()
