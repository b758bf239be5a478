"""Addresses are parsed, or refused with a reason; parsing their text gives an equal address."""

from __future__ import annotations

import os
import re
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.errors import AddressError
from nearfar.net.addresses import LONGEST_IPC_PATH, LONGEST_SUFFIX, Address, parse_ports

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://127.0.0.1:5555", Address("127.0.0.1", 5555)),
        ("tcp://storage:1", Address("storage", 1)),
        ("tcp://my-host.example.com:65535", Address("my-host.example.com", 65535)),
        ("tcp://snake_case:80", Address("snake_case", 80)),
        ("tcp://eth0.100:80", Address("eth0.100", 80)),
        ("tcp://*:5555", Address("0.0.0.0", 5555)),
        ("tcp://0.0.0.0:*", Address("0.0.0.0", 0)),
        ("tcp://localhost:0", Address("localhost", 0)),
        ("tcp://[::1]:5555", Address("::1", 5555)),
        ("tcp://[0:0::0]:5555", Address("::", 5555)),
        ("tcp://[fe80::1%eth0]:5555", Address("fe80::1%eth0", 5555)),
        ("ipc:///run/q.sock", Address(path="/run/q.sock")),
        ("ipc:///run/a b/q:1@x", Address(path="/run/a b/q:1@x")),
    ],
)
def test_a_good_address_is_read(text: str, address: Address) -> None:
    assert Address.parse(text) == address


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected tcp://host:port or ipc://path"),
        ("5555", "expected tcp://"),
        ("localhost:5555", "expected tcp://"),
        ("tcp://", "expected tcp://"),
        ("tcp://storage", "expected tcp://"),
        ("tcp://storage:", "expected tcp://"),
        ("tcp://:5555", "expected tcp://"),
        ("tcp://storage:http", "expected tcp://"),
        ("tcp://storage:-1", "expected tcp://"),
        ("tcp://storage:\u0665\u0665", "expected tcp://"),
        ("tcp://storage:5555/", "expected tcp://"),
        ("tcp://storage:5555 ", "expected tcp://"),
        ("tcp://storage:5555\n", "expected tcp://"),
        ("tcp://sto rage:5555", "expected tcp://"),
        ("tcp://10.0.0.1;10.0.0.2:5555", "expected tcp://"),
        ("tcp://user@storage:5555", "expected tcp://"),
        ("tcp://::1:5555", "expected tcp://"),
        ("TCP://storage:5555", "expected tcp://"),
        ("udp://storage:5555", "expected tcp://"),
        ("inproc://storage", "expected tcp://"),
        ("tcp://storage:65536", "a port is at most 65535"),
        ("tcp://[:::]:5555", "':::'"),
        ("tcp://[storage]:5555", "'storage'"),
        ("tcp://[127.0.0.1]:5555", "'127.0.0.1'"),
        ("tcp://[::1:5555", "expected tcp://"),
        ("ipc://", "needs the path"),
        ("ipc://@abstract", "needs the path"),
        ("ipc:///run/\0", "needs the path"),
        ("ipc://~nobody-has-this-name/q", "home directory"),
    ],
)
def test_a_bad_address_is_refused_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(AddressError, match=re.escape(reason)) as refusal:
        Address.parse(text)
    assert repr(text) in str(refusal.value)
    assert len(str(refusal.value)) < 160


names = st.text(string.ascii_letters + string.digits + "-_.", min_size=1, max_size=20)
hosts = names | st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(lambda v6: f"[{v6}]") | st.just("*")
ports = st.integers(0, 65535).map(str) | st.just("*")
paths = st.text(string.ascii_letters + "/._- ~:", min_size=1, max_size=40)


@given(st.builds("tcp://{}:{}".format, hosts, ports) | paths.map("ipc:///{}".format))
def test_a_parsed_address_is_equal_after_formatting(text: str) -> None:
    address = Address.parse(text)
    assert Address.parse(str(address)) == address
    assert str(address).startswith(f"{address.transport}://")


@given(
    st.text(max_size=30)
    | st.builds(
        "{}{}".format, st.sampled_from(["tcp://", "ipc://", "tcp://[", "ipc://~"]), st.text(max_size=30)
    )
)
def test_any_text_is_an_address_or_an_address_error(text: str) -> None:
    try:
        address = Address.parse(text)
    except AddressError:
        return
    assert Address.parse(str(address)) == address


def test_a_relative_path_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir("/usr")
    monkeypatch.setenv("HOME", "/home/me")
    assert Address.parse("ipc://q").path == "/usr/q"
    assert Address.parse("ipc://~/q").path == "/home/me/q"


@pytest.mark.parametrize("letter", ["x", "é"])
def test_a_path_leaves_room_for_the_sockets_beside_it(letter: str) -> None:
    room = LONGEST_IPC_PATH - LONGEST_SUFFIX
    size = len(os.fsencode(letter))
    longest = "/" + "a" * ((room - 1) % size) + letter * ((room - 1) // size)
    address = Address.parse(f"ipc://{longest}")
    assert len(os.fsencode(address.beside(".lane-99999").path)) == LONGEST_IPC_PATH
    with pytest.raises(AddressError, match=rf"too long.*{room} bytes"):
        Address.parse(f"ipc://{longest}a")


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("ipc:///run/q", True),
        ("tcp://localhost:1", True),
        ("tcp://127.0.0.1:1", True),
        ("tcp://127.8.9.10:1", True),
        ("tcp://[::1]:1", True),
        ("tcp://*:1", False),
        ("tcp://0.0.0.0:1", False),
        ("tcp://[::]:1", False),
        ("tcp://10.0.0.1:1", False),
        ("tcp://[fe80::1]:1", False),
        ("tcp://storage:1", False),
        ("tcp://localhost.example.com:1", False),
        ("tcp://127.0.0.1.example.com:1", False),
        ("tcp://127.1:1", False),
    ],
)
def test_addresses_that_only_this_machine_reaches_are_local(text: str, local: bool) -> None:
    assert Address.parse(text).local is local


@pytest.mark.parametrize(
    ("bound", "seen"),
    [
        ("tcp://*:5", "tcp://127.0.0.1:5"),
        ("tcp://[::]:5", "tcp://[::1]:5"),
        ("tcp://10.0.0.1:5", "tcp://10.0.0.1:5"),
        ("ipc:///run/q", "ipc:///run/q"),
    ],
)
def test_everywhere_is_seen_from_here_as_loopback(bound: str, seen: str) -> None:
    assert str(Address.parse(bound).seen_from_here()) == seen


def test_another_socket_of_the_same_host_is_beside_it() -> None:
    assert str(Address.parse("tcp://[::1]:5").beside(6)) == "tcp://[::1]:6"
    assert str(Address.parse("ipc:///run/q").beside(".inbox")) == "ipc:///run/q.inbox"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("tcp://storage:5", 0),
        ("tcp://storage:5", -1),
        ("tcp://storage:5", 65536),
        ("tcp://storage:5", ".inbox"),
        ("ipc:///run/q", 5),
        ("ipc:///run/q", "/../../etc/x"),
        ("ipc:///run/q", ".lane-100000"),
    ],
)
def test_other_places_are_refused(text: str, place: int | str) -> None:
    with pytest.raises(AddressError, match="there is no"):
        Address.parse(text).beside(place)


def test_ports_are_read_as_first_to_last() -> None:
    assert parse_ports("5600-5602") == range(5600, 5603)
    assert parse_ports("80-80") == range(80, 81)


@pytest.mark.parametrize(
    "text", ["", "80", "80-", "-80", "90-80", "0-80", "80-65536", "a-b", "80 - 90", "\u0668-\u0669"]
)
def test_bad_ports_are_refused(text: str) -> None:
    with pytest.raises(AddressError, match="expected first-last"):
        parse_ports(text)
