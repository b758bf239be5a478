"""The only place where a ZeroMQ socket is made and gets its options."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import stat
from pathlib import Path

import zmq

from nearfar.errors import AddressError
from nearfar.net.addresses import Address

LARGEST_FRAME = 1 << 31
"""Bytes: a peer that announces a larger frame is disconnected."""

BROKEN_AFTER = 20_000
"""Milliseconds without a sign of life after which the kernel gives a connection up."""

_contexts: dict[int, zmq.Context[zmq.Socket[bytes]]] = {}


def context() -> zmq.Context[zmq.Socket[bytes]]:
    """This process's context: one that came over a fork is of no use here, and must not be touched."""
    pid = os.getpid()
    if pid not in _contexts:
        _contexts[pid] = zmq.Context()
    return _contexts[pid]


def make(kind: int, *, identity: str = "") -> zmq.Socket[bytes]:
    """A socket with the options that every socket here has.

    No high-water mark (bounds are counted by the protocol) and no linger (what has to arrive is acked).
    """
    made = context().socket(kind)
    made.setsockopt(zmq.LINGER, 0)
    made.setsockopt(zmq.SNDHWM, 0)
    made.setsockopt(zmq.RCVHWM, 0)
    made.setsockopt(zmq.IPV6, 1)
    made.setsockopt(zmq.MAXMSGSIZE, LARGEST_FRAME)
    made.setsockopt(zmq.RECONNECT_IVL, 50)
    made.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    _notice_broken(made)
    if kind == zmq.ROUTER:
        made.setsockopt(zmq.ROUTER_HANDOVER, 1)
    if identity:
        made.setsockopt(zmq.ROUTING_ID, identity.encode())
    return made


def _notice_broken(made: zmq.Socket[bytes]) -> None:
    """A connection that a firewall has forgotten, or whose other machine is gone, is closed and made again.

    The kernels find out, and not the protocol: a message may take as long to travel as it likes.
    """
    made.setsockopt(zmq.TCP_KEEPALIVE, 1)
    made.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 10)
    made.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 5)
    made.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)
    made.setsockopt(zmq.TCP_MAXRT, BROKEN_AFTER)


def receive(made: zmq.Socket[bytes], copied: int) -> list[bytes | memoryview]:
    """The frames of the next message: `copied` as bytes, and those after them, which may be large, in place.

    Raises `zmq.Again` if there is none.
    """
    frames: list[bytes | memoryview] = [made.recv(zmq.NOBLOCK)]
    while made.getsockopt(zmq.RCVMORE):
        if len(frames) < copied:
            frames.append(made.recv(zmq.NOBLOCK))
        else:
            frames.append(made.recv(zmq.NOBLOCK, copy=False).buffer)
    return frames


def bind(made: zmq.Socket[bytes], address: Address) -> Address:
    """Bind, and return the address with the port it got. Raises `AddressError`."""
    if address.path:
        _claim_path(address)
    try:
        made.bind(str(address))
    except zmq.ZMQError as error:
        raise AddressError(f"cannot bind {address}: {_reason(error)}") from None
    if address.path:
        Path(address.path).chmod(stat.S_IRUSR | stat.S_IWUSR)
        return address
    endpoint = made.getsockopt(zmq.LAST_ENDPOINT)
    port = int(bytes(endpoint).rstrip(b"\0").rpartition(b":")[2])
    return address.beside(port)


def bind_in(made: zmq.Socket[bytes], beside: Address, ports: range | None, suffix: str) -> int | str:
    """Bind next to `beside`: on a free port (of `ports`, if given), or a path with `suffix`.

    Returns the place, for `Address.beside`. Raises `AddressError`.
    """
    if beside.path:
        bind(made, beside.beside(suffix))
        return suffix
    if ports is None:
        return bind(made, Address(host=beside.host)).port
    for port in random.sample(ports, len(ports)):  # an end of an earlier host may still call at its lane
        with contextlib.suppress(AddressError):
            return bind(made, beside.beside(port)).port
    raise AddressError(f"no free port among {ports.start}-{ports.stop - 1} on {beside.host}")


def close_bound(made: zmq.Socket[bytes], beside: Address, place: int | str = "") -> None:
    """Close a socket that `bind` (or, with its place, `bind_in`) bound, and remove its file."""
    if beside.path:
        Path(f"{beside.path}{place}").unlink(missing_ok=True)  # ZeroMQ leaves it behind
    made.close()


def _reason(error: zmq.ZMQError) -> str:
    reasons = {
        errno.EADDRINUSE: "the address is in use",
        errno.EADDRNOTAVAIL: "this machine has no such address",
        errno.ENODEV: "this machine has no such address",
        errno.EACCES: "permission denied",
    }
    return reasons.get(error.errno or 0, error.strerror or str(error)).lower()


def _claim_path(address: Address) -> None:
    """ZeroMQ binds over any socket file, even one in use: look first."""
    path = Path(address.path)
    if not path.parent.is_dir():
        raise AddressError(f"cannot bind {address}: there is no folder {path.parent}")
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise AddressError(f"cannot bind {address}: there is a file that is not a socket")
    with (
        socket.socket(socket.AF_UNIX) as probe,
        contextlib.suppress(ConnectionRefusedError, FileNotFoundError),
    ):
        probe.connect(address.path)
        raise AddressError(f"cannot bind {address}: the address is in use")
