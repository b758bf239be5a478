"""Addresses (`tcp://host:port`, `ipc://path`), and the socket file that replaces a loopback port.

A loopback address without keys uses a socket file that only its user can open, a twin of the TCP port. Every
user of a machine can connect to a loopback port, and any user can bind it first. So the port is only held
(`sockets.hold`), without accepting connections, and all traffic goes through the twin, in a folder that only
the user can access. The twin's name contains the network namespace, because each has its own loopback.

The folder is ``nearfar`` in the user's runtime folder (``XDG_RUNTIME_DIR``, else ``/run/user/UID``), or
``/tmp/nearfar-UID``; if another user has made that one, ``/tmp/nearfar-UID.`` and a random suffix. The two
sides may choose different folders, because environments differ and a runtime folder is removed after the
user's last login session. So the connecting side searches all of them, and finally the kernel's list of
socket files. It trusts only folders that no other user can access.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from nearfar.errors import AddressError
from nearfar.net.schemes import shown

LONGEST_IPC_PATH = 107
"""Bytes: `sun_path` of unix(7), without the final zero."""
LONGEST_SUFFIX = len(".lane-00000")

_TCP = re.compile(r"tcp://(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>\*|[\w.-]+)):(?P<port>\*|\d{1,5})", re.ASCII)
_EVERYWHERE = {"*": "0.0.0.0", "0.0.0.0": "0.0.0.0", "::": "::"}
_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a queue or a pool: a host and a port (0: any free one), or a path."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `text`; raises `AddressError` with the reason if it is not an address."""
        if text.startswith("ipc://"):
            return cls(path=_ipc_path(text))
        match = _TCP.fullmatch(text)
        if match is None:
            raise AddressError(
                f"cannot read the address {shown(text)!r}: expected tcp://host:port or ipc://path"
            )
        port = 0 if match["port"] == "*" else int(match["port"])
        if port > 65535:
            raise AddressError(f"cannot read the address {text!r}: a port is at most 65535")
        host = match["host"] or _v6(text, match["v6"])
        return cls(host=_EVERYWHERE.get(host, host), port=port)

    @classmethod
    def parse_remote(cls, text: str) -> Self:
        """Parse an address to connect to, which needs a definite port; raises `AddressError`."""
        address = cls.parse(text)
        if not (address.path or address.port):
            raise AddressError(f"cannot connect to {text}: it needs a port")
        return address

    def __str__(self) -> str:
        if self.path:
            return f"ipc://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port or '*'}"

    @property
    def transport(self) -> str:
        """``"ipc"`` or ``"tcp"``."""
        return "ipc" if self.path else "tcp"

    @property
    def local(self) -> bool:
        """True if only this machine can reach it: a path, or a loopback address.

        A name other than ``localhost`` is not resolved: it counts as another machine's.
        """
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def everywhere(self) -> bool:
        """True for the wildcard of all addresses of this machine, to which others cannot connect."""
        return self.host in _HERE

    def seen_from_here(self) -> Address:
        """The address by which this machine reaches a service bound here: the wildcard becomes loopback."""
        return replace(self, host=_HERE.get(self.host, self.host))

    def beside(self, place: int | str) -> Address:
        """Another socket of the same host: the same host at port `place`, or the same path with a suffix."""
        if isinstance(place, int):
            if self.path or not 0 < place < 65536:
                raise AddressError(f"there is no port {place} at {self}")
            return replace(self, port=place)
        if not self.path or len(place) > LONGEST_SUFFIX or "/" in place:
            raise AddressError(f"there is no socket {place!r} at {self}")
        return replace(self, path=self.path + place)


def _v6(text: str, literal: str) -> str:
    try:
        return str(ipaddress.IPv6Address(literal))
    except ValueError as error:
        raise AddressError(f"cannot read the address {text!r}: {error}") from None


def _ipc_path(text: str) -> str:
    name = text.removeprefix("ipc://")
    if not name or "\0" in name or name.startswith("@"):
        raise AddressError(f"cannot read the address {text!r}: ipc:// needs the path of a socket file")
    try:
        path = str(Path(name).expanduser().absolute())
    except RuntimeError as error:
        raise AddressError(f"cannot read the address {text!r}: {error}") from None
    room = LONGEST_IPC_PATH - LONGEST_SUFFIX
    if len(os.fsencode(path)) > room:
        raise AddressError(f"the path of {text!r} is too long: a socket file's may have {room} bytes here")
    return path


def parse_ports(text: str) -> range:
    """Parse a range of ports such as ``5600-5700``; raises `AddressError`."""
    match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text, re.ASCII)
    if match is None or not 0 < int(match[1]) <= int(match[2]) < 65536:
        raise AddressError(f"cannot read the ports {text!r}: expected first-last, such as 5600-5700")
    return range(int(match[1]), int(match[2]) + 1)


HOME = Path("/tmp")
"""Not `tempfile.gettempdir`: two processes of a user must use the same folder, whatever their environments.
"""
RUN = Path("/run/user")
"""The folder in which a login makes the runtime folders of users."""
YOUNG = 60.0
"""Seconds for which a new socket file may belong to a process that does not listen yet."""
LONGEST_NAME = len("/4026531840-[0000:0000:0000:0000:0000:ffff:255.255.255.255]-65535")
LISTENING = 0x10000
"""The flag of a socket that listens, in the kernel's list."""


def place_of(address: Address) -> Address:
    """The path at which a service binds instead of a loopback address; makes its folder if needed. Raises
    `AddressError`."""
    return Address(path=str(_folder() / _name(address)))


def find(address: Address) -> Address | None:
    """The path at which a service of this user listens instead of a loopback address; None if none does."""
    name = _name(address)
    for folder in _folders():
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK((folder / name).lstat().st_mode):
                return Address(path=str(folder / name))
    for path in _listed(name):
        if _private(path.parent) and path.exists():
            return Address(path=str(path))
    return None


def known(address: Address) -> bool:
    """Whether any user has a service without keys at a loopback address, by the kernel's list."""
    return any(True for _ in _listed(_name(address)))


def clear(address: Address) -> None:
    """Remove the socket files that a killed service left. Only for the process that holds the port."""
    for folder in _folders():
        (folder / _name(address)).unlink(missing_ok=True)


def sweep() -> None:
    """Remove the socket files of services that were killed."""
    for folder in _folders():
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - entry.stat().st_mtime > YOUNG and not _listens(entry.path):
                        Path(entry.path).unlink()


# -- folders -------------------------------------------------------------------------------------------


def _folder() -> Path:
    """The folder for a new socket file."""
    for folder in (*_runtime_folders(), _common_folder()):
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700)
        if _private(folder):
            return folder
    for folder in _fresh_folders():  # the folder of the common name belongs to another user
        return folder
    try:
        return Path(tempfile.mkdtemp(prefix=f"{_common_folder().name}.", dir=HOME))
    except OSError as error:
        raise AddressError(
            f"loopback addresses need a folder of this user's alone, and none can be made in {HOME}"
            f" ({error.strerror}): let XDG_RUNTIME_DIR name one, or give keys"
        ) from None


def _folders() -> Iterator[Path]:
    """All folders in which there may be a socket file, in order of preference."""
    for folder in (*_runtime_folders(), _common_folder(), *_fresh_folders()):
        if _private(folder):
            yield folder


def _runtime_folders() -> list[Path]:
    """``nearfar`` in each existing runtime folder, except those whose path is too long for sockets."""
    named = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    bases = dict.fromkeys((named, RUN / str(os.geteuid())))
    found = [base / "nearfar" for base in bases if base.is_absolute() and _private(base)]
    return [folder for folder in found if len(os.fsencode(folder)) + LONGEST_NAME <= LONGEST_IPC_PATH]


def _common_folder() -> Path:
    return HOME / f"nearfar-{os.geteuid()}"


def _fresh_folders() -> list[Path]:
    """The folders of this user with a random suffix. Others can use such names, but not this user's id."""
    if _private(_common_folder()):
        return []
    prefix = f"{_common_folder().name}."
    try:
        with os.scandir(HOME) as entries:
            names = sorted(entry.name for entry in entries if entry.name.startswith(prefix))
    except OSError:
        return []
    return [HOME / name for name in names if _private(HOME / name)]


def _private(folder: Path) -> bool:
    """Whether it is a folder of this user that no other user can access."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


# -- socket files --------------------------------------------------------------------------------------


def _name(address: Address) -> str:
    host = "127.0.0.1" if address.host == "localhost" else address.host
    return f"{_namespace()}-{host}-{address.port}"


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/net").stat().st_ino)
    except OSError:
        return "net"


def _listed(name: str) -> Iterator[Path]:
    """The paths that end in `name` at which a process in this network namespace listens, unix(7)."""
    try:
        lines = Path("/proc/net/unix").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7].startswith("/") and fields[7].rpartition("/")[2] == name:
            with contextlib.suppress(ValueError):
                if int(fields[3], 16) & LISTENING:
                    yield Path(fields[7])


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


_made: set[tuple[int, str]] = set()
"""The socket files made here, each with the pid of its maker: a forked child has made none."""


def note(path: str) -> None:
    """Register a socket file that this process made at `path`."""
    _made.add((os.getpid(), path))


def remove(path: str) -> None:
    """Remove this process's socket file at `path`, which ZeroMQ leaves behind. Ignores errors."""
    with contextlib.suppress(OSError):
        Path(path).unlink(missing_ok=True)
    _made.discard((os.getpid(), path))


def remove_all() -> None:
    """Remove all remaining socket files, when the process exits without closing its sockets."""
    for pid, path in list(_made):
        if pid == os.getpid():
            remove(path)
