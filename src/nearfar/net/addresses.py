"""Addresses: ``tcp://host:port`` and ``ipc://path``, read once and never guessed at again."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from nearfar.errors import AddressError

LONGEST_IPC_PATH = 107
"""Bytes: `sun_path` of unix(7), less its closing zero."""
LONGEST_SUFFIX = len(".lane-00000")

_TCP = re.compile(r"tcp://(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>\*|[\w.-]+)):(?P<port>\*|\d{1,5})", re.ASCII)
_EVERYWHERE = {"*": "0.0.0.0", "0.0.0.0": "0.0.0.0", "::": "::"}
_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a queue or a pool is found: a host and a port (0: any free one), or a path."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `text`; raises `AddressError` saying what is wrong with it."""
        if text.startswith("ipc://"):
            return cls(path=_ipc_path(text))
        match = _TCP.fullmatch(text)
        if match is None:
            raise AddressError(f"cannot read the address {text!r}: expected tcp://host:port or ipc://path")
        port = 0 if match["port"] == "*" else int(match["port"])
        if port > 65535:
            raise AddressError(f"cannot read the address {text!r}: a port is at most 65535")
        host = match["host"] or _v6(text, match["v6"])
        return cls(host=_EVERYWHERE.get(host, host), port=port)

    @classmethod
    def parse_remote(cls, text: str) -> Self:
        """Read an address to connect to, which needs to be a certain one; raises `AddressError`."""
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

        A name other than ``localhost`` is not looked up: it counts as another machine's.
        """
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def everywhere(self) -> bool:
        """True if it stands for every address of this machine: others cannot connect to it as it is."""
        return self.host in _HERE

    def seen_from_here(self) -> Address:
        """The address by which this machine reaches what is bound here: everywhere becomes loopback."""
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
    """Read a range of ports such as ``5600-5700``; raises `AddressError`."""
    match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text, re.ASCII)
    if match is None or not 0 < int(match[1]) <= int(match[2]) < 65536:
        raise AddressError(f"cannot read the ports {text!r}: expected first-last, such as 5600-5700")
    return range(int(match[1]), int(match[2]) + 1)
