"""Making and changing a folder of keys (`nearfar.net.keys` reads it)."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import zmq.auth

from nearfar.errors import KeysError
from nearfar.net.keys import (
    CLIENT,
    CLIENTS,
    PUBLIC,
    SECRET,
    SERVER,
    check_name,
    check_unwritable,
    read_public,
    reason,
)

OWN_NAME = "local"
"""The client that a service's folder is itself."""
FOR = "for"
"""The subfolder with the keys that were made for others."""


def init(folder: Path) -> None:
    """Make a service's folder: its key, a client's key, and a list that lets that client in.

    Raises `KeysError` where there is one already, `OSError`.
    """
    _make_pair(folder, SERVER)
    _make_pair(folder, CLIENT)
    (folder / CLIENTS).mkdir(mode=0o700)
    _let_in(folder, OWN_NAME, folder / f"{CLIENT}{PUBLIC}")


def init_client(folder: Path, server: Path) -> Path:
    """Make a folder for who only connects, to the service with that public key; returns its own public key.

    Raises `KeysError`, `OSError`.
    """
    read_public(server)
    _make_pair(folder, CLIENT)
    _copy(server, folder / f"{SERVER}{PUBLIC}")
    return folder / f"{CLIENT}{PUBLIC}"


def add(folder: Path, name: str, public: Path | None = None) -> Path | None:
    """Let `name` in: by its `public` key, or by one that is made for it in the folder that is returned.

    Raises `KeysError`: also where the name is taken. `OSError`.
    """
    check_name(name)
    check_unwritable(folder / CLIENTS)
    if _entry(folder, name).exists():
        raise KeysError(f"{name} is let in already: revoke it first, or take another name")
    if public is not None:
        read_public(public)
        _let_in(folder, name, public)
        return None
    made = folder / FOR / name
    with contextlib.suppress(FileNotFoundError):  # of one who was let in by this name before
        shutil.rmtree(made)
    init_client(made, folder / f"{SERVER}{PUBLIC}")
    _let_in(folder, name, made / f"{CLIENT}{PUBLIC}")
    return made


def revoke(folder: Path, name: str) -> None:
    """Let `name` in no more. Raises `KeysError` if it was not."""
    check_name(name)
    if not (folder / CLIENTS).is_dir():
        raise KeysError(f"there is no folder {folder / CLIENTS}: `nearfar keys init` makes it")
    try:
        _entry(folder, name).unlink()
    except FileNotFoundError:
        raise KeysError(
            f"{folder} does not let in anybody as {name}: `nearfar keys list` says whom it lets in"
        ) from None
    shutil.rmtree(folder / FOR / name, ignore_errors=True)


def listing(folder: Path) -> list[tuple[str, str, float]]:
    """Who is let in: name, public key, and since when (seconds since the epoch). Raises `KeysError`."""
    check_unwritable(folder / CLIENTS)
    try:  # not by a glob, which finds nothing where it may not look
        files = sorted(path for path in (folder / CLIENTS).iterdir() if path.suffix == PUBLIC)
    except OSError as error:
        raise KeysError(f"cannot read the list of clients {folder}: {reason(folder, error)}") from None
    return [(path.stem, read_public(path).decode(), path.stat().st_mtime) for path in files]


def _entry(folder: Path, name: str) -> Path:
    return folder / CLIENTS / f"{name}{PUBLIC}"


def _let_in(folder: Path, name: str, public: Path) -> None:
    """At once and whole: a running service may look at any moment."""
    entry = _entry(folder, name)
    unready = entry.with_suffix(".new")
    _copy(public, unready)
    unready.rename(entry)


def _make_pair(folder: Path, role: str) -> None:
    for suffix in (PUBLIC, SECRET):
        if os.path.lexists(folder / f"{role}{suffix}"):  # a dangling link would be written through
            raise KeysError(f"there is a key already: {folder / role}{suffix}")
    before = os.umask(0o077)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        public, _ = zmq.auth.create_certificates(folder, role)
    finally:
        os.umask(before)
    Path(public).chmod(0o644)


def _copy(source: Path, target: Path) -> None:
    """The public half alone, whatever else the file holds."""
    lines = [line for line in source.read_bytes().splitlines() if b"secret-key" not in line]
    with contextlib.suppress(FileNotFoundError):  # of a command that was killed; nothing else is written into
        target.unlink()
    with target.open("xb") as file:
        file.write(b"\n".join(lines) + b"\n")
    target.chmod(0o644)  # whatever the umask: one that others can change is not trusted
