"""Fetching files that come as they should, and refusing answers that are none."""

from __future__ import annotations

import base64
import hashlib

import pytest

from nearfar.download.model import Checksum, Failure, Job, Reason
from tests.download.fetch.conftest import MakeFetcher
from tests.support.exchange import Reply, Request
from tests.support.routes import content, endless, raw, status
from tests.support.sinks import fetch_all
from tests.support.web import Web

BODY = bytes(range(256)) * 500


def test_a_file_comes_whole_with_its_head(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = content(
        BODY,
        content_type="Image/PNG; x=y",
        etag='"1"',
        last_modified="Sun, 06 Nov 1994 08:49:37 GMT",
        content_disposition="attachment; filename=\"x.png\"; filename*=UTF-8''%C3%A4.png",
    )
    (sink,) = fetch_all(fetcher(digest=True), web.url("/a?q=1#top"))
    assert bytes(sink.data) == BODY
    assert sink.calls == ["begin", "chunk", "done"]
    assert sink.body is not None and sink.head is not None
    assert (sink.body.size, sink.body.sha256) == (len(BODY), hashlib.sha256(BODY).hexdigest())
    assert sink.body.attempts == 1
    assert (sink.head.url, sink.head.status) == (web.url("/a?q=1"), 200)
    assert (sink.head.type, sink.head.length, sink.head.etag) == ("image/png", len(BODY), '"1"')
    assert (sink.head.modified, sink.head.suggested) == ("Sun, 06 Nov 1994 08:49:37 GMT", "ä.png")


def test_an_empty_file_is_a_file(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/empty"] = content(b"")
    (sink,) = fetch_all(fetcher(digest=True), web.url("/empty"))
    assert sink.calls == ["begin", "done"]
    assert sink.body is not None and sink.body.sha256 == hashlib.sha256().hexdigest()


def test_many_files_come_over_few_connections(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["*"] = content(BODY[:20000])
    sinks = fetch_all(fetcher(per_host=4), *(web.url(f"/{n}") for n in range(200)))
    assert all(bytes(sink.data) == BODY[:20000] for sink in sinks)
    assert web.connections <= 4
    assert web.most_at_once <= 4


def test_a_body_in_chunked_coding_comes_decoded(web: Web, fetcher: MakeFetcher) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    web.routes["/chunked"] = raw(head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    (sink,) = fetch_all(fetcher(), web.url("/chunked"))
    assert bytes(sink.data) == b"abcde"
    assert sink.head is not None and sink.head.length is None


def test_a_content_coding_is_neither_asked_for_nor_undone(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/coded"] = content(b"not really gzip", content_encoding="gzip")
    (sink,) = fetch_all(fetcher(), web.url("/coded"))
    assert bytes(sink.data) == b"not really gzip"
    assert "accept-encoding" not in web.requests("/coded")[0].fields


def test_fields_of_the_user_are_sent(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = content(b"x")
    headers = (("X-Key", "secret"), ("X-Empty", ""), ("Accept", "image/*"))
    fetch_all(fetcher(headers=headers, user_agent="me/1"), web.url("/a"))
    fields = web.requests("/a")[0].fields
    assert fields["user-agent"] == "me/1"
    assert (fields["x-key"], fields["x-empty"], fields["accept"]) == ("secret", "", "image/*")


def test_userinfo_becomes_basic_authentication_and_stays_out_of_the_head(
    web: Web, fetcher: MakeFetcher
) -> None:
    web.routes["/a"] = content(b"x")
    url = web.url("/a").replace("//", "//an%40n:s%3Acret@")
    (sink,) = fetch_all(fetcher(), url)
    expected = base64.b64encode(b"an@n:s:cret").decode()
    assert web.requests("/a")[0].fields["authorization"] == f"Basic {expected}"
    assert sink.head is not None and sink.head.url == web.url("/a")


@pytest.mark.parametrize("code", [201, 204, 205, 206, 300, 304, 305, 399])
def test_an_answer_that_carries_no_file_is_refused(web: Web, fetcher: MakeFetcher, code: int) -> None:
    web.routes["/a"] = status(code)
    (sink,) = fetch_all(fetcher(), web.url("/a"))
    assert sink.calls == ["failed"]
    assert sink.failure == Failure(Reason.REJECTED, f"HTTP {code} Said So: an answer without a file")


@pytest.mark.parametrize(
    ("kind", "fits"),
    [("image/png", True), ("IMAGE/Gif;q=1", True), ("text/html", False), ("text/plain", False)],
)
def test_another_type_than_expected_is_refused(
    web: Web, fetcher: MakeFetcher, kind: str | None, fits: bool
) -> None:
    web.routes["/a"] = content(b"x", **({"content_type": kind} if kind else {}))
    (sink,) = fetch_all(fetcher(expect=("image/*",)), web.url("/a"))
    assert sink.calls == (["begin", "chunk", "done"] if fits else ["failed"])
    assert fits or (sink.failure is not None and sink.failure.reason is Reason.REJECTED)


PNG = b"\x89PNG\r\n\x1a\n" + bytes(2000)
PAGE = b"<!-- x --> <!DOCTYPE html><title>Log in</title>" + bytes(2000)


@pytest.mark.parametrize(
    ("kind", "body", "fits"),
    [
        (None, PNG, True),
        (None, PNG[:8], True),
        (None, PAGE, False),
        (None, b"text", False),
        (None, b"", False),
        ("application/octet-stream", PNG, True),
        ("application/octet-stream", PAGE, False),
        ("image/png", PAGE, False),
        ("image/png", b"%PDF-1.4" + bytes(600), False),
        ("image/jpeg", PNG, True),
        ("image/x-new", b"new", True),
        ("image/png", b"", False),
    ],
)
@pytest.mark.parametrize("at_a_time", [3, 5000])
def test_where_a_type_says_nothing_or_lies_the_first_bytes_decide(
    web: Web, fetcher: MakeFetcher, kind: str | None, body: bytes, fits: bool, at_a_time: int
) -> None:
    def in_pieces(request: Request, reply: Reply) -> None:
        reply.head(200, {"Content-Length": str(len(body)), **({"Content-Type": kind} if kind else {})})
        for start in range(0, min(30, len(body)), at_a_time):
            reply.data(body[start : min(30, start + at_a_time)])
        reply.data(body[30:])

    web.routes["/a"] = in_pieces
    (sink,) = fetch_all(fetcher(expect=("image/*",)), web.url("/a"))
    if fits:
        assert bytes(sink.data) == body and sink.body is not None
    else:
        assert sink.failure is not None and sink.failure.reason is Reason.REJECTED
        assert "where image/* was expected" in sink.failure.detail and not sink.data


@pytest.mark.parametrize("kinds", [("image",), ("IMAGE/PNG",), ("text/plain", "image/*")])
def test_what_is_expected_may_be_said_in_several_ways(
    web: Web, fetcher: MakeFetcher, kinds: tuple[str, ...]
) -> None:
    web.routes["/a"] = content(PNG, content_type="image/png")
    web.routes["/b"] = content(PAGE, content_type="text/html")
    good, bad = fetch_all(fetcher(expect=kinds), web.url("/a"), web.url("/b"))
    assert bytes(good.data) == PNG and bad.failure is not None


def test_a_container_is_what_its_type_says(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a.epub"] = content(b"PK\3\4" + bytes(600), content_type="application/epub+zip")
    (sink,) = fetch_all(fetcher(expect=("application/epub+zip",)), web.url("/a.epub"))
    assert sink.body is not None


@pytest.mark.parametrize(
    ("path", "kind", "warned"),
    [
        ("/cat.png", "image/png", True),
        ("/cat.png", None, True),
        ("/cat", None, False),
        ("/cat.html", None, False),
    ],
)
def test_a_page_under_the_name_of_something_else_is_told(
    web: Web,
    fetcher: MakeFetcher,
    caplog: pytest.LogCaptureFixture,
    path: str,
    kind: str | None,
    warned: bool,
) -> None:
    """A page that is declared as one is reported by the `JobSource`, which sees types and no bytes."""
    web.routes[path] = content(PAGE, **({"content_type": kind} if kind else {}))
    (sink,) = fetch_all(fetcher(), web.url(path))
    assert bytes(sink.data) == PAGE
    assert ("--expect 'image/*'" in caplog.text) is warned


def test_a_refused_type_is_not_read_to_its_end(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = endless(content_type="text/html")
    (sink,) = fetch_all(fetcher(expect=("image/*",)), web.url("/a"))
    assert sink.failure is not None and sink.failure.reason is Reason.REJECTED


@pytest.mark.parametrize("size", [100, 101])
def test_an_announced_length_over_the_limit_is_too_large(web: Web, fetcher: MakeFetcher, size: int) -> None:
    web.routes["/a"] = content(bytes(size))
    (sink,) = fetch_all(fetcher(max_size=100), web.url("/a"))
    assert sink.calls == (["begin", "chunk", "done"] if size == 100 else ["failed"])
    assert size == 100 or (sink.failure is not None and sink.failure.reason is Reason.TOO_LARGE)


def test_an_endless_body_is_too_large_while_it_is_counted(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = endless()
    (sink,) = fetch_all(fetcher(max_size=300_000), web.url("/a"))
    assert sink.failure is not None and sink.failure.reason is Reason.TOO_LARGE
    assert len(sink.data) <= 300_000


SHA256 = base64.b64encode(hashlib.sha256(BODY).digest()).decode()
MD5 = base64.b64encode(hashlib.md5(BODY, usedforsecurity=False).digest()).decode()


@pytest.mark.parametrize("digest", [True, False])
@pytest.mark.parametrize(
    "fields",
    [
        {"digest": f"SHA-256={SHA256},unixsum=30637"},
        {"repr_digest": f"sha-256=:{SHA256}:, future=:AAAA:"},
        {"content_md5": MD5},
    ],
)
def test_digests_that_were_sent_are_checked(
    web: Web, fetcher: MakeFetcher, fields: dict[str, str], digest: bool
) -> None:
    web.routes["/right"] = content(BODY, **fields)
    web.routes["/wrong"] = content(b"!" + BODY[1:], **fields)
    right, wrong = fetch_all(fetcher(digest=digest), web.url("/right"), web.url("/wrong"))
    assert right.calls[-1] == "done"
    assert wrong.failure is not None and wrong.failure.reason is Reason.CHECKSUM
    assert len(web.requests("/wrong")) == 1


def test_a_digest_that_nobody_asks_for_is_not_counted(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = content(BODY)
    [sink] = fetch_all(fetcher(digest=False), web.url("/a"))
    assert sink.body is not None and (sink.body.size, sink.body.sha256) == (len(BODY), None)


def test_the_checksum_of_the_job_is_checked(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = content(BODY)
    digest = hashlib.sha512(BODY).hexdigest()
    right, wrong, unknown = fetch_all(
        fetcher(),
        Job(web.url("/a"), checksum=Checksum("sha512", digest.upper())),
        Job(web.url("/a"), checksum=Checksum("sha512", digest[:-1] + "g")),
        Job(web.url("/a"), checksum=Checksum("crc77", "00")),
    )
    assert right.calls[-1] == "done"
    assert wrong.failure is not None and wrong.failure.reason is Reason.CHECKSUM
    assert unknown.failure == Failure(Reason.REJECTED, "unknown checksum algorithm crc77")


@pytest.mark.parametrize(
    "url", ["ftp://h/x", "file:///etc/passwd", "http:///x", "nonsense", "http://h\r\nX: y/"]
)
def test_what_cannot_be_fetched_is_refused_without_a_call_inside_add(fetcher: MakeFetcher, url: str) -> None:
    (sink,) = fetch_all(fetcher(), url)
    assert sink.calls == ["failed"]
    assert sink.failure is not None and sink.failure.reason is Reason.REJECTED
