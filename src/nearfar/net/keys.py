"""A folder of keys: who a service is, whom it lets in, and who this side is.

::

    DIR/server.key_secret    0600   a service's own key
    DIR/server.key                  its public half, which those who connect must know
    DIR/client.key_secret    0600   the key with which programs connect
    DIR/client.key                  its public half
    DIR/clients/NAME.key            the public keys that a service lets in

A service needs the first and the last, who connects the second and the third. The files are ZeroMQ's
certificates, as `zmq.auth` and other tools write them. A secret that others can read is refused, and so is a
list of clients that others can change.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

import zmq.auth
from zmq.utils import z85

from nearfar.errors import KeysError

SERVER, CLIENT, CLIENTS = "server", "client", "clients"
PUBLIC, SECRET = ".key", ".key_secret"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", re.ASCII)

log = logging.getLogger(__name__)


class Pair(NamedTuple):
    """A public key and its secret, in Z85: 40 characters each."""

    public: bytes
    secret: bytes


def check_name(name: str) -> str:
    """`name`, if a client may be called so; raises `KeysError`."""
    if not _NAME.fullmatch(name):
        raise KeysError(f"{name!r} is not a name: it takes up to 64 letters, digits, '.', '_' and '-'")
    return name


def check_unwritable(folder: Path) -> None:
    """Raises `KeysError` if there is no such folder, or others can write to it."""
    if not folder.is_dir():
        raise KeysError(f"there is no folder {folder}: `nearfar keys init` makes it")
    found = folder.stat()
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise KeysError(f"others can let themselves in through {folder}: chmod go-w {folder}")
    if found.st_uid not in (0, os.geteuid()):
        raise KeysError(f"the list of clients {folder} belongs to another user")


def read_public(path: Path) -> bytes:
    """The public key of a certificate, in Z85. Raises `KeysError`."""
    return _read(path)[0]


def read_pair(folder: Path, role: str) -> Pair:
    """The key of that role. Raises `KeysError`: also where others can read the secret."""
    path = folder / f"{role}{SECRET}"
    _check_private(path)
    public, secret = _read(path)
    if secret is None:
        raise KeysError(f"{path} holds no secret key")
    return Pair(public, secret)


def read_server_key(folder: Path) -> bytes:
    """The public key of the service that this folder connects to. Raises `KeysError`."""
    return read_public(folder / f"{SERVER}{PUBLIC}")


class Clients:
    """The public keys that a service lets in, read again when the folder has changed."""

    def __init__(self, folder: Path) -> None:
        """Raises `KeysError` if there is no such folder, or others can write to it."""
        self.folder = folder / CLIENTS
        self._seen: dict[str, tuple[int, int, int]] = {}
        self._key_of: dict[str, str] = {}
        self.names: dict[str, str] = {}
        """By key."""
        check_unwritable(self.folder)
        self.refresh()

    def refresh(self) -> set[str]:
        """Look for changes; returns the keys that are let in no more. Without a folder, nobody is."""
        now: dict[str, tuple[int, int, int]] = {}
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                name, suffix = Path(entry.name).stem, Path(entry.name).suffix
                if suffix == PUBLIC and _NAME.fullmatch(name):
                    with contextlib.suppress(FileNotFoundError):
                        found = entry.stat()
                        now[name] = (found.st_ino, found.st_mtime_ns, found.st_size)
        if now == self._seen:
            return set()
        before = set(self.names)
        key_of = {name: self._key_of.get(name, "") for name in now if now[name] == self._seen.get(name)}
        for name in now.keys() - key_of.keys():
            key_of[name] = self._load(name)
        self._seen, self._key_of = now, key_of
        self.names = {key: name for name, key in key_of.items() if key}
        return before - set(self.names)

    def _load(self, name: str) -> str:
        try:
            return read_public(self.folder / f"{name}{PUBLIC}").decode()
        except KeysError as error:
            log.warning("%s lets nobody in: %s", name, error)
            return ""


def _read(path: Path) -> tuple[bytes, bytes | None]:
    with contextlib.suppress(OSError):
        if not stat.S_ISREG(path.stat().st_mode):  # the open of a FIFO would wait for its writer
            raise KeysError(f"cannot read the key {path}: it is not a regular file")
    try:
        public, secret = zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if not path.exists():
            reason = "there is no such file; `nearfar keys init` and `nearfar keys add NAME` make them"
        raise KeysError(f"cannot read the key {path}: {reason}") from None
    for key in (public, secret):
        if key is not None and not _is_key(key):
            raise KeysError(f"cannot read the key {path}: it is not 40 characters of Z85")
    return public, secret


def _is_key(key: bytes) -> bool:
    try:
        return len(key) == 40 and len(z85.decode(key)) == 32
    except (ValueError, KeyError):
        return False


def _check_private(path: Path) -> None:
    with contextlib.suppress(OSError):  # who reads it finds out why it cannot be read
        found = path.stat()
        if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise KeysError(f"others can read the secret key {path}: make it private (chmod 600 {path})")
        if found.st_uid not in (0, os.geteuid()):
            raise KeysError(f"the secret key {path} belongs to another user")
