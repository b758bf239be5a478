"""The gallery's server answers like a real one, on one connection or many, and is gone when it ends."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import pytest

from nearfar.demo.gallery import Gallery
from nearfar.demo.server import Server
from nearfar.demo.site import Site

GALLERY = Gallery(count=20, large=1, seed="test")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(Site(GALLERY, retry_after=7)) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[HTTPConnection]:
    client = HTTPConnection(server.host, server.port, timeout=10)
    yield client
    client.close()


def ask(
    client: HTTPConnection, path: str, method: str = "GET", **fields: str
) -> tuple[int, dict[str, str], bytes]:
    client.request(method, path, headers=fields)
    answer = client.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def test_every_picture_comes_over_one_connection(client: HTTPConnection) -> None:
    client.connect()
    connected = client.sock
    for name in GALLERY.names():
        status, fields, body = ask(client, f"/images/{name}")
        assert (status, fields["content-type"], body) == (200, "image/png", GALLERY.picture(name))
    assert client.sock is connected


def test_a_range_continues_a_picture(client: HTTPConnection) -> None:
    whole = GALLERY.picture("0003.png") or b""
    _, fields, _ = ask(client, "/images/0003.png", "HEAD")
    status, _, rest = ask(client, "/images/0003.png", Range="bytes=1000-", **{"If-Range": fields["etag"]})
    assert (status, rest) == (206, whole[1000:])


def test_busy_is_busy_once(client: HTTPConnection) -> None:
    status, fields, _ = ask(client, "/busy/0001.png")
    assert (status, fields["retry-after"]) == (503, "7")
    assert ask(client, "/busy/0001.png")[2] == GALLERY.picture("0001.png")


@pytest.mark.parametrize("path", ["/images/missing.png", "/busy/9999.png", "/images/../x", "/favicon.ico"])
def test_what_is_not_there_is_a_404(client: HTTPConnection, path: str) -> None:
    assert ask(client, path)[0] == 404


def test_another_method_is_refused(client: HTTPConnection) -> None:
    status, fields, _ = ask(client, "/", "DELETE")
    assert (status, fields["allow"]) == (405, "GET, HEAD")


def test_the_list_leads_everywhere(server: Server, client: HTTPConnection) -> None:
    listed = ask(client, "/urls.txt")[2].decode().split()
    assert listed == server.urls
    assert all(f'href="{path}"' in ask(client, "/")[2].decode() for path in server.site.paths())
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(listed[-1], timeout=10)
    refused.value.close()
    assert refused.value.code == 404


def test_requests_sent_together_are_answered_in_order(server: Server) -> None:
    """Given more pictures asked for at once than fit on the way, I expect all of them, in order."""
    names = ["0020.png", "0001.png", "0020.png", "0002.png"]
    asked = "".join(f"GET /images/{name} HTTP/1.1\r\n\r\n" for name in names[:-1])
    last = f"GET /images/{names[-1]} HTTP/1.1\r\nConnection: close\r\n\r\n"
    with socket.create_connection((server.host, server.port), timeout=10) as raw:
        raw.sendall((asked + last).encode())
        with raw.makefile("rb") as stream:
            got = stream.read()
    places = [got.index(GALLERY.picture(name) or b"-") for name in ("0020.png", "0001.png", "0002.png")]
    assert places == sorted(places)
    assert len(got) > sum(len(GALLERY.picture(name) or b"") for name in names)


def test_what_is_no_http_is_refused_and_hung_up_on(server: Server) -> None:
    with socket.create_connection((server.host, server.port), timeout=10) as raw:
        raw.sendall(b"EHLO\r\n\r\n")
        with raw.makefile("rb") as stream:
            assert stream.readline() == b"HTTP/1.1 400 Bad Request\r\n"
            assert stream.read().endswith(b"no request line\n")


def test_many_clients_at_once_get_what_they_asked_for(server: Server) -> None:
    def fetch(name: str) -> bool:
        with urllib.request.urlopen(f"{server.url}/images/{name}", timeout=10) as answer:
            return bool(answer.read() == GALLERY.picture(name))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(fetch, GALLERY.names() * 4))


def test_the_end_closes_what_is_open() -> None:
    with Server(Site(GALLERY)) as server:
        idle = socket.create_connection((server.host, server.port), timeout=10)
    with idle, pytest.raises(ConnectionError):
        if idle.recv(1) == b"":
            raise ConnectionResetError
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, server.port))


def test_an_address_in_use_is_an_error_at_once(server: Server) -> None:
    with pytest.raises(OSError, match="in use"):
        Server(Site(GALLERY), port=server.port).__enter__()
