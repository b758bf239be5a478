"""The short way of plain answers gives just what the rules give, or leaves the answer to them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.download.fetch.headers import parse_head
from nearfar.download.fetch.options import FetchOptions
from nearfar.download.fetch.request import RequestFields
from nearfar.download.fetch.transfer import Transfer
from nearfar.download.model import Checksum, Job
from tests.support.sinks import Remembered

pytestmark = pytest.mark.pure

PLAIN = [
    b"HTTP/1.1 200 OK\r\n",
    b"Server: nginx\r\n",
    b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
    b"Content-Type: Image/PNG; x=y\r\n",
    b"Content-Length: 5\r\n",
    b"Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
    b'ETag: "1"\r\n',
    b"\r\n",
]
LINES = st.sampled_from(
    [
        *PLAIN,
        b"HTTP/1.1 206 Partial Content\r\n",
        b"HTTP/1.1 100 Continue\r\n",
        b"Content-Length: 6\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length:\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Encoding: gzip\r\n",
        b"Content-Range: bytes 0-4/5\r\n",
        b"Content-Disposition: attachment; filename=a.png\r\n",
        b"Content-MD5: XrY7u+Ae7tCTyyK7j1rNww==\r\n",
        b"Digest: sha-256=AAAA\r\n",
        b"Location: /b\r\n",
        b" goes on\r\n",
        b"\tgoes on\r\n",
        b'ETag: "' + b"x" * 2000 + b'"\r\n',
        b"X-Trailer: 1\r\n",
        b"\n",
        b"",
    ]
)
HEADS = st.one_of(
    st.lists(LINES, max_size=12),
    st.permutations(PLAIN[1:-1]).map(lambda lines: [PLAIN[0], *lines, PLAIN[-1]]),
    st.lists(LINES, max_size=4).map(lambda lines: [*PLAIN[:-1], *lines, PLAIN[-1]]),
)


def transfer(job: Job, **settings: object) -> tuple[Transfer, Remembered]:
    sink, options = Remembered(), FetchOptions(**settings)
    made = Transfer(job, sink, options, RequestFields(options))
    made.request()
    return made, sink


@given(HEADS, st.sampled_from([b"", b"hello", b"hello!", b"<html>", b"  <!doctype html>"]), st.booleans())
def test_what_goes_the_short_way_ends_as_by_the_rules(head: list[bytes], body: bytes, split: bool) -> None:
    job = Job("http://h/a.png")
    short, got = transfer(job)
    if not short.plain(head, [body[:3], body[3:]] if split else [body]):
        assert got.calls == [], "then nothing has happened"
        return
    long, expected = transfer(job)
    assert long.answered(parse_head(head), 0.0)
    if body:
        assert long.take(body)
    long.finish(None)
    assert expected.head is not None
    expected.head = expected.head._replace(validator=None)  # a whole file needs none
    assert got == expected and got.body is not None


def test_a_usual_answer_goes_the_short_way() -> None:
    plain, sink = transfer(Job("http://h/a.png"))
    assert plain.plain(PLAIN, [b"he", b"llo"])
    assert (bytes(sink.data), sink.calls) == (b"hello", ["begin", "chunk", "done"])


@pytest.mark.parametrize(
    "settings",
    [{"expect": ("image/*",)}, {"decode": True}, {"rate": 1000}, {"digest": True}, {"max_size": 4}],
)
def test_what_a_user_asks_for_is_for_the_rules(settings: dict[str, object]) -> None:
    plain, sink = transfer(Job("http://h/a.png"), **settings)
    assert not plain.plain(PLAIN, [b"hello"]) and not sink.calls


def test_so_is_a_checksum_of_the_list_and_a_second_attempt() -> None:
    checked, _ = transfer(Job("http://h/a.png", None, Checksum("md5", "0" * 32)))
    assert not checked.plain(PLAIN, [b"hello"])
    again, _ = transfer(Job("http://h/a.png"))
    again.again()
    assert not again.plain(PLAIN, [b"hello"])


def test_trailers_are_no_part_of_the_head() -> None:
    head = parse_head([*PLAIN, b"Content-Type: text/html\r\n", b"Digest: sha-256=AAAA\r\n"])
    assert head.fields["content-type"] == "Image/PNG; x=y" and "digest" not in head.fields
    proxied = parse_head([b"HTTP/1.1 200 Connection established\r\n", b"ETag: 0\r\n", b"\r\n", *PLAIN])
    assert (proxied.status, proxied.fields["etag"]) == (200, '"1"')
