"""Continuing a file that an earlier process began: only surely in the same version, else from the start."""

from __future__ import annotations

import base64
import hashlib
import random

import pytest

from nearfar.download.model import Checksum, Job, Partial, Reason, source_of
from tests.download.fetch.conftest import MakeFetcher
from tests.support.exchange import Handler
from tests.support.routes import content, cut, in_turn, raw, redirect, status, without_ranges
from tests.support.sinks import Remembered, poll_until
from tests.support.web import Web

OLD = random.Random(3).randbytes(100_000)
NEW = random.Random(4).randbytes(100_000)
HALF = 50_000
CONTINUED = ["chunk", "done"]
FROM_THE_START = ["restart", "begin", "chunk", "done"]
DATE, LATER = "Tue, 15 Nov 1994 12:45:26 GMT", "Tue, 15 Nov 1994 12:45:27 GMT"


def partial_of(url: str, size: int = HALF, length: int | None = len(OLD), validator: str = '"1"') -> Partial:
    source = source_of(url, "0123456789abcdef")
    return Partial("file", "store", size, length, validator, source, OLD[:512], OLD[size - 512 : size])


def fetch(fetcher: MakeFetcher, job: Job | str, partial: Partial, **settings: object) -> Remembered:
    """Continue `partial`, of which the sink has the bytes."""
    sink = Remembered(data=bytearray(OLD[: partial.size]))
    made = fetcher(**settings)
    made.add(Job(job) if isinstance(job, str) else job, sink, partial)
    poll_until(made, lambda: made.in_flight == 0)
    return sink


def part(
    start: int, end: int, total: int | str, body: bytes, etag: str | None = '"1"', **more: str
) -> Handler:
    where = {"content_range": f"bytes {start}-{end}/{total}"}
    return without_ranges(content(body, 206, **where, **({"etag": etag} if etag else {}), **more))


def test_the_rest_is_asked_for_with_the_validator(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = content(OLD, etag='"1"')
    sink = fetch(fetcher, web.url("/a"), partial_of(web.url("/a")))
    assert bytes(sink.data) == OLD and sink.calls == CONTINUED
    [request] = web.log
    assert (request.fields["range"], request.fields["if-range"]) == (f"bytes={HALF - 512}-", '"1"')
    assert sink.body is not None and (sink.body.size, sink.body.sha256) == (len(OLD), None)


def test_a_date_is_sent_where_it_is_the_validator(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = content(OLD, last_modified=DATE, date=LATER)
    sink = fetch(fetcher, web.url("/a"), partial_of(web.url("/a"), validator=DATE))
    assert bytes(sink.data) == OLD and sink.calls == CONTINUED
    assert web.log[0].fields["if-range"] == DATE


def test_a_file_that_is_complete_needs_its_end_only(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = content(OLD, etag='"1"')
    sink = fetch(fetcher, web.url("/a"), partial_of(web.url("/a"), size=len(OLD)))
    assert bytes(sink.data) == OLD and sink.calls == ["done"]


def test_a_cut_in_the_rest_goes_on_once_more(web: Web, fetcher: MakeFetcher) -> None:
    first = raw(
        b'HTTP/1.1 206 Partial Content\r\nETag: "1"\r\nContent-Length: %d\r\n'
        b"Content-Range: bytes %d-99999/100000\r\n\r\n" % (50_512, HALF - 512) + OLD[HALF - 512 : 80_000]
    )
    web.routes["/a"] = in_turn(first, content(OLD, etag='"1"'))
    sink = fetch(fetcher, web.url("/a"), partial_of(web.url("/a")))
    assert bytes(sink.data) == OLD and sink.calls == CONTINUED
    assert web.log[1].fields["range"] == f"bytes={80_000 - 512}-"


REST = HALF - 512
ANSWERS: dict[str, Handler] = {
    "200, the same": without_ranges(content(NEW, etag='"1"')),
    "200, changed": content(NEW, etag='"2"'),
    "other tag": part(REST, 99_999, 100_000, NEW[REST:], etag='"2"'),
    "weak tag": part(REST, 99_999, 100_000, NEW[REST:], etag='W/"1"'),
    "no tag": part(REST, 99_999, 100_000, NEW[REST:], etag=None),
    "other total": part(REST, 99_999, 100_001, NEW[REST:]),
    "later range": part(HALF + 1, 99_999, 100_000, NEW[HALF + 1 :]),
    "earlier range": part(10, 99_999, 100_000, NEW[10:]),
    "no range": without_ranges(content(NEW[REST:], 206, etag='"1"')),
    "other bytes": part(REST, 99_999, 100_000, NEW[REST:]),
    "coded": part(REST, 99_999, 100_000, NEW[REST:], content_encoding="gzip"),
    "multipart": without_ranges(
        content(b"--x\r\n", 206, etag='"1"', content_type="multipart/byteranges; boundary=x")
    ),
    "416": status(416),
    "416, its length": status(416, {"Content-Range": f"bytes */{HALF}", "ETag": '"1"'}),
    "416, the length": status(416, {"Content-Range": "bytes */100000", "ETag": '"1"'}),
}


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("length", [len(OLD), None])
def test_an_answer_to_another_question_is_never_joined(
    web: Web, fetcher: MakeFetcher, kind: str, length: int | None
) -> None:
    if kind == "other total" and length is None:
        pytest.skip("no length was announced to compare it with")
    web.routes["/a"] = in_turn(ANSWERS[kind], content(NEW, etag='"2"'))
    sink = fetch(fetcher, web.url("/a"), partial_of(web.url("/a"), length=length))
    assert bytes(sink.data) == NEW, "nothing of the old version is in it"
    assert sink.calls in (FROM_THE_START, ["chunk", *FROM_THE_START])
    assert "range" not in web.log[-1].fields or len(web.log) == 1


@pytest.mark.parametrize("by", ["drop", "reset"])
def test_a_new_version_that_is_cut_off_is_continued_by_itself(
    web: Web, fetcher: MakeFetcher, by: str
) -> None:
    web.routes["/a"] = in_turn(cut(NEW, 60_000, by=by, etag='"2"'), content(NEW, etag='"2"'))
    sink = fetch(fetcher, web.url("/a"), partial_of(web.url("/a")))
    assert bytes(sink.data) == NEW


def test_a_url_that_leads_elsewhere_now_is_fetched_from_the_start(web: Web, fetcher: MakeFetcher) -> None:
    """Two mirrors may use one tag for different bytes."""
    web.routes |= {"/a": redirect("/two"), "/two": content(NEW, etag='"1"')}
    sink = fetch(fetcher, web.url("/a"), partial_of(web.url("/one")))
    assert bytes(sink.data) == NEW and sink.calls == FROM_THE_START
    assert all("range" not in request.fields for request in web.log)


def test_a_url_that_leads_where_it_led_is_continued(web: Web, fetcher: MakeFetcher) -> None:
    web.routes |= {"/a": redirect("/one"), "/one": content(OLD, etag='"1"')}
    sink = fetch(fetcher, web.url("/a"), partial_of(web.url("/one")))
    assert bytes(sink.data) == OLD and sink.calls == CONTINUED
    assert ["range" in request.fields for request in web.log] == [False, True]


def test_a_file_that_cannot_be_had_fails_without_a_word_of_the_beginning(
    web: Web, fetcher: MakeFetcher
) -> None:
    web.routes["/a"] = status(404)
    sink = fetch(fetcher, web.url("/a"), partial_of(web.url("/a")))
    assert sink.failure is not None and sink.failure.reason is Reason.HTTP_4XX
    assert sink.calls == ["failed"]


def test_digests_are_passed_on_to_where_the_beginning_is(web: Web, fetcher: MakeFetcher) -> None:
    digest = hashlib.sha256(OLD).digest()
    named = f"sha-256=:{base64.b64encode(digest).decode()}:"
    web.routes["/a"] = content(OLD, etag='"1"', repr_digest=named, content_md5="of the part")
    checksum = Checksum("md5", hashlib.md5(OLD, usedforsecurity=False).hexdigest())
    job = Job(web.url("/a"), None, checksum)
    sink = fetch(fetcher, job, partial_of(web.url("/a")))
    assert sink.body is not None
    assert sink.body.checks == f"md5={checksum.digest} sha256={digest.hex()}"


@pytest.mark.parametrize(
    ("kind", "first", "continued"),
    [
        ("image/png", b"\x89PNG\r\n\x1a\n", True),
        ("application/octet-stream", b"\x89PNG\r\n\x1a\n", True),
        ("image/png", b"<html>", False),
        ("text/html", b"\x89PNG\r\n\x1a\n", False),
        ("application/octet-stream", b"%PDF-", False),
    ],
)
def test_what_is_expected_now_holds_for_the_beginning_too(
    web: Web, fetcher: MakeFetcher, kind: str, first: bytes, continued: bool
) -> None:
    web.routes["/a"] = content(OLD, etag='"1"', content_type=kind)
    partial = partial_of(web.url("/a"))._replace(first=(first + bytes(512))[:512])
    sink = fetch(fetcher, web.url("/a"), partial, expect=("image/*",), tries=2)
    assert (sink.calls == CONTINUED) is continued


def test_a_file_above_the_limit_is_not_continued(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = content(OLD, etag='"1"')
    sink = fetch(fetcher, web.url("/a"), partial_of(web.url("/a")), max_size=HALF + 10)
    assert sink.failure is not None and sink.failure.reason is Reason.TOO_LARGE
