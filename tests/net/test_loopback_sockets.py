"""Where the socket file that replaces a loopback port is, and that other users cannot interfere."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import zmq

from nearfar.errors import AddressError
from nearfar.net import addresses
from nearfar.net.addresses import Address
from nearfar.net.admission import LOOK_EVERY, Authenticator
from nearfar.net.auth import OWN
from nearfar.net.handshake import Connection
from tests.support.waiting import eventually

HERE = Address.parse("tcp://127.0.0.1:*")
SPOILT = ["mode", "owner", "link", "file", "fifo"]
ROOT = os.geteuid() == 0


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Replaces /tmp and /run/user; its path is short, like theirs."""
    with tempfile.TemporaryDirectory(prefix="nf", dir="/tmp") as name:
        monkeypatch.setattr(addresses, "HOME", Path(name) / "tmp")
        monkeypatch.setattr(addresses, "RUN", Path(name) / "run")
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        (Path(name) / "tmp").mkdir()
        (Path(name) / "run").mkdir()
        yield Path(name)


def plant(place: Path, spoil: str) -> None:
    """Objects that another user, or an accident, may leave in the place of a folder."""
    if spoil == "link":
        target = place.with_name("elsewhere")
        target.mkdir(mode=0o700)
        place.symlink_to(target)
    elif spoil == "file":
        place.touch(mode=0o600)
    elif spoil == "fifo":
        os.mkfifo(place, 0o600)
    else:
        place.mkdir(mode=0o700)
        if spoil == "mode":
            place.chmod(0o770)
        elif ROOT:
            os.chown(place, 4711, -1)
        else:
            pytest.skip("only root can give a folder away")


@contextmanager
def hosting(address: Address = HERE) -> Iterator[tuple[zmq.Socket[bytes], Address, Path]]:
    """A socket bound by an authenticator, its address, and the path of its socket file."""
    authenticator = Authenticator(OWN)
    made = authenticator.make(zmq.ROUTER)
    try:
        bound = authenticator.bind(made, address)
        found = addresses.find(bound)
        assert found is not None
        yield made, bound, Path(found.path)
        authenticator.unbind(made, bound)
    finally:
        made.close()
        authenticator.close()


def meets(made: zmq.Socket[bytes], bound: Address) -> bool:
    """Whether a message from a socket that connects to the address arrives."""
    dialed = Connection(zmq.DEALER, bound, OWN, identity="one.s.1")
    try:
        dialed.socket.send(b"hello")
        return bool(made.poll(5_000)) and made.recv_multipart()[1] == b"hello"
    finally:
        dialed.close()


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_folder_of_another_user_does_not_block_a_service(home: Path, spoil: str) -> None:
    plant(home / "tmp" / f"nearfar-{os.geteuid()}", spoil)
    with hosting() as (made, bound, path):
        assert path.parent.name.startswith(f"nearfar-{os.geteuid()}.")
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert meets(made, bound)
        with hosting() as (_, _, another):
            assert another.parent == path.parent


@pytest.mark.parametrize("spoil", SPOILT)
def test_folders_with_random_names_of_other_users_are_not_used(home: Path, spoil: str) -> None:
    plant(home / "tmp" / f"nearfar-{os.geteuid()}", "file")
    decoy = home / "tmp" / f"nearfar-{os.geteuid()}.0decoy"
    plant(decoy, spoil)
    with hosting() as (made, bound, path):
        assert path.parent != decoy
        assert meets(made, bound)


def test_the_runtime_folder_is_used_if_it_exists(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = home / "run" / str(os.geteuid())
    own.mkdir(mode=0o700)
    with hosting() as (made, bound, path):
        assert path.parent == own / "nearfar"
        assert meets(made, bound)
    named = home / "named"
    named.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(named))
    with hosting() as (made, bound, path):
        assert path.parent == named / "nearfar"
        assert meets(made, bound)


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_runtime_folder_that_is_not_this_users_alone_is_not_used(
    home: Path, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    plant(home / "named", spoil)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "named"))
    with hosting() as (made, bound, path):
        assert path.parent == home / "tmp" / f"nearfar-{os.geteuid()}"
        assert meets(made, bound)


def test_a_runtime_folder_with_too_long_a_path_is_not_used(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = home / ("x" * 80)
    long.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    with hosting() as (made, bound, path):
        assert path.parent == home / "tmp" / f"nearfar-{os.geteuid()}"
        assert meets(made, bound)


def test_sides_with_different_environments_find_each_other(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service of cron, or under another login, has no runtime folder, or one by another name."""
    named = home / "named"
    named.mkdir(mode=0o700)
    with hosting() as (made, bound, _):
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(named))
        assert meets(made, bound)
    with hosting() as (made, bound, path):
        assert path.parent == named / "nearfar"
        monkeypatch.delenv("XDG_RUNTIME_DIR")
        assert meets(made, bound)


def test_a_client_older_than_the_service_finds_its_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hosting() as (_, bound, _):
        pass
    dialed = Connection(zmq.DEALER, bound, OWN, identity="one.s.1")
    try:
        named = home / "named"
        named.mkdir(mode=0o700)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(named))
        with hosting(bound) as (made, _, path):
            assert path.parent == named / "nearfar"
            monkeypatch.delenv("XDG_RUNTIME_DIR")
            assert eventually(lambda: bool(dialed.look(time.monotonic()) or dialed.succeeded))
            dialed.socket.send(b"hello")
            assert made.poll(5_000)
            assert made.recv_multipart()[1] == b"hello"
    finally:
        dialed.close()


def test_a_socket_file_removed_with_its_folder_is_made_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at the end of a user's last login: connected clients stay so, and others find the service."""
    named = home / "named"
    named.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(named))
    authenticator = Authenticator(OWN)
    made = authenticator.make(zmq.ROUTER)
    bound = authenticator.bind(made, HERE)
    there = Connection(zmq.DEALER, bound, OWN, identity="there.s.1")
    there.socket.send(b"hello")
    assert made.recv_multipart()[0] == b"there.s.1"
    authenticator.turn(0.0, {})
    shutil.rmtree(named)
    authenticator.turn(LOOK_EVERY, {})
    assert meets(made, bound)
    there.socket.send(b"still here")
    assert made.recv_multipart() == [b"there.s.1", b"still here"]
    there.close()
    authenticator.unbind(made, bound)
    authenticator.close()
    assert addresses.find(bound) is None


def test_a_missing_folder_is_an_error_with_a_reason(home: Path) -> None:
    plant(home / "tmp" / f"nearfar-{os.geteuid()}", "file")
    addresses.HOME = home / "missing"
    with pytest.raises(AddressError, match="XDG_RUNTIME_DIR"), hosting():
        pass


def test_a_held_port_accepts_no_connection() -> None:
    """Given many connections to the port, I expect none of them to cost its holder a descriptor."""
    with hosting() as (made, bound, _), ExitStack() as stack:
        assert meets(made, bound)
        strangers = [stack.enter_context(socket.socket()) for _ in range(100)]
        before = descriptors()
        for stranger in strangers:
            stranger.setblocking(False)
            stranger.connect_ex((bound.host, bound.port))
        assert meets(made, bound)
        assert descriptors() < before + 10
        with pytest.raises(AddressError, match="in use"), hosting(bound):
            pass
