"""Access control: the user's own processes, the holders of keys, or everyone; and the folders of keys.

Address and options determine who may connect to a queue or a pool (`Access`):

=========  =================================  ============================================================
access     where                              who is admitted
=========  =================================  ============================================================
own        loopback and ipc, without keys     processes of the same user on this machine (kernel's check)
keys       anywhere                           holders of a key that the service admits, who know its key
open       anywhere, with `insecure`          everyone who can reach it
=========  =================================  ============================================================

A folder of keys::

    DIR/server.key_secret    0600   a service's own key
    DIR/server.key                  its public half, which clients need
    DIR/client.key_secret    0600   the key with which programs connect
    DIR/client.key                  its public half
    DIR/clients/NAME.key            the public keys that a service admits

A service needs the first and the last, a client the second and the third. The files are ZeroMQ certificates,
as `zmq.auth` and other tools write them. A secret that others can read is refused, and so are a trusted
public key and a list of clients that others can change.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import zmq.auth
from zmq.utils import z85

from nearfar.errors import AddressError, KeysError
from nearfar.net.addresses import Address
from nearfar.net.failures import short
from nearfar.net.validation import ProtocolErrors

SERVER, CLIENT, CLIENTS = "server", "client", "clients"
PUBLIC, SECRET = ".key", ".key_secret"

LONGEST_FILE = 64 * 1024
"""Bytes of a certificate that are read."""

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", re.ASCII)

log = logging.getLogger(__name__)


class Pair(NamedTuple):
    """A public key and its secret, in Z85: 40 characters each."""

    public: bytes
    secret: bytes


def check_name(name: str) -> str:
    """`name`, if it is a valid name of a client; raises `KeysError`."""
    if not _NAME.fullmatch(name):
        raise KeysError(f"{name!r} is not a name: it takes up to 64 letters, digits, '.', '_' and '-'")
    return name


def check_unwritable(folder: Path) -> None:
    """Raises `KeysError` if there is no such folder, or others can write to it."""
    try:
        found = folder.stat()
    except FileNotFoundError:
        raise KeysError(f"there is no folder {folder}: `nearfar keys init` makes it") from None
    except (OSError, ValueError) as error:
        raise KeysError(f"cannot read the list of clients {folder}: {reason(folder, error)}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise KeysError(f"{folder} is not a folder: `nearfar keys init` makes one, elsewhere")
    if found.st_mode & _OTHERS_WRITE:
        raise KeysError(f"others can add clients to {folder}: chmod go-w {folder}")
    if found.st_uid not in (0, os.geteuid()):
        raise KeysError(f"the list of clients {folder} belongs to another user")


def read_public(path: Path) -> bytes:
    """The public key of a certificate that is not trusted yet, in Z85. Raises `KeysError`."""
    return _read(path)[0]


def read_trusted(path: Path) -> bytes:
    """The public key of a certificate that is trusted because of its place, in Z85.

    Raises `KeysError`: also if others can change it.
    """
    return _read(path, trusted=True)[0]


def read_pair(folder: Path, role: str) -> Pair:
    """The key of that role. Raises `KeysError`: also if others can read the secret."""
    path = folder / f"{role}{SECRET}"
    public, secret = _read(path, secret=True)
    if secret is None:
        raise KeysError(f"{path} holds no secret key")
    return Pair(public, secret)


def read_server_key(folder: Path) -> bytes:
    """The public key of the service that this folder connects to.

    Raises `KeysError`: also if others can change it, and so replace the service.
    """
    return read_trusted(folder / f"{SERVER}{PUBLIC}")


class AllowedClients:
    """The public keys that a service admits, read again when the folder has changed."""

    def __init__(self, folder: Path) -> None:
        """Raises `KeysError` if there is no such folder, or others can write to it."""
        self.folder = folder / CLIENTS
        self._seen: dict[str, tuple[int, int, int]] = {}
        self._key_of: dict[str, str] = {}
        self._trouble = ""
        self._complaints = ProtocolErrors(log)
        self.names: dict[str, str] = {}
        """The names of admitted clients, by key."""
        check_unwritable(self.folder)
        self.refresh()

    def refresh(self) -> set[str]:
        """Check for changes; returns the keys that are no longer admitted (without a folder, all of them).

        Raises nothing. If the folder cannot be listed now, for lack of descriptors or because of its mode,
        known clients stay admitted unless their files are gone, and new ones wait for a check that succeeds.
        """
        now: dict[str, tuple[int, int, int]] = {}
        for name in self._list():
            try:
                found = self._path(name).stat()
                now[name] = (found.st_ino, found.st_mtime_ns, found.st_size)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                if name in self._seen:
                    now[name] = self._seen[name]
        if now == self._seen:
            return set()
        before = set(self.names)
        key_of = {name: self._key_of.get(name, "") for name in now if now[name] == self._seen.get(name)}
        for name in now.keys() - key_of.keys():
            try:
                key_of[name] = read_trusted(self._path(name)).decode()
            except KeysError as error:
                if short(error.__context__):
                    del now[name]  # to be read at the next check
                else:
                    key_of[name] = ""
                    log.warning("%s admits no client: %s", name, error)
        self._seen, self._key_of = now, key_of
        self.names = {key: name for name, key in key_of.items() if key}
        return before - set(self.names)

    def _list(self) -> list[str]:
        """The names with a key in the folder; the known ones if it cannot be listed."""
        try:
            with os.scandir(self.folder) as entries:
                names = [Path(entry.name) for entry in entries]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            if self._trouble != str(error):
                self._trouble = str(error)
                text = "cannot read the admitted clients now, trying again: %s"
                self._complaints.note(text, error, time.monotonic())
            return list(self._seen)
        self._trouble = ""
        return [name.stem for name in names if name.suffix == PUBLIC and _NAME.fullmatch(name.stem)]

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{PUBLIC}"


def _read(path: Path, *, secret: bool = False, trusted: bool = False) -> tuple[bytes, bytes | None]:
    """The public key in a file, and the secret one if there is one. With `secret`, only its owner may be able
    to read it; with `trusted`, only its owner to change it."""
    try:
        # O_NONBLOCK: do not wait for a writer of a FIFO
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise ValueError("it is not a regular file")
            if secret:
                _check_private(path, found)
            elif trusted:
                _check_unchanged(path, found)
            text = os.read(descriptor, LONGEST_FILE)
        finally:
            os.close(descriptor)
        public, hidden = _value(text, b"public-key"), _value(text, b"secret-key")
        if public is None:
            raise ValueError("no public key is in it")
    except KeysError:
        raise
    except (OSError, ValueError) as error:
        raise KeysError(f"cannot read the key {path}: {reason(path, error)}") from None
    for key in (public, hidden):
        if key is not None and not _is_key(key):
            raise KeysError(f"cannot read the key {path}: it is not 40 characters of Z85")
    return public, hidden


def _value(text: bytes, name: bytes) -> bytes | None:
    """The first value of that name in a ZeroMQ certificate."""
    for line in text.splitlines():
        said, equals, value = line.strip().partition(b"=")
        if equals and said.strip() == name:
            return value.strip(b" \t'\"")
    return None


def reason(path: Path, error: OSError | ValueError) -> str:
    """Why a file or folder of keys cannot be read, as text for the user."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file; `nearfar keys init` and `nearfar keys add NAME` make them"
    if isinstance(error, NotADirectoryError):
        return f"{path.parent} is not a folder of keys"
    if isinstance(error, PermissionError):
        return (
            "permission denied: keys must belong to the user who uses them, and this is user"
            f" {os.geteuid()} (chown -R {os.geteuid()} {path.parent})"
        )
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _is_key(key: bytes) -> bool:
    try:
        return len(key) == 40 and len(z85.decode(key)) == 32
    except (ValueError, KeyError):
        return False


def _check_private(path: Path, found: os.stat_result) -> None:
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeysError(f"others can read the secret key {path}: make it private (chmod 600 {path})")
    if found.st_uid not in (0, os.geteuid()):
        raise KeysError(f"the secret key {path} belongs to another user")


def _check_unchanged(path: Path, found: os.stat_result) -> None:
    if found.st_mode & _OTHERS_WRITE:
        raise KeysError(f"others can change the key {path}: make it this user's alone (chmod go-w {path})")
    if found.st_uid not in (0, os.geteuid()):
        raise KeysError(f"the key {path} belongs to another user")


VARIABLE = "NEARFAR_KEYS"
"""The environment variable that names the folder of keys if none is given."""


@dataclass(frozen=True, slots=True)
class Access:
    """`keys` is a folder (or empty); `insecure`: admit everyone. Neither: this user's processes only.

    Has no secret: it may be pickled, and the keys are read when sockets are made.
    """

    keys: str = ""
    insecure: bool = False

    @property
    def trusted(self) -> bool:
        """Whether pickles of admitted peers may be read."""
        return not self.insecure

    @property
    def own(self) -> bool:
        """Whether only this user's processes may connect."""
        return not (self.keys or self.insecure)


OWN = Access()
"""This user's processes only."""


def admit(address: Address, keys: str | os.PathLike[str] | None, *, insecure: bool) -> Access:
    """The access control of a service at `address`.

    Raises `AddressError` if other machines could reach it and neither option is given, and `KeysError`.
    """
    access = choose(keys, insecure)
    check_guarded(address, access)
    if access.keys:
        read_pair(Path(access.keys), SERVER)
        AllowedClients(Path(access.keys))
    return access


def check_guarded(address: Address, access: Access) -> None:
    """Raises `AddressError` if other machines could reach `address` without any check."""
    if access.own and not address.local:
        raise AddressError(
            f"{address} can be reached from other machines: give keys, so that it is known who comes in"
            " (keys=DIR, --keys DIR; `nearfar keys init` makes them), or say insecure=True (--no-keys) if"
            " you trust everyone who can reach it"
        )


def approach(address: Address, keys: str | os.PathLike[str] | None, *, insecure: bool) -> Access:
    """The access for connecting to the service at `address`.

    Raises `AddressError` if the service could not be authenticated, and `KeysError`.
    """
    access = choose(keys, insecure)
    if access.keys:
        read_pair(Path(access.keys), CLIENT)
        read_server_key(Path(access.keys))
    elif access.own and not address.local:
        raise AddressError(
            f"cannot verify who answers at {address}: give the keys that its owner made for you (keys=DIR,"
            " --keys DIR), or say insecure=True (--no-keys) if you trust the network"
        )
    return access


def choose(keys: str | os.PathLike[str] | None, insecure: bool) -> Access:
    """The access that these options name, with `VARIABLE`; nothing is checked. Raises `KeysError`."""
    if keys is not None and insecure:
        raise KeysError("give keys, or say insecure: not both")
    if insecure:
        return Access(insecure=True)
    folder = keys or os.environ.get(VARIABLE) or ""
    try:
        return Access(keys=str(Path(folder).expanduser().absolute()) if folder else "")
    except RuntimeError as error:  # a user without a home folder
        raise KeysError(f"cannot read the keys in {folder}: {error}") from None


OWN_NAME = "local"
"""The name of the client whose key is in the service's own folder."""
FOR = "for"
"""The subfolder with the keys that were made for others."""


def init(folder: Path) -> None:
    """Make a service's folder: its key, a client's key, and a list that admits that client.

    Raises `KeysError` if there is a key already, and `OSError`.
    """
    _make_pair(folder, SERVER)
    _make_pair(folder, CLIENT)
    (folder / CLIENTS).mkdir(mode=0o700)
    _let_in(folder, OWN_NAME, folder / f"{CLIENT}{PUBLIC}")


def init_client(folder: Path, server: Path) -> Path:
    """Make a client's folder, for the service with the public key `server`; returns its public key's file.

    Raises `KeysError`, `OSError`.
    """
    read_public(server)
    _make_pair(folder, CLIENT)
    _copy(server, folder / f"{SERVER}{PUBLIC}")
    return folder / f"{CLIENT}{PUBLIC}"


def add(folder: Path, name: str, public: Path | None = None) -> Path | None:
    """Admit `name`: by its `public` key, or by a new key that is made in the folder returned.

    Raises `KeysError`, also if the name is in use, and `OSError`.
    """
    check_name(name)
    check_unwritable(folder / CLIENTS)
    if _entry(folder, name).exists():
        raise KeysError(f"{name} is admitted already: revoke it first, or take another name")
    if public is not None:
        read_public(public)
        _let_in(folder, name, public)
        return None
    made = folder / FOR / name
    with contextlib.suppress(FileNotFoundError):  # the folder of an earlier client of this name
        shutil.rmtree(made)
    init_client(made, folder / f"{SERVER}{PUBLIC}")
    _let_in(folder, name, made / f"{CLIENT}{PUBLIC}")
    return made


def revoke(folder: Path, name: str) -> None:
    """Revoke the admission of `name`. Raises `KeysError` if it was not admitted."""
    check_name(name)
    if not (folder / CLIENTS).is_dir():
        raise KeysError(f"there is no folder {folder / CLIENTS}: `nearfar keys init` makes it")
    try:
        _entry(folder, name).unlink()
    except FileNotFoundError:
        raise KeysError(
            f"{folder} admits no client named {name}: `nearfar keys list` lists the admitted ones"
        ) from None
    shutil.rmtree(folder / FOR / name, ignore_errors=True)


def listing(folder: Path) -> list[tuple[str, str, float]]:
    """The admitted clients: name, public key, and time of admission (seconds since the epoch). Raises
    `KeysError`."""
    check_unwritable(folder / CLIENTS)
    try:  # not with glob, which finds nothing in a folder without permission
        files = sorted(path for path in (folder / CLIENTS).iterdir() if path.suffix == PUBLIC)
    except OSError as error:
        raise KeysError(f"cannot read the list of clients {folder}: {reason(folder, error)}") from None
    return [(path.stem, read_public(path).decode(), path.stat().st_mtime) for path in files]


def _entry(folder: Path, name: str) -> Path:
    return folder / CLIENTS / f"{name}{PUBLIC}"


def _let_in(folder: Path, name: str, public: Path) -> None:
    """Write the entry atomically: a running service may read it at any moment."""
    entry = _entry(folder, name)
    unready = entry.with_suffix(".new")
    _copy(public, unready)
    unready.rename(entry)


def _make_pair(folder: Path, role: str) -> None:
    for suffix in (PUBLIC, SECRET):
        if os.path.lexists(folder / f"{role}{suffix}"):  # a dangling link would be followed
            raise KeysError(f"there is a key already: {folder / role}{suffix}")
    before = os.umask(0o077)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        public, _ = zmq.auth.create_certificates(folder, role)
    finally:
        os.umask(before)
    Path(public).chmod(0o644)


def _copy(source: Path, target: Path) -> None:
    """Copy only the public half, whatever else the file holds."""
    lines = [line for line in source.read_bytes().splitlines() if b"secret-key" not in line]
    with contextlib.suppress(FileNotFoundError):  # the file of a killed command: it is never written into
        target.unlink()
    with target.open("xb") as file:
        file.write(b"\n".join(lines) + b"\n")
    target.chmod(0o644)  # whatever the umask: a key that others can change is not trusted
