"""The gallery's server answers like a real one, on one connection or many, and closes everything at its
end."""

from __future__ import annotations

import contextlib
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.demo.gallery import Gallery
from nearfar.demo.server import GalleryServer, byte_range

GALLERY = Gallery(count=20, large=1, seed="test")


@pytest.fixture
def server() -> Iterator[GalleryServer]:
    with GalleryServer(GALLERY, retry_after=7) as server:
        yield server


@pytest.fixture
def client(server: GalleryServer) -> Iterator[HTTPConnection]:
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


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-9", 0, 10), ("bytes=90-", 90, None), ("bytes=-5", -5, None), ("bytes=50-9999999", 50, None)],
)
def test_a_range_is_what_was_asked_for(
    client: HTTPConnection, asked: str, start: int, end: int | None
) -> None:
    whole = GALLERY.picture("0001.png") or b""
    status, fields, body = ask(client, "/images/0001.png", Range=asked)
    first, last, _ = slice(start, end).indices(len(whole))
    assert (status, body) == (206, whole[start:end])
    assert fields["content-range"] == f"bytes {first}-{last - 1}/{len(whole)}"


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=9-5", "bytes=-0", "bytes=-"])
def test_a_range_with_nothing_in_it_is_refused(client: HTTPConnection, asked: str) -> None:
    whole = GALLERY.picture("0001.png") or b""
    status, fields, body = ask(client, "/images/0001.png", Range=asked)
    assert (status, body, fields["content-range"]) == (416, b"", f"bytes */{len(whole)}")


@pytest.mark.parametrize(
    "fields", [{"Range": "bytes=0-1,5-6"}, {"Range": "lines=1-2"}, {"Range": "bytes=0-9", "If-Range": '"v0"'}]
)
def test_a_range_that_does_not_apply_gets_the_whole(client: HTTPConnection, fields: dict[str, str]) -> None:
    status, _, body = ask(client, "/images/0001.png", **fields)
    assert (status, body) == (200, GALLERY.picture("0001.png"))


@given(st.text(), st.integers(0, 200))
def test_any_range_lies_within_the_content(text: str, length: int) -> None:
    for asked in (text, f"bytes={text}", f"bytes={length // 2}-{length}", f"bytes=-{length}"):
        found = byte_range(asked, length)
        if found is not None:
            start, end = found
            assert start <= end
            assert start == end or end <= length


def test_a_client_with_the_current_version_gets_304_without_a_length(client: HTTPConnection) -> None:
    _, fields, _ = ask(client, "/images/0001.png")
    known = f'"v0", W/{fields["etag"]}'
    status, fields, body = ask(client, "/images/0001.png", **{"If-None-Match": known})
    assert (status, body) == (304, b"")
    assert "content-length" not in fields


def test_head_is_get_without_the_body(client: HTTPConnection) -> None:
    status, fields, body = ask(client, "/images/0001.png", "HEAD")
    assert (status, body) == (200, b"")
    assert fields["content-length"] == str(len(GALLERY.picture("0001.png") or b""))
    assert ask(client, "/images/0002.png")[2] == GALLERY.picture("0002.png")


@pytest.mark.parametrize(
    ("version", "connection", "keep"),
    [("1.1", "", True), ("1.1", "Close", False), ("1.0", "", False), ("1.0", "keep-alive", True)],
)
def test_the_connection_is_kept_as_the_version_says(
    server: GalleryServer, version: str, connection: str, keep: bool
) -> None:
    asked = f"GET /urls.txt HTTP/{version}\r\nConnection: {connection}\r\n\r\n"
    with socket.create_connection((server.host, server.port), timeout=10) as raw:
        raw.sendall(asked.encode())
        with raw.makefile("rb") as stream:
            length = 0
            while (line := stream.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            assert len(stream.read(length)) == length > 0
            if keep:
                raw.sendall(b"GET /urls.txt HTTP/1.1\r\n\r\n")
            assert stream.readline().startswith(b"HTTP/1.1 200") is keep


def test_busy_is_busy_once(client: HTTPConnection) -> None:
    status, fields, _ = ask(client, "/busy/0001.png")
    assert (status, fields["retry-after"]) == (503, "7")
    assert ask(client, "/busy/0001.png")[2] == GALLERY.picture("0001.png")


@pytest.mark.parametrize("path", ["/images/missing.png", "/busy/9999.png", "/images/../x", "/favicon.ico"])
def test_what_is_not_there_is_a_404(client: HTTPConnection, path: str) -> None:
    assert ask(client, path)[0] == 404


def test_another_method_is_refused(client: HTTPConnection) -> None:
    """I expect the connection to be closed: the next bytes could be the body of the request."""
    status, fields, _ = ask(client, "/", "DELETE")
    assert (status, fields["allow"], fields["connection"]) == (405, "GET, HEAD", "close")


def test_the_list_leads_everywhere(server: GalleryServer, client: HTTPConnection) -> None:
    listed = ask(client, "/urls.txt")[2].decode().split()
    assert listed == server.urls
    assert all(f'href="{path}"' in ask(client, "/")[2].decode() for path in server.paths())
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(listed[-1], timeout=10)
    refused.value.close()
    assert refused.value.code == 404


def test_requests_sent_together_are_answered_in_order(server: GalleryServer) -> None:
    """Given more pictures requested at once than fit into the buffers, I expect all of them, in order."""
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


def test_a_request_that_is_not_http_is_refused_and_the_connection_closed(server: GalleryServer) -> None:
    with socket.create_connection((server.host, server.port), timeout=10) as raw:
        raw.sendall(b"EHLO\r\n\r\n")
        with raw.makefile("rb") as stream:
            assert stream.readline().startswith(b"HTTP/1.1 400 Bad request")
            stream.read()


def test_a_request_with_a_body_is_refused_and_ends_the_connection(client: HTTPConnection) -> None:
    client.request("GET", "/urls.txt", body=b"GET /images/0001.png HTTP/1.1\r\n\r\n")
    answer = client.getresponse()
    assert (answer.status, answer.getheader("connection")) == (400, "close")
    assert answer.read() == b"400 Bad Request: a request with a body\n"


def test_many_clients_at_once_get_what_they_asked_for(server: GalleryServer) -> None:
    def fetch(name: str) -> bool:
        with urllib.request.urlopen(f"{server.url}/images/{name}", timeout=10) as answer:
            return bool(answer.read() == GALLERY.picture(name))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(fetch, GALLERY.names() * 4))


def test_a_client_that_does_not_read_delays_no_other_and_is_closed_in_the_end() -> None:
    """Given more data requested than the sockets hold, I expect the thread to wait, and to end at the
    close."""
    with GalleryServer(GALLERY) as server:
        idle = socket.create_connection((server.host, server.port), timeout=10)
        idle.sendall(b"GET /images/0020.png HTTP/1.1\r\n\r\n" * 20)
        with urllib.request.urlopen(f"{server.url}/images/0001.png", timeout=10) as answer:
            assert answer.read() == GALLERY.picture("0001.png")
    with idle, contextlib.suppress(ConnectionError):
        while idle.recv(1 << 20):
            pass


def test_the_end_closes_what_is_open() -> None:
    with GalleryServer(GALLERY) as server:
        idle = socket.create_connection((server.host, server.port), timeout=10)
    with idle, pytest.raises(ConnectionError):
        if idle.recv(1) == b"":
            raise ConnectionResetError
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, server.port))


@pytest.mark.parametrize("host", ["localhost", "::1"])
def test_it_listens_at_a_name_and_over_ipv6(host: str) -> None:
    try:
        server = GalleryServer(GALLERY, host)
    except OSError as error:
        pytest.skip(f"this machine has no {host}: {error}")
    with server, urllib.request.urlopen(f"{server.url}/images/0001.png", timeout=10) as answer:
        assert answer.read() == GALLERY.picture("0001.png")


def test_an_address_in_use_is_an_error_at_once(server: GalleryServer) -> None:
    with pytest.raises(OSError, match="in use"):
        GalleryServer(GALLERY, port=server.port)
