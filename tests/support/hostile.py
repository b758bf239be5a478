"""A peer that uses ZeroMQ, but not the protocol; or TCP, but not ZeroMQ."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from struct import pack
from typing import Any

import msgpack
import zmq

from nearfar.net import sockets

ODD = (
    [],
    [b""],
    [b"\xc1"],
    [b"\x00" * 9] * 5,
    [b""] * 3000,
    [b"\x91" * 900_000],
    [b"\xdd\x00\x00\x0f\x9f" * 1023],
    [b"\xdd\xff\xff\xff\xff"],
    [b"\xdf\xff\xff\xff\xff"],
    [b"\xc6\xff\xff\xff\xff"],
    [msgpack.packb([2, 0, 0, 1, "two\nlines \x1b[2J", {}])],
    [msgpack.packb([2, 0, 0, 7, {"a": "later version"}])],
    [msgpack.packb([2**64 - 1, 2**64 - 1, -1])],
    [msgpack.packb([1, 0, 0]), bytes(100_000)],
    [msgpack.packb({1 << n: n for n in range(60)})],
)


@contextmanager
def raw(kind: int, *addresses: str, identity: bytes = b"") -> Iterator[zmq.Socket[bytes]]:
    """A connected socket in a separate context."""
    made = sockets.context().socket(kind)
    made.setsockopt(zmq.LINGER, 0)
    made.setsockopt(zmq.SNDHWM, 0)
    if identity:
        made.setsockopt(zmq.ROUTING_ID, identity)
    for address in addresses:
        made.connect(address)
    try:
        yield made
    finally:
        made.close()


def damaged(frames: Iterable[Any], random: Random) -> list[bytes]:
    """Real frames with a few bytes changed, some cut short, some missing or doubled."""
    made = [bytearray(frame) for frame in frames]
    for _ in range(random.randint(1, 4)):
        frame = random.choice(made)
        if frame:
            frame[random.randrange(len(frame))] = random.randrange(256)
    if random.random() < 0.3:
        made[-1] = made[-1][: random.randint(0, len(made[-1]))]
    if random.random() < 0.2:
        made.insert(0, random.choice(made))
    return [bytes(frame) for frame in made]


def rubbish(real: Callable[[], list[bytes]], random: Random, count: int) -> Iterator[list[bytes]]:
    """`count` malformed messages, among them damaged real ones (`real` makes one)."""
    yield from (list(frames) for frames in ODD if frames)
    for _ in range(count):
        if random.random() < 0.5:
            yield [random.randbytes(random.randint(0, 60)) for _ in range(random.randint(1, 3))]
        else:
            yield damaged(real(), random)


def announce(port: int, kind: bytes, size: int, patience: float = 5.0) -> bytes:
    """Shake hands as ZeroMQ does, announce a frame of `size` bytes, and send little of it; what comes back
    until the connection is closed. Raises `TimeoutError` if it is not."""
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
    ready = b"\x05READY" + b"\x0bSocket-Type" + pack(">I", len(kind)) + kind
    with socket.create_connection(("127.0.0.1", port), 5) as line:
        line.settimeout(patience)
        line.sendall(greeting + b"\x04" + bytes([len(ready)]) + ready)
        line.sendall(b"\x02" + pack(">Q", size) + bytes(1000))
        said = b""
        try:
            while more := line.recv(4096):
                said += more
        except ConnectionResetError:
            pass
        return said


def memory(pid: int | str = "self") -> int:
    """Bytes of a process, this one if no other is named, that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
