"""The only module that makes ZeroMQ sockets and sets their options."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import socket
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import zmq
from zmq.backend import Socket as Raw

from nearfar.errors import AddressError, ProtocolError
from nearfar.net import addresses
from nearfar.net.addresses import Address
from nearfar.net.auth import Pair
from nearfar.net.validation import name

LARGEST_FRAME = 1 << 31
"""Bytes: a peer that announces a larger frame is disconnected. The size of the largest item."""
LARGEST_CONTROL = (1 << 20) + (1 << 12)
"""Bytes of a frame on a socket without items: a little more than the longest message without a body."""
MOST_UNREAD = 1000
"""Unread messages of one connection: beyond that, its peer must wait, by TCP's flow control."""
MOST_UNSENT = 10_000
"""Messages that a bound socket keeps for a peer that does not read; those beyond are dropped (numbered ones
are sent again)."""
HANDSHAKE = 5_000
"""Milliseconds after which a connection with an incomplete handshake is closed."""
MOST_SOCKETS = 65_535
"""The largest value of ZeroMQ's bound on the sockets of a process: each consumer of a queue needs one at the
host. The actual bound is the process's limit of descriptors."""
MOST_PEERS = 4096
"""Sessions of a host or a coordinator, at most."""
SPARE_DESCRIPTORS = 40
"""Descriptors for the rest of the program: a host without clients has 30."""
COPIED = 64 * 1024
"""Bytes of items: longer ones are sent and received without copying."""
MADE_UP = 5
"""Bytes of an identity that a ROUTER generates; the first is 0."""
KEEPALIVE = {
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 10,
    zmq.TCP_KEEPALIVE_INTVL: 5,
    zmq.TCP_KEEPALIVE_CNT: 3,
    zmq.TCP_MAXRT: 20_000,
}
"""A connection that a firewall has dropped, or whose other machine is gone, is closed and made again
(seconds, tries; the last: milliseconds). The kernels detect this, not the protocol, which sets no time limit
for a message under way."""

# As numbers, as each message needs them: combining two members of an enum costs as much as sending.
_EVENTS, _READABLE = int(zmq.EVENTS), int(zmq.POLLIN)
_NOBLOCK, _MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)

# Without pyzmq's layer of Python above them, which takes as long again.
_get, _send, _recv = Raw.get, Raw.send, Raw.recv

FAILURES = (OSError, zmq.ZMQError, MemoryError)
"""What a system call, or ZeroMQ, raises if it lacks resources now."""

_contexts: dict[int, zmq.Context[zmq.Socket[bytes]]] = {}


def context() -> zmq.Context[zmq.Socket[bytes]]:
    """This process's context: one inherited over a fork does not work, and must not be used."""
    pid = os.getpid()
    if pid not in _contexts:
        _contexts[pid] = new_context()
    return _contexts[pid]


def new_context() -> zmq.Context[zmq.Socket[bytes]]:
    """A context that allows the most sockets possible."""
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made.set(zmq.MAX_SOCKETS, min(MOST_SOCKETS, made.get(zmq.SOCKET_LIMIT)))
    return made


def make(
    kind: int,
    *,
    identity: str = "",
    largest: int = LARGEST_FRAME,
    within: zmq.Context[zmq.Socket[bytes]] | None = None,
) -> zmq.Socket[bytes]:
    """A socket with the options that every socket here has; `within` another context than the process's.

    Sending has no high-water mark except for a ROUTER (the protocol counts the bounds), and no linger (what
    must arrive is acked). `largest` is in bytes of one frame. Raises `zmq.ZMQError` if no more sockets can be
    made.
    """
    made = (within or context()).socket(kind)
    try:
        _set_options(made, kind, identity, largest)
    except BaseException:
        made.close()
        raise
    return made


def _set_options(made: zmq.Socket[bytes], kind: int, identity: str, largest: int) -> None:
    made.setsockopt(zmq.LINGER, 0)
    made.setsockopt(zmq.SNDHWM, 0)
    made.setsockopt(zmq.RCVHWM, MOST_UNREAD)
    made.setsockopt(zmq.IPV6, 1)
    made.setsockopt(zmq.MAXMSGSIZE, largest)
    made.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE)
    for option, value in KEEPALIVE.items():
        made.setsockopt(option, value)
    made.setsockopt(zmq.RECONNECT_IVL, 50)
    made.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    if kind == zmq.ROUTER:
        made.setsockopt(zmq.SNDHWM, MOST_UNSENT)
        made.setsockopt(zmq.ROUTER_HANDOVER, 1)
    if identity:
        made.setsockopt(zmq.ROUTING_ID, identity.encode())


def guard(made: zmq.Socket[bytes], pair: Pair, domain: str = "") -> None:
    """From now on, bind with CURVE only, as this server; with a `domain`, ZAP decides who is admitted."""
    made.setsockopt(zmq.CURVE_SECRETKEY, pair.secret)
    made.setsockopt(zmq.CURVE_PUBLICKEY, pair.public)
    made.setsockopt(zmq.CURVE_SERVER, 1)
    if domain:
        made.setsockopt(zmq.ZAP_DOMAIN, domain.encode())
        made.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


def guard_own(made: zmq.Socket[bytes]) -> None:
    """From now on, a bound path accepts only this user's processes."""
    made.setsockopt(zmq.CURVE_SERVER, 0)
    with contextlib.suppress(zmq.ZMQError):  # without support by the kernel, the file's mode protects it
        made.setsockopt(zmq.IPC_FILTER_UID, os.geteuid())


def show(made: zmq.Socket[bytes], pair: Pair, server: bytes) -> None:
    """From now on, connect with this key, and only to the server with that public key."""
    made.setsockopt(zmq.CURVE_SECRETKEY, pair.secret)
    made.setsockopt(zmq.CURVE_PUBLICKEY, pair.public)
    made.setsockopt(zmq.CURVE_SERVERKEY, server)


class Nameless(ProtocolError):
    """A message with an identity that ZeroMQ generated: of a peer without one, or of a connection whose peer
    has reconnected since, so that the name is the new connection's. The sender repeats it if needed."""


def peer_name(identity: bytes | memoryview) -> str:
    """The name of a peer, by its identity; raises `ProtocolError` if it is not a name."""
    if len(identity) == MADE_UP and not identity[0]:
        raise Nameless("a peer without a name")
    try:
        said = bytes(identity).decode()
    except UnicodeDecodeError:
        said = ""
    if not name(said):
        raise ProtocolError(f"a peer without a name: {bytes(identity)[:40]!r}")
    return said


def most_peers(descriptors: int) -> int:
    """How many peers with `descriptors` each this process has room for, by ``ulimit -n``."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST_PEERS
    return max(1, min(MOST_PEERS, (soft - SPARE_DESCRIPTORS) // descriptors))


def receive(
    made: zmq.Socket[bytes], copied: int, first: bytes | None = None, *, small: int = -1
) -> list[Any]:
    """The frames of the next message: the first `copied` ones as bytes, and the others, which may be large,
    as memory views without a copy, except that those of up to `small` bytes are bytes, too.

    `first` is the first one, if it has been read already. Raises `zmq.Again` if there is no message.
    """
    frames: list[Any] = [] if first is None else [first]
    if frames and not made.getsockopt(zmq.RCVMORE):
        return frames
    while True:
        frame = _recv(made, _NOBLOCK, False)  # has `more`, which is cheaper than getsockopt
        frames.append(frame.bytes if len(frames) < copied or len(frame) <= small else frame.buffer)
        if not frame.more:
            return frames


def send(made: zmq.Socket[bytes], frames: Sequence[Any], copied: int = 1 << 30) -> None:
    """Send `frames`; if there are more than `copied`, they are not copied, and must not change.

    Raises `zmq.Again` if the peer does not read, or is gone.
    """
    copy, last = len(frames) <= copied, len(frames) - 1
    for place, frame in enumerate(frames):
        try:
            _send(made, frame, _MORE if place < last else _NOBLOCK, copy)
        except RuntimeError:  # at interpreter exit, pyzmq can no longer send without copying
            made.send(frame, _MORE if place < last else _NOBLOCK)


def send_items(made: zmq.Socket[bytes], frames: Sequence[Any]) -> None:
    """As `send`, for a message whose last frame holds items: without copying, if they are long."""
    send(made, frames, len(frames) if len(frames[-1]) < COPIED else 0)


def descriptor(made: zmq.Socket[bytes]) -> int:
    """The descriptor to poll for reading: it signals only what is new since the last look at the socket."""
    return int(made.getsockopt(zmq.FD))


def readable(made: zmq.Socket[bytes]) -> bool:
    """True if there are messages to read."""
    return bool(int(_get(made, _EVENTS)) & _READABLE)


def bind(made: zmq.Socket[bytes], address: Address) -> Address:
    """Bind, and return the address with the actual port. Raises `AddressError`."""
    if address.path:
        _claim_path(address)
    try:
        made.bind(str(address))
    except zmq.ZMQError as error:
        raise AddressError(f"cannot bind {address}: {_reason(error)}") from None
    if address.path:
        addresses.note(address.path)
        try:
            Path(address.path).chmod(stat.S_IRUSR | stat.S_IWUSR)
        except OSError as error:
            raise AddressError(f"cannot keep others from {address}: {_reason(error)}") from None
        return address
    endpoint = made.getsockopt(zmq.LAST_ENDPOINT)
    port = int(bytes(endpoint).rstrip(b"\0").rpartition(b":")[2])
    return address.beside(port)


def hold(address: Address) -> socket.socket:
    """Bind a loopback address, so that no other process can, without accepting connections: the kernel keeps
    one waiting and drops the others, which costs no descriptor here. Raises `AddressError`."""
    host = "127.0.0.1" if address.host == "localhost" else address.host
    held = None
    try:
        held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((host, address.port))
        held.listen(0)
    except OSError as error:
        if held is not None:
            held.close()
        raise AddressError(f"cannot bind {address}: {_reason(error)}") from None
    return held


def bind_in(
    made: zmq.Socket[bytes],
    beside: Address,
    ports: range | None,
    suffix: str,
    bind: Callable[[zmq.Socket[bytes], Address], Address] = bind,
) -> int | str:
    """`bind` next to `beside`: on a free port (of `ports`, if given), or a path with `suffix`.

    Returns the place, for `Address.beside`. Raises `AddressError`.
    """
    if beside.path:
        bind(made, beside.beside(suffix))
        return suffix
    if ports is None:
        return bind(made, Address(host=beside.host)).port
    for port in random.sample(ports, len(ports)):  # a client of an earlier host may still connect to its lane
        with contextlib.suppress(AddressError):
            return bind(made, beside.beside(port)).port
    raise AddressError(f"no free port among {ports.start}-{ports.stop - 1} on {beside.host}")


def close_bound(made: zmq.Socket[bytes], beside: Address, place: int | str = "") -> None:
    """Close a socket that `bind` (or, with its place, `bind_in`) bound, and remove its file."""
    if beside.path:
        addresses.remove(f"{beside.path}{place}")
    made.close()


def _reason(error: zmq.ZMQError | OSError) -> str:
    reasons = {
        errno.EADDRINUSE: "the address is in use",
        errno.EADDRNOTAVAIL: "this machine has no such address",
        errno.ENODEV: "this machine has no such address",
        errno.EACCES: "permission denied",
    }
    return reasons.get(error.errno or 0, error.strerror or str(error)).lower()


def _claim_path(address: Address) -> None:
    """Check that the path is not in use, because ZeroMQ binds over any socket file. Raises `AddressError`."""
    path = Path(address.path)
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise AddressError(f"cannot bind {address}: there is no folder {path.parent}") from None
        return
    except OSError as error:
        raise AddressError(f"cannot bind {address}: {_reason(error)}") from None
    if not stat.S_ISSOCK(kind):
        raise AddressError(f"cannot bind {address}: there is a file that is not a socket")
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            probe.connect(address.path)
    except (ConnectionRefusedError, FileNotFoundError):
        return  # the process that listened there is gone
    except BlockingIOError:
        pass  # its backlog is full, so it is in use
    except OSError as error:
        raise AddressError(
            f"cannot bind {address}: there is a socket, and it cannot be told whether it is in use:"
            f" {_reason(error)}"
        ) from None
    raise AddressError(f"cannot bind {address}: the address is in use")
