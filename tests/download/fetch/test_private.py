"""``--no-private``: the address that is connected to is judged, whatever name or spelling led there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from nearfar.download import public
from nearfar.download.model import Reason
from nearfar.download.public import is_public
from tests.download.fetch.conftest import MakeFetcher
from tests.support.routes import content, redirect
from tests.support.sinks import Remembered, fetch_all
from tests.support.web import Web

PUBLIC = ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]
PRIVATE = """
    0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.100.100.200 127.0.0.1 127.255.255.254 168.63.129.16
    169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1 192.88.99.1 192.168.1.1
    198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 :: ::1
    ::127.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:10.0.0.1 ::ffff:0:127.0.0.1
    64:ff9b::127.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b:1::8.8.8.8 100::1 2001::1 2001:db8::1 2002:7f00:1::
    2002:808:808:: fc00::1 fd00:ec2::254 fe80::1 fe80::1%lo fec0::1 ff02::1 ff0e::1 4000::1
    """


@pytest.mark.parametrize("address", PUBLIC)
def test_what_anybody_may_reach_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", [*PRIVATE.split(), "", "localhost", "/tmp/socket", "127.0.0.1:80"])
def test_what_is_local_reserved_or_a_disguise_is_not(address: str) -> None:
    assert not is_public(address)


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A server at every loopback address, of which 127.0.0.2 counts as public."""
    monkeypatch.setattr(public, "is_public", lambda address: address == "127.0.0.2" or is_public(address))
    with Web(host="0.0.0.0") as web:
        web.routes["*"] = content(b"for all")
        yield web


def barred(sink: Remembered) -> bool:
    assert sink.failure is not None
    return sink.failure.reason is Reason.REJECTED and "no public address" in sink.failure.detail


SPELLINGS = """
    127.0.0.1 localhost LOCALHOST. 127.1 2130706433 0x7f000001 0x7f.1 0177.0.0.1 017700000001 0 0.0.0.0
    127.0.0.1. [::1] [::ffff:127.0.0.1] [0:0:0:0:0:ffff:7f00:1] [::127.0.0.1]
    """


@pytest.mark.parametrize("host", SPELLINGS.split())
def test_no_spelling_of_this_machine_is_connected_to(fleet: Web, fetcher: MakeFetcher, host: str) -> None:
    (sink,) = fetch_all(fetcher(no_private=True, tries=3), fleet.url("/a", host=host))
    assert sink.failure is not None
    # A name with a final dot is one that some resolvers do not know.
    assert barred(sink) or (host.endswith(".") and sink.failure.reason is Reason.DNS)
    assert fleet.connections == 0


def test_a_refused_address_is_not_tried_again(fleet: Web, fetcher: MakeFetcher) -> None:
    """Given a long wait before each retry, I expect none."""
    (sink,) = fetch_all(fetcher(no_private=True, backoff=1000, backoff_cap=1000), fleet.url("/a"))
    assert barred(sink)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "[::ffff:7f00:1]", "0.0.0.0"])
def test_a_redirect_to_a_private_address_is_not_followed(fleet: Web, fetcher: MakeFetcher, host: str) -> None:
    fleet.routes["/a"] = redirect(fleet.url("/secret", host=host))
    (sink,) = fetch_all(fetcher(no_private=True), fleet.url("/a", host="127.0.0.2"))
    assert barred(sink)
    assert not fleet.requests("/secret")


def test_a_public_address_is_fetched_from_over_connections_that_are_used_again(
    fleet: Web, fetcher: MakeFetcher
) -> None:
    engine = fetcher(no_private=True, per_host=2)
    sinks = fetch_all(engine, *(fleet.url(f"/{n}", host="127.0.0.2") for n in range(20)))
    assert all(bytes(sink.data) == b"for all" for sink in sinks)
    assert fleet.connections <= 2
    (sink,) = fetch_all(engine, fleet.url("/a"))
    assert barred(sink), "a connection to one address is no way to another"


def test_no_proxy_is_used(web: Web, fetcher: MakeFetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a proxy that would look up and connect for us, out of our sight, I expect it not to be asked."""
    for name in ("http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{web.port}")
    web.routes["*"] = content(b"from inside")
    urls = ("http://127.0.0.1:9/", "https://127.0.0.1:9/", "http://169.254.169.254/latest")
    for sink in fetch_all(fetcher(no_private=True), *urls):
        assert barred(sink)
    assert not web.log and web.connections == 0


def test_without_the_option_private_addresses_are_fetched_from(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = content(b"x")
    (sink,) = fetch_all(fetcher(), web.url("/a", host="localhost"))
    assert bytes(sink.data) == b"x"


@pytest.mark.chaos
def test_a_name_that_changes_its_address_after_the_first_look() -> None:
    """A resolver of our own, in a network of our own (see `rebinding.py`)."""
    inside = ["unshare", "--map-root-user", "--net", "--mount"]
    if subprocess.run([*inside, "true"], check=False).returncode:
        pytest.skip("no namespaces of our own here")
    done = subprocess.run(
        [*inside, sys.executable, "-m", "tests.download.fetch.rebinding"],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stdout + done.stderr
