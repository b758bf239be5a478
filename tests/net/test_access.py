"""Access control is decided from address, keys and `insecure`, before anything is bound."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import zmq

from nearfar.errors import AddressError, KeysError
from nearfar.net import addresses, auth, sockets
from nearfar.net.addresses import Address
from nearfar.net.admission import Authenticator
from nearfar.net.auth import OWN, VARIABLE, Access, admit, approach
from tests.support.keys import keys
from tests.support.users import as_user

HERE = Address.parse("tcp://127.0.0.1:*")
THERE = Address.parse("tcp://192.0.2.1:5555")


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:5555", "tcp://localhost:5555", "tcp://[::1]:5555", "ipc://q"]
)
def test_local_addresses_need_no_keys(address: str) -> None:
    place = Address.parse(address)
    assert admit(place, None, insecure=False) == approach(place, None, insecure=False) == OWN
    assert OWN.trusted
    assert OWN.own


@pytest.mark.parametrize(
    "address", ["tcp://0.0.0.0:5555", "tcp://*:5555", "tcp://[::]:1", "tcp://storage:5555"]
)
def test_public_addresses_are_refused_with_both_alternatives(address: str) -> None:
    place = Address.parse(address)
    with pytest.raises(AddressError, match=r"--keys DIR.*--no-keys"):
        admit(place, None, insecure=False)
    with pytest.raises(AddressError, match=r"--keys DIR.*--no-keys"):
        approach(place, None, insecure=False)
    assert not admit(place, None, insecure=True).trusted


def test_an_authenticator_checks_its_access_itself() -> None:
    authenticator = Authenticator(OWN)
    made = authenticator.make(zmq.ROUTER)
    with pytest.raises(AddressError, match="can be reached from other machines"):
        authenticator.bind(made, Address.parse("tcp://0.0.0.0:*"))
    made.close()
    authenticator.close()


def test_the_environment_names_the_default_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(keys()))
    assert admit(THERE, None, insecure=False) == Access(str(keys()))
    assert approach(HERE, None, insecure=False) == Access(str(keys()))
    assert admit(THERE, None, insecure=True) == Access(insecure=True)


def test_keys_and_insecure_exclude_each_other() -> None:
    with pytest.raises(KeysError, match="not both"):
        admit(THERE, keys(), insecure=True)


def test_a_folder_without_keys_is_refused_before_anything_is_bound(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="nearfar keys init"):
        admit(HERE, tmp_path, insecure=False)
    with pytest.raises(KeysError, match="nearfar keys"):
        approach(HERE, tmp_path, insecure=False)


def test_a_client_needs_no_service_key(tmp_path: Path) -> None:
    auth.init_client(tmp_path / "mine", keys() / "server.key")
    assert approach(THERE, tmp_path / "mine", insecure=False).keys
    with pytest.raises(KeysError, match=r"server\.key_secret"):
        admit(THERE, tmp_path / "mine", insecure=False)


def test_an_access_holds_no_secret() -> None:
    secret = (keys() / "client.key_secret").read_text().split('secret-key = "')[1][:40]
    assert secret not in repr(Access(str(keys())))


# -- loopback without keys ----------------------------------------------------------------------------


def test_a_loopback_port_has_a_socket_file_that_is_removed_with_it() -> None:
    authenticator = Authenticator(OWN)
    made = authenticator.make(zmq.ROUTER)
    address = authenticator.bind(made, HERE)
    twin = Path(addresses.place_of(address).path)
    assert twin.stat().st_mode & 0o777 == 0o600
    assert twin.parent.stat().st_mode & 0o777 == 0o700
    authenticator.unbind(made, address)
    authenticator.close()
    assert not twin.exists()


def test_the_port_itself_admits_no_peer() -> None:
    """Given a peer without keys, and one with a key of its own, at the TCP port, neither is served."""
    authenticator = Authenticator(OWN)
    made = authenticator.make(zmq.ROUTER)
    address = authenticator.bind(made, HERE)
    strangers = []
    for public, secret in [(b"", b""), zmq.curve_keypair()]:
        stranger = sockets.make(zmq.DEALER)
        if public:
            stranger.setsockopt(zmq.CURVE_PUBLICKEY, public)
            stranger.setsockopt(zmq.CURVE_SECRETKEY, secret)
            stranger.setsockopt(zmq.CURVE_SERVERKEY, zmq.curve_keypair()[0])
        stranger.connect(str(address))
        stranger.send(b"hello")
        strangers.append(stranger)
    assert not made.poll(300)
    for stranger in strangers:
        stranger.close()
    authenticator.unbind(made, address)
    authenticator.close()


def test_a_socket_file_of_a_killed_service_is_replaced(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "HOME", short_folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = Address.parse(f"tcp://127.0.0.1:{port}")
    left = Path(addresses.place_of(address).path)
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(left))
    authenticator = Authenticator(OWN)
    made = authenticator.make(zmq.ROUTER)
    authenticator.bind(made, address)
    authenticator.unbind(made, address)
    authenticator.close()
    assert not left.exists()


def test_old_socket_files_without_a_listener_are_removed(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "HOME", short_folder)
    dead, young, alive = (Path(addresses.place_of(Address("127.0.0.1", port)).path) for port in (1, 2, 3))
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(alive))
    listening.listen()
    for path in (dead, young):
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    for path in (dead, alive):
        os.utime(path, (1, 1))
    addresses.sweep()
    listening.close()
    assert [path.exists() for path in (dead, young, alive)] == [False, True, True]


# -- what lies at an ipc path already ------------------------------------------------------------------


def bind(path: str) -> str:
    """The outcome of binding there."""
    try:
        with sockets.make(zmq.ROUTER) as made:
            sockets.bind(made, Address(path=path))
    except AddressError as error:
        return str(error)
    return "bound"


def test_a_socket_of_another_kind_at_the_path_is_an_error_with_a_reason(short_folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(short_folder / "q"))
        assert "it cannot be told whether it is in use" in bind(str(short_folder / "q"))


def test_a_socket_at_the_path_whose_queue_is_full_is_in_use(short_folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waiting:
        other.bind(str(short_folder / "q"))
        other.listen(0)
        waiting.connect(str(short_folder / "q"))
        assert bind(str(short_folder / "q")).endswith("the address is in use")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_users_socket_or_folder_is_an_error_with_a_reason() -> None:
    with TemporaryDirectory(dir="/tmp") as name, socket.socket(socket.AF_UNIX) as other:
        folder = Path(name)
        folder.chmod(0o755)
        other.bind(str(folder / "q"))
        other.listen()
        (folder / "q").chmod(0o600)
        (folder / "closed").mkdir(mode=0o700)
        told = partial(sockets._claim_path, Address(path=str(folder / "q")))
        assert "cannot be told whether it is in use: permission denied" in as_user(4711, partial(said, told))
        told = partial(sockets._claim_path, Address(path=str(folder / "closed" / "q")))
        assert as_user(4711, partial(said, told)).endswith("permission denied")


def said(do: Callable[[], object]) -> str:
    try:
        do()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"
