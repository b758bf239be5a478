"""Going on in the middle of a file: only surely in the same version, else from the start."""

from __future__ import annotations

import base64
import hashlib

import pytest

from nearfar.download.model import Reason
from tests.download.fetch.conftest import MakeFetcher
from tests.support.exchange import Handler, Reply, Request
from tests.support.routes import content, cut, in_turn, raw, redirect, status, without_ranges
from tests.support.sinks import fetch_all
from tests.support.web import Web

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
    (sink,) = fetch_all(fetcher(), web.url("/a"))
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
