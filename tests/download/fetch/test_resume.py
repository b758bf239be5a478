"""Going on in the middle of a file: only surely in the same version, else from the start."""

from __future__ import annotations

import base64
import hashlib
import random
import re

import pytest

from nearfar.download.model import Checksum, Job, Reason
from tests.download.fetch.conftest import MakeFetcher
from tests.support.exchange import Handler, Reply, Request
from tests.support.routes import content, cut, in_turn, raw, redirect, status, without_ranges
from tests.support.sinks import fetch_all
from tests.support.web import Web

BODY = random.Random(1).randbytes(100_000)
OLD = bytes(range(256)) * 400
NEW = bytes(reversed(OLD))
RESUMED = ["begin", "chunk", "done"]
FROM_THE_START = ["begin", "chunk", "restart", "begin", "chunk", "done"]


def part(start: int, end: int, total: int | str, body: bytes, etag: str | None = '"1"') -> Handler:
    """A 206 that says what it likes."""
    where = {"content_range": f"bytes {start}-{end}/{total}"}
    return without_ranges(content(body, 206, **where, **({"etag": etag} if etag else {})))


def test_a_cut_file_with_a_strong_validator_goes_on_where_it_was_cut(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = in_turn(cut(OLD, 50_000, etag='"1"'), content(OLD, etag='"1"'))
    (sink,) = fetch_all(fetcher(digest=True), web.url("/a"))
    assert bytes(sink.data) == OLD
    assert sink.calls == RESUMED
    second = web.requests("/a")[1].fields
    assert (second["range"], second["if-range"]) == ("bytes=49488-", '"1"'), (
        "512 bytes come again, as a proof"
    )
    assert sink.body is not None and sink.body.attempts == 2
    assert sink.body.sha256 == hashlib.sha256(OLD).hexdigest()


def test_a_file_may_be_cut_several_times(web: Web, fetcher: MakeFetcher) -> None:
    rest = OLD[10:]
    web.routes["/a"] = in_turn(
        cut(OLD, 10, etag='"1"'),
        part(10, 19, len(OLD), rest[:10]),
        content(OLD, etag='"1"'),
    )
    (sink,) = fetch_all(fetcher(), web.url("/a"))
    assert bytes(sink.data) == OLD and sink.calls == RESUMED
    assert [r.fields.get("range") for r in web.log] == [None, "bytes=9-", "bytes=19-"]


@pytest.mark.parametrize("etag", [None, 'W/"1"', "1"])
def test_without_a_strong_validator_the_file_comes_anew(
    web: Web, fetcher: MakeFetcher, etag: str | None
) -> None:
    fields = {"etag": etag} if etag else {}
    web.routes["/a"] = in_turn(cut(OLD, 50_000, **fields), content(OLD, **fields))
    (sink,) = fetch_all(fetcher(), web.url("/a"))
    assert bytes(sink.data) == OLD and sink.calls == FROM_THE_START
    assert "range" not in web.requests("/a")[1].fields


@pytest.mark.parametrize(
    "second",
    [
        content(NEW, etag='"2"'),
        without_ranges(content(NEW, etag='"2"')),
    ],
    ids=["honest", "without ranges"],
)
def test_a_file_that_changed_in_between_comes_anew(web: Web, fetcher: MakeFetcher, second: Handler) -> None:
    web.routes["/a"] = in_turn(cut(OLD, 50_000, etag='"1"'), second)
    (sink,) = fetch_all(fetcher(), web.url("/a"))
    assert bytes(sink.data) == NEW and sink.calls == FROM_THE_START
    assert sink.head is not None and sink.head.etag == '"2"'


@pytest.mark.parametrize(
    "lie",
    [
        part(50_000, len(NEW) - 1, len(NEW), NEW[50_000:], etag='"2"'),
        part(50_000, len(NEW) - 1, len(NEW), NEW[50_000:], etag=None),
        part(49_999, len(NEW) - 1, len(NEW), NEW[49_999:]),
        part(50_000, len(NEW), len(NEW) + 1, NEW[50_000:] + b"!"),
        part(50_000, 40_000, len(NEW), NEW[50_000:]),
        without_ranges(content(NEW[50_000:], 206, etag='"1"')),
        status(416),
    ],
    ids=["other tag", "no tag", "early", "longer", "backwards", "unsaid", "416"],
)
def test_a_part_that_does_not_fit_is_never_joined(web: Web, fetcher: MakeFetcher, lie: Handler) -> None:
    web.routes["/a"] = in_turn(cut(OLD, 50_000, etag='"1"'), lie, content(NEW, etag='"2"'))
    (sink,) = fetch_all(fetcher(), web.url("/a"))
    assert bytes(sink.data) == NEW and sink.calls == FROM_THE_START
    assert "range" not in web.requests("/a")[2].fields


def test_a_file_of_unknown_length_takes_it_from_the_part(web: Web, fetcher: MakeFetcher) -> None:
    """Given a part that ends before the total it names, I expect one more request for the rest."""

    head = b'HTTP/1.1 200 OK\r\nETag: "1"\r\nTransfer-Encoding: chunked\r\n\r\n'
    chunked = raw(head + b"5\r\nabcde\r\n")
    web.routes["/a"] = in_turn(chunked, part(5, 6, 8, b"fg"), content(b"abcdefgh", etag='"1"'))
    (sink,) = fetch_all(fetcher(), web.url("/a"))
    assert bytes(sink.data) == b"abcdefgh" and sink.calls == RESUMED


def lying(first: int, start: int) -> Handler:
    """A server that cuts its first answer at `first`, then says what was asked for and sends from `start`."""
    asked = []

    def handle(request: Request, reply: Reply) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", request.fields.get("range", ""))
        asked.append(wanted)
        if wanted is None:
            (cut(BODY, first, etag='"1"') if len(asked) == 1 else content(BODY, etag='"1"'))(request, reply)
            return
        size = len(BODY) - int(wanted[1])
        body = (BODY[start:] + BODY)[:size]
        part(int(wanted[1]), len(BODY) - 1, len(BODY), body)(request, reply)

    return handle


@pytest.mark.parametrize(
    ("first", "start"), [(50_000, 0), (50_000, 50_000), (50_000, 49_489), (100, 0), (16, 5)]
)
def test_a_server_that_lies_about_its_part_is_not_believed_again(
    web: Web, fetcher: MakeFetcher, first: int, start: int
) -> None:
    """Tag, range and length are right: only the bytes show it."""
    web.routes["/a"] = lying(first, start)
    (sink,) = fetch_all(fetcher(), web.url("/a"))
    assert bytes(sink.data) == BODY and sink.calls == FROM_THE_START
    assert [("range" in request.fields) for request in web.log] == [False, True, False]


def test_a_wrong_digest_of_joined_parts_is_no_last_word(web: Web, fetcher: MakeFetcher) -> None:
    """Given a part of another file behind the bytes that are compared, I expect the whole to be asked for."""
    mixed = OLD[:60_000] + NEW[60_000:]
    web.routes["/a"] = in_turn(
        cut(OLD, 50_000, etag='"1"'), content(mixed, etag='"1"'), content(OLD, etag='"1"')
    )
    job = Job(web.url("/a"), None, Checksum("sha256", hashlib.sha256(OLD).hexdigest()))
    (sink,) = fetch_all(fetcher(), job)
    assert bytes(sink.data) == OLD and sink.body is not None


@pytest.mark.parametrize("etag", ['"1"', '"2"', None])
@pytest.mark.parametrize("said", [True, False])
def test_a_part_that_is_sent_as_if_it_were_the_whole_is_no_file(
    web: Web, fetcher: MakeFetcher, etag: str | None, said: bool
) -> None:
    """Given a server that answers a range with its bytes and the status 200."""
    start = 50_000 - 512
    fields = {"etag": etag} if etag else {}
    if said:
        fields["content_range"] = f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"
    partly = without_ranges(content(BODY[start:], **fields))
    web.routes["/a"] = in_turn(cut(BODY, 50_000, etag='"1"'), partly, content(BODY, etag='"1"'))
    (sink,) = fetch_all(fetcher(), web.url("/a"))
    assert bytes(sink.data) == BODY
    assert sink.calls == (RESUMED if said and etag == '"1"' else FROM_THE_START)


def test_a_range_beside_the_whole_says_nothing(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = content(BODY, content_range=f"bytes 0-{len(BODY) - 1}/{len(BODY)}")
    web.routes["/b"] = content(BODY, content_range="bytes 5-9/10")
    assert [bytes(sink.data) for sink in fetch_all(fetcher(), web.url("/a"), web.url("/b"))] == [BODY, BODY]


def test_a_whole_file_where_a_part_was_asked_for_is_taken(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = in_turn(cut(OLD, 50_000, etag='"1"'), part(0, len(NEW) - 1, len(NEW), NEW))
    (sink,) = fetch_all(fetcher(), web.url("/a"))
    assert bytes(sink.data) == NEW and sink.calls == FROM_THE_START and len(web.log) == 2


DATE = "Tue, 15 Nov 1994 12:45:26 GMT"
SECOND_LATER = "Tue, 15 Nov 1994 12:45:27 GMT"


@pytest.mark.parametrize(
    ("date", "etag", "resumed"),
    [
        (SECOND_LATER, None, True),
        ("Wed, 16 Nov 1994 08:00:00 GMT", None, True),
        (DATE, None, False),
        ("Mon, 14 Nov 1994 12:45:26 GMT", None, False),
        (None, None, False),
        ("soon", None, False),
        (SECOND_LATER, 'W/"1"', False),
    ],
)
def test_a_date_is_a_validator_where_it_is_strong(
    web: Web, fetcher: MakeFetcher, date: str | None, etag: str | None, resumed: bool
) -> None:
    """RFC 9110, 8.8.2.2: if the second that it names was over; and 13.1.5: if there is no tag."""
    fields = {"last_modified": DATE} | ({"date": date} if date else {}) | ({"etag": etag} if etag else {})
    web.routes["/a"] = in_turn(cut(BODY, 50_000, **fields), content(BODY, **fields))
    (sink,) = fetch_all(fetcher(), web.url("/a"))
    assert bytes(sink.data) == BODY and sink.calls == (RESUMED if resumed else FROM_THE_START)
    asked = web.log[1].fields
    assert (asked.get("range"), asked.get("if-range")) == (
        ("bytes=49488-", DATE) if resumed else (None, None)
    )


@pytest.mark.parametrize("later", [None, DATE, SECOND_LATER])
def test_a_file_that_was_changed_has_another_date(web: Web, fetcher: MakeFetcher, later: str | None) -> None:
    first = {"last_modified": DATE, "date": SECOND_LATER}
    second = part(49_488, len(NEW) - 1, len(NEW), OLD[49_488:50_000] + NEW[50_000:], etag=None)
    said = without_ranges(content(NEW[49_488:], 206, last_modified=later or "")) if later else second
    web.routes["/a"] = in_turn(cut(OLD, 50_000, **first), said, content(NEW, **first))
    (sink,) = fetch_all(fetcher(), web.url("/a"))
    assert sink.body is not None and sink.calls == (RESUMED if later is None else FROM_THE_START)


def test_digests_hold_for_the_joined_bytes(web: Web, fetcher: MakeFetcher) -> None:
    fields = {"etag": '"1"', "digest": "sha-256=" + base64.b64encode(hashlib.sha256(OLD).digest()).decode()}
    web.routes["/same"] = in_turn(cut(OLD, 50_000, **fields), content(OLD, **fields))
    web.routes["/lie"] = in_turn(cut(OLD, 50_000, **fields), content(NEW, **fields))
    same, lie = fetch_all(fetcher(), web.url("/same"), web.url("/lie"))
    assert same.calls == RESUMED
    assert lie.failure is not None and lie.failure.reason is Reason.CHECKSUM


def test_after_another_redirect_nothing_is_joined(web: Web, fetcher: MakeFetcher) -> None:
    """Given two mirrors that use one ETag for different bytes, I expect no mixture."""
    web.routes["/a"] = in_turn(redirect("/one"), redirect("/two"))
    web.routes["/one"] = cut(OLD, 50_000, etag='"1"')
    web.routes["/two"] = content(NEW, etag='"1"')
    (sink,) = fetch_all(fetcher(), web.url("/a"))
    assert bytes(sink.data) == NEW and sink.calls == FROM_THE_START


def test_after_the_same_redirect_the_file_goes_on(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = redirect("/one")
    web.routes["/one"] = in_turn(cut(OLD, 50_000, etag='"1"'), content(OLD, etag='"1"'))
    (sink,) = fetch_all(fetcher(), web.url("/a"))
    assert bytes(sink.data) == OLD and sink.calls == RESUMED
    assert ["range" in request.fields for request in web.log] == [False, False, False, True]


def test_a_part_that_does_not_end_where_it_was_announced_is_not_kept(web: Web, fetcher: MakeFetcher) -> None:
    def endless_part(request: Request, reply: Reply) -> None:
        head = b'HTTP/1.1 206 X\r\nETag: "1"\r\nContent-Range: bytes 5-9/10\r\n'
        reply.raw(head + b"Transfer-Encoding: chunked\r\n\r\n")
        while True:
            reply.raw(b"400\r\n" + bytes(1024) + b"\r\n")

    web.routes["/a"] = in_turn(cut(bytes(10), 5, etag='"1"'), endless_part, content(NEW, etag='"1"'))
    (sink,) = fetch_all(fetcher(), web.url("/a"))
    assert bytes(sink.data) == NEW and sink.calls == FROM_THE_START


def test_a_request_that_takes_too_long_goes_on_in_the_next_attempt(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = in_turn(cut(OLD, 50_000, by="stall", etag='"1"'), content(OLD, etag='"1"'))
    (sink,) = fetch_all(fetcher(total_timeout=0.5, stall_timeout=30), web.url("/a"))
    assert bytes(sink.data) == OLD and sink.calls == RESUMED
    assert web.log[1].fields["range"] == "bytes=49488-"
