"""Heads are read strictly, ranges exactly."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.demo.http1 import HEAD_LIMIT, BadRequest, Request, read_head, send_file

pytestmark = pytest.mark.pure

CONTENT = bytes(range(100))
ETAG = '"v1"'


def get(**fields: str) -> Request:
    return Request("GET", "/", {name.replace("_", "-"): value for name, value in fields.items()})


def test_a_head_is_read_when_it_is_whole_however_it_arrives() -> None:
    sent = b"GET /images/0001.png?x=1 HTTP/1.1\r\nHost: a:1\r\nAccept: b\r\nACCEPT:c \r\n\r\nGET"
    buffer = bytearray()
    for byte in sent[:-4]:
        buffer.append(byte)
        assert read_head(buffer) is None
    buffer += sent[-4:]
    assert read_head(buffer) == Request("GET", "/images/0001.png", {"host": "a:1", "accept": "b, c"})
    assert buffer == b"GET"


@pytest.mark.parametrize(
    ("version", "connection", "keep"),
    [("1.1", "", True), ("1.1", "Close", False), ("1.0", "", False), ("1.0", "keep-alive", True)],
)
def test_the_connection_is_kept_as_the_version_says(version: str, connection: str, keep: bool) -> None:
    request = read_head(bytearray(f"GET / HTTP/{version}\r\nConnection: {connection}\r\n\r\n", "ascii"))
    assert request is not None
    assert request.keep is keep


@pytest.mark.parametrize(
    "head",
    [
        b"GET nowhere HTTP/1.1",
        b"GET / HTTP/2.0",
        b"GET / HTTP/1.1\r\nno field",
        b"GET / HTTP/1.1\r\nName : space",
        b"POST / HTTP/1.1\r\nContent-Length: 5",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked",
        b"GET /" + b"a" * HEAD_LIMIT,
    ],
)
def test_a_bad_head_is_refused(head: bytes) -> None:
    with pytest.raises(BadRequest):
        read_head(bytearray(head + b"\r\n\r\n"))


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_parse_wait_or_be_refused(data: bytes) -> None:
    with contextlib.suppress(BadRequest):
        read_head(bytearray(data + b"\r\n\r\n"))


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-9", 0, 10), ("bytes=90-", 90, 100), ("bytes=-5", 95, 100), ("bytes=50-500", 50, 100)],
)
def test_a_range_is_what_was_asked_for(asked: str, start: int, end: int) -> None:
    answer = send_file(get(range=asked), CONTENT, "image/png", ETAG)
    assert (answer.status, answer.body) == (206, CONTENT[start:end])
    assert answer.fields["Content-Range"] == f"bytes {start}-{end - 1}/100"


@pytest.mark.parametrize("asked", ["bytes=100-", "bytes=9-5", "bytes=-0", "bytes=-"])
def test_a_range_with_nothing_in_it_is_refused(asked: str) -> None:
    answer = send_file(get(range=asked), CONTENT, "image/png", ETAG)
    assert (answer.status, answer.body, answer.fields["Content-Range"]) == (416, b"", "bytes */100")


@pytest.mark.parametrize(
    "fields", [{"range": "bytes=0-1,5-6"}, {"range": "lines=1-2"}, {"range": "bytes=0-9", "if_range": '"v0"'}]
)
def test_a_range_that_does_not_apply_gets_the_whole(fields: dict[str, str]) -> None:
    answer = send_file(get(**fields), CONTENT, "image/png", ETAG)
    assert (answer.status, answer.body) == (200, CONTENT)


def test_a_range_of_this_very_version_is_given() -> None:
    answer = send_file(get(range="bytes=1-1", if_range=ETAG), CONTENT, "image/png", ETAG)
    assert (answer.status, answer.body) == (206, CONTENT[1:2])


def test_a_client_that_has_it_is_told_so_without_a_length() -> None:
    answer = send_file(get(if_none_match=f'"v0", W/{ETAG}'), CONTENT, "image/png", ETAG)
    head, body = answer.encode(get())
    assert head.startswith(b"HTTP/1.1 304 Not Modified\r\n")
    assert b"Content-Length" not in head
    assert body == b""


def test_head_is_get_without_the_body() -> None:
    request = Request("HEAD", "/")
    answer = send_file(request, CONTENT, "image/png", ETAG)
    head, body = answer.encode(request)
    assert b"Content-Length: 100\r\n" in head
    assert body == b""
