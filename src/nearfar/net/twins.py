"""A loopback address without keys: a socket file that only its user can open, a twin of the TCP port.

Every user of a machine can connect to a port on loopback, and whoever binds it first answers there. So such a
port is bound, but lets nobody in; what is said there goes through the twin, in a folder of the user's alone.
Its name holds the network namespace, for each has its own loopback.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import time
from pathlib import Path

from nearfar.errors import AddressError
from nearfar.net.addresses import Address

HOME = Path("/tmp")
"""Not `tempfile.gettempdir`: two processes of a user must come to the same, whatever their environments say.
"""
YOUNG = 60.0
"""Seconds for which a socket file may be somebody's who has not begun to listen."""


def twin_of(address: Address) -> Address:
    """The path in the place of a loopback address. Raises `AddressError`."""
    host = "127.0.0.1" if address.host == "localhost" else address.host
    return Address(path=str(_folder() / f"{_namespace()}-{host}-{address.port}"))


def sweep() -> None:
    """Remove the socket files of services that were killed."""
    with contextlib.suppress(OSError, AddressError), os.scandir(_folder()) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if time.time() - entry.stat().st_mtime > YOUNG and not _listens(entry.path):
                    Path(entry.path).unlink()


def _folder() -> Path:
    folder = HOME / f"nearfar-{os.geteuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise AddressError(
            f"{folder} is not a folder of this user's alone, as loopback addresses need it: remove it, or"
            " give keys"
        )
    return folder


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/net").stat().st_ino)
    except OSError:
        return "net"


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
    return True
