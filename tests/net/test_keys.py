"""Folders of keys: made, read, clients admitted and revoked; refused if others could read or change them."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import zmq.auth

from nearfar.errors import KeysError
from nearfar.net import auth
from nearfar.net.addresses import Address
from nearfar.net.auth import (
    CLIENT,
    SERVER,
    AllowedClients,
    admit,
    approach,
    read_pair,
    read_public,
    read_server_key,
)
from tests.support.users import as_user


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "keys"
    auth.init(made)
    return made


def modes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}


def test_only_the_owner_can_read_secrets_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        auth.init(tmp_path / "keys")
        made = auth.add(tmp_path / "keys", "laptop")
    finally:
        os.umask(before)
    assert modes(tmp_path / "keys") == {
        "server.key": 0o644,
        "server.key_secret": 0o600,
        "client.key": 0o644,
        "client.key_secret": 0o600,
        "clients": 0o700,
        "for": 0o700,
    }
    assert made is not None
    assert modes(made)["client.key_secret"] == 0o600
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700


def test_the_files_are_zeromqs_certificates(folder: Path) -> None:
    pair = read_pair(folder, SERVER)
    assert zmq.auth.load_certificate(folder / "server.key_secret") == (pair.public, pair.secret)
    assert read_server_key(folder) == pair.public
    assert list(zmq.auth.load_certificates(folder / "clients")) == [read_pair(folder, CLIENT).public]


def test_no_public_file_holds_a_secret(folder: Path) -> None:
    made = auth.add(folder, "laptop", folder / "client.key_secret")  # a slip of the hand
    assert made is None
    secret = read_pair(folder, CLIENT).secret.decode()
    for path in folder.rglob("*.key"):
        assert secret not in path.read_text()


def test_keys_are_never_overwritten(folder: Path) -> None:
    before = read_pair(folder, SERVER)
    with pytest.raises(KeysError, match="there is a key already"):
        auth.init(folder)
    assert read_pair(folder, SERVER) == before


def test_an_added_client_is_admitted_until_revoked(folder: Path) -> None:
    clients = AllowedClients(folder)
    own = read_public(folder / "client.key").decode()
    assert clients.names == {own: "local"}
    made = auth.add(folder, "laptop")
    assert made is not None
    key = read_pair(made, CLIENT).public.decode()
    assert read_server_key(made) == read_pair(folder, SERVER).public
    assert clients.refresh() == set()
    assert clients.names == {own: "local", key: "laptop"}
    auth.revoke(folder, "laptop")
    assert clients.refresh() == {key}
    assert clients.refresh() == set()
    assert clients.names == {own: "local"}
    assert not made.exists()


def test_a_name_that_gets_a_new_key_loses_the_old_one(folder: Path) -> None:
    auth.add(folder, "laptop")
    clients = AllowedClients(folder)
    (old,) = (key for key, name in clients.names.items() if name == "laptop")
    auth.revoke(folder, "laptop")
    auth.add(folder, "laptop")
    assert clients.refresh() == {old}
    assert sorted(clients.names.values()) == ["laptop", "local"]


def test_a_public_key_that_was_made_elsewhere_is_admitted(folder: Path, tmp_path: Path) -> None:
    public = auth.init_client(tmp_path / "laptop", folder / "server.key")
    assert not (tmp_path / "laptop" / "server.key_secret").exists()
    assert auth.add(folder, "laptop", public) is None
    assert read_public(public).decode() in AllowedClients(folder).names
    assert not (folder / "for").exists()


def test_a_file_that_is_not_a_key_admits_no_client_and_is_logged(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clients = AllowedClients(folder)
    (folder / "clients" / "odd.key").write_text('curve\n    public-key = "short"\n')
    (folder / "clients" / "notes.txt").write_text("not a key")
    with caplog.at_level(logging.WARNING):
        assert clients.refresh() == set()
    assert list(clients.names.values()) == ["local"]
    assert "odd admits no client" in caplog.text


def test_without_its_folder_no_client_is_admitted(folder: Path) -> None:
    clients = AllowedClients(folder)
    (folder / "clients" / "local.key").unlink()
    (folder / "clients").rmdir()
    assert len(clients.refresh()) == 1
    assert clients.names == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda keys: (keys / "server.key_secret").chmod(0o640), "others can read the secret key"),
        (lambda keys: (keys / "server.key_secret").chmod(0o604), "chmod 600"),
        (lambda keys: (keys / "server.key_secret").unlink(), "there is no such file; `nearfar keys init`"),
        (lambda keys: (keys / "server.key_secret").write_text("nothing"), "cannot read the key"),
        (lambda keys: (keys / "server.key_secret").write_bytes(b"\xff\xfe"), "cannot read the key"),
        (lambda keys: (keys / "server.key").replace(keys / "server.key_secret"), "holds no secret key"),
    ],
)
def test_an_unusable_secret_is_an_error_with_a_reason(
    folder: Path, change: Callable[[Path], object], said: str
) -> None:
    change(folder)
    if (folder / "server.key_secret").exists() and "others" not in said and "chmod" not in said:
        (folder / "server.key_secret").chmod(0o600)
    with pytest.raises(KeysError, match=said):
        read_pair(folder, SERVER)


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_list_that_others_can_write_to_is_refused(folder: Path, mode: int) -> None:
    (folder / "clients").chmod(mode)
    with pytest.raises(KeysError, match="others can add clients to"):
        AllowedClients(folder)
    with pytest.raises(KeysError, match="others can add clients to"):
        auth.add(folder, "laptop")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_another_user_are_refused(folder: Path) -> None:
    os.chown(folder / "server.key_secret", 4711, -1)
    os.chown(folder / "clients", 4711, -1)
    with pytest.raises(KeysError, match="belongs to another user"):
        read_pair(folder, SERVER)
    with pytest.raises(KeysError, match="belongs to another user"):
        AllowedClients(folder)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "-flag", "a" * 65, "a\nb", "ümlaut", "a b"])
def test_names_are_restricted(folder: Path, name: str) -> None:
    with pytest.raises(KeysError, match="is not a name"):
        auth.add(folder, name)
    with pytest.raises(KeysError, match="is not a name"):
        auth.revoke(folder, name)


def test_a_name_can_be_admitted_once(folder: Path) -> None:
    auth.add(folder, "laptop")
    with pytest.raises(KeysError, match="already"):
        auth.add(folder, "laptop")


def test_only_an_admitted_client_can_be_revoked(folder: Path) -> None:
    with pytest.raises(KeysError, match="admits no client named laptop"):
        auth.revoke(folder, "laptop")


def test_no_key_is_made_through_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "server.key_secret").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeysError, match="there is a key already"):
        auth.init(tmp_path / "keys")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("plant", ["fifo", "link"])
def test_planted_files_are_not_written_to(folder: Path, tmp_path: Path, plant: str) -> None:
    place = folder / "clients" / "laptop.new"
    if plant == "fifo":
        os.mkfifo(place)
    else:
        place.symlink_to(tmp_path / "elsewhere")
    auth.add(folder, "laptop")
    assert [name for name, _, _ in auth.listing(folder)] == ["laptop", "local"]
    assert not (tmp_path / "elsewhere").exists() and not place.exists()


def test_a_fifo_is_not_read_as_a_key(folder: Path) -> None:
    os.mkfifo(folder / "clients" / "pipe.key")
    assert list(AllowedClients(folder).names.values()) == ["local"]
    (folder / "server.key").unlink()
    os.mkfifo(folder / "server.key")
    with pytest.raises(KeysError, match="not a regular file"):
        read_server_key(folder)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_service_key_that_others_can_change_is_refused(folder: Path, mode: int) -> None:
    """Whoever changes it has the clients speak with another service."""
    (folder / "server.key").chmod(mode)
    with pytest.raises(KeysError, match=r"others can change the key .*chmod go-w"):
        read_server_key(folder)
    with pytest.raises(KeysError, match="others can change the key"):
        approach(Address.parse("tcp://127.0.0.1:1"), folder, insecure=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_service_key_of_another_user_is_refused(folder: Path) -> None:
    os.chown(folder / "server.key", 4711, -1)
    with pytest.raises(KeysError, match="belongs to another user"):
        read_server_key(folder)


def test_a_clients_key_that_others_can_change_admits_no_client(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "clients" / "local.key").chmod(0o666)
    with caplog.at_level(logging.WARNING):
        assert AllowedClients(folder).names == {}
    assert "local admits no client: others can change the key" in caplog.text


@pytest.mark.parametrize("place", ["server.key", "client.key_secret", "clients/local.key"])
def test_a_fifo_in_the_place_of_a_key_does_not_block(folder: Path, place: str) -> None:
    (folder / place).unlink()
    os.mkfifo(folder / place, 0o600)
    if place == "clients/local.key":
        assert not AllowedClients(folder).names
        return
    with pytest.raises(KeysError, match="it is not a regular file"):
        approach(Address.parse("tcp://127.0.0.1:1"), folder, insecure=False)


@pytest.mark.parametrize("admits", [True, False])
@pytest.mark.parametrize(
    ("keys", "said"),
    [("/etc/passwd", "not a folder"), ("/nowhere", "no such file"), ("~nobody-at-all", "home directory")],
)
def test_an_invalid_folder_of_keys_is_an_error_with_a_reason(keys: str, said: str, admits: bool) -> None:
    with pytest.raises(KeysError, match=said):
        (admit if admits else approach)(Address.parse("tcp://127.0.0.1:1"), keys, insecure=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("mode", [0o700, 0o755])
@pytest.mark.parametrize("admits", [True, False])
def test_keys_of_another_user_are_an_error_with_a_reason(mode: int, admits: bool) -> None:
    """The likeliest mistake in containers: a volume whose owner has another number there."""
    with TemporaryDirectory(dir="/tmp") as place:
        Path(place).chmod(0o755)
        folder = Path(place) / "keys"
        auth.init(folder)
        folder.chmod(mode)
        denied = r"KeysError: cannot read the .* permission denied: keys must belong to"
        assert re.match(denied, as_user(4711, partial(_told, folder, admits)))
        assert re.match(denied, as_user(4711, partial(_told, folder, admits, auth.listing)))


def _told(folder: Path, admits: bool, look: Callable[[Path], object] | None = None) -> str:
    """The outcome of using the keys in `folder`."""
    try:
        if look is not None:
            look(folder)
        else:
            (admit if admits else approach)(Address.parse("tcp://127.0.0.1:1"), folder, insecure=False)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


# -- a system that lacks something now ------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EIO])
def test_admitted_clients_stay_so_while_the_folder_cannot_be_listed(
    folder: Path, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once; a client revoked meanwhile is still removed, and an added one is admitted later."""
    auth.add(folder, "laptop")
    clients = AllowedClients(folder)
    assert sorted(clients.names.values()) == ["laptop", "local"]
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(os, "scandir", failing(number))
        auth.add(folder, "tablet")
        assert clients.refresh() == set()
        assert clients.refresh() == set()
        assert caplog.text.count("cannot read the admitted clients now") == 1
        auth.revoke(folder, "laptop")
        assert len(clients.refresh()) == 1
        assert list(clients.names.values()) == ["local"]
    assert clients.refresh() == set()
    assert sorted(clients.names.values()) == ["local", "tablet"]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_key_that_cannot_be_read_now_is_read_later(
    folder: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = AllowedClients(folder)
    auth.add(folder, "laptop")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing(number))
        assert clients.refresh() == set()
        assert list(clients.names.values()) == ["local"]
    assert clients.refresh() == set()
    assert sorted(clients.names.values()) == ["laptop", "local"]


def failing(number: int) -> Callable[..., Any]:
    def fail(*words: Any, **options: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail
