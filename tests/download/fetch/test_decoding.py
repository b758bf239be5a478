"""``--decode``: what it undoes, and what it does not let happen."""

from __future__ import annotations

import base64
import gzip
import hashlib
import random
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.download.fetch.content import DENSEST, FREE, ContentError, Decoder, coding
from nearfar.download.model import Checksum, Job, Reason
from tests.download.fetch.conftest import MakeFetcher
from tests.support.exchange import Reply, Request
from tests.support.routes import content, cut, in_turn
from tests.support.sinks import Remembered, fetch_all
from tests.support.web import Web

TEXT = random.Random(1).randbytes(100_000).hex().encode()
CODED = gzip.compress(TEXT)


def bare(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


FORMS = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress, "Deflate": bare}


def reason(sink: Remembered) -> Reason | None:
    return sink.failure.reason if sink.failure else None


@pytest.mark.parametrize("name", FORMS)
def test_what_was_coded_is_saved_as_it_was_before(web: Web, fetcher: MakeFetcher, name: str) -> None:
    web.routes["/a"] = content(FORMS[name](TEXT), content_encoding=name)
    web.routes["/plain"] = content(TEXT, content_encoding="identity")
    coded, plain = fetch_all(fetcher(decode=True, digest=True), web.url("/a"), web.url("/plain"))
    assert bytes(coded.data) == bytes(plain.data) == TEXT
    assert web.requests("/a")[0].fields["accept-encoding"] == "gzip, deflate"
    assert coded.head is not None and coded.head.length is None
    assert plain.head is not None and plain.head.length == len(TEXT)
    assert coded.body is not None and coded.body.size == len(TEXT)
    assert coded.body.sha256 == hashlib.sha256(TEXT).hexdigest()


def test_unasked_it_is_saved_as_sent(web: Web, fetcher: MakeFetcher) -> None:
    """Given bytes that are gzip, that say so, or that ask to be taken for it, I expect these very bytes."""
    web.routes["/said"] = content(CODED, content_encoding="gzip", content_type="text/plain")
    web.routes["/unsaid.gz"] = content(CODED, content_type="application/gzip")
    for sink in fetch_all(fetcher(), web.url("/said"), web.url("/unsaid.gz")):
        assert bytes(sink.data) == CODED
    assert all("accept-encoding" not in request.fields for request in web.log)


def test_asked_too_a_file_that_is_itself_gzip_stays_so(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a.gz"] = content(CODED, content_type="application/gzip")
    (sink,) = fetch_all(fetcher(decode=True), web.url("/a.gz"))
    assert bytes(sink.data) == CODED


@pytest.mark.parametrize(
    "name", ["br", "zstd", "X-Compress", "gzip, gzip", "gzip,deflate", "gzip\t;q=1", "utf-8, br"]
)
def test_a_coding_that_was_not_asked_for_is_refused(web: Web, fetcher: MakeFetcher, name: str) -> None:
    web.routes["/a"] = content(gzip.compress(CODED), content_encoding=name)
    (sink,) = fetch_all(fetcher(decode=True), web.url("/a"))
    assert reason(sink) is Reason.REJECTED


@pytest.mark.parametrize(
    "name", ["identity", " Identity ", "", "utf-8", "none", "x-unknown", "identity, identity", "?" * 1000]
)
def test_what_names_no_coding_is_saved_as_sent(web: Web, fetcher: MakeFetcher, name: str) -> None:
    web.routes["/a"] = content(TEXT, content_encoding=name)
    (sink,) = fetch_all(fetcher(decode=True), web.url("/a"))
    assert bytes(sink.data) == TEXT and sink.head is not None and sink.head.length == len(TEXT)


@pytest.mark.parametrize("name", ["identity, gzip", "gzip, identity", "GZIP,", "x-gzip , identity"])
def test_identity_beside_a_coding_says_nothing(web: Web, fetcher: MakeFetcher, name: str) -> None:
    web.routes["/a"] = content(CODED, content_encoding=name)
    (sink,) = fetch_all(fetcher(decode=True), web.url("/a"))
    assert bytes(sink.data) == TEXT


@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_a_bomb_is_too_large_and_not_asked_for_again(web: Web, fetcher: MakeFetcher, name: str) -> None:
    web.routes["/a"] = content(FORMS[name](bytes(50_000_000)), content_encoding=name)
    (sink,) = fetch_all(fetcher(decode=True), web.url("/a"))
    assert reason(sink) is Reason.TOO_LARGE and "decoded" in (sink.failure or ("", ""))[1]
    assert len(web.log) == 1 and len(sink.data) <= FREE + DENSEST * 50_000


def test_an_endless_coded_body_is_too_large(web: Web, fetcher: MakeFetcher) -> None:
    """Given text that packs as text does, so that no ratio gives it away."""

    def endless(request: Request, reply: Reply) -> None:
        reply.head(200, {"Content-Encoding": "gzip"})
        while True:
            reply.data(CODED)

    web.routes["/a"] = endless
    (sink,) = fetch_all(fetcher(decode=True, max_size=1_000_000), web.url("/a"))
    assert reason(sink) is Reason.TOO_LARGE and len(sink.data) <= 1_000_000


@pytest.mark.parametrize("size", [len(TEXT), len(TEXT) - 1])
def test_the_limit_of_size_is_one_of_the_file(web: Web, fetcher: MakeFetcher, size: int) -> None:
    web.routes["/a"] = content(CODED, content_encoding="gzip")
    (sink,) = fetch_all(fetcher(decode=True, max_size=size), web.url("/a"))
    assert reason(sink) is (None if size == len(TEXT) else Reason.TOO_LARGE)


BROKEN = {
    "cut": (CODED[:-1], Reason.TRUNCATED),
    "cut in the head": (CODED[:5], Reason.TRUNCATED),
    "not gzip": (b"no gzip at all", Reason.CHECKSUM),
    "another checksum": (CODED[:-8] + bytes(8), Reason.CHECKSUM),
    "a tail": (CODED + b"tail", Reason.CHECKSUM),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_decoded_is_no_file(web: Web, fetcher: MakeFetcher, kind: str) -> None:
    data, why = BROKEN[kind]
    web.routes["/a"] = content(data, content_encoding="gzip")
    (sink,) = fetch_all(fetcher(decode=True), web.url("/a"))
    assert reason(sink) is why and len(web.log) == 1


def test_an_empty_body_is_an_empty_file(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = content(b"", content_encoding="gzip")
    web.routes["/b"] = content(gzip.compress(b""), content_encoding="gzip")
    for sink in fetch_all(fetcher(decode=True), web.url("/a"), web.url("/b")):
        assert sink.body is not None and sink.body.size == 0


def test_a_coded_body_goes_on_where_it_was_cut(web: Web, fetcher: MakeFetcher) -> None:
    fields = {"etag": '"1"', "content_encoding": "gzip"}
    web.routes["/a"] = in_turn(cut(CODED, 30_000, **fields), content(CODED, **fields))
    (sink,) = fetch_all(fetcher(decode=True), web.url("/a"))
    assert bytes(sink.data) == TEXT and sink.calls == ["begin", "chunk", "done"]
    assert web.log[1].fields["range"] == "bytes=29488-"


def test_a_changed_file_starts_again_with_a_new_decoder(web: Web, fetcher: MakeFetcher) -> None:
    fields = {"content_encoding": "gzip"}
    other = gzip.compress(b"other")
    web.routes["/a"] = in_turn(cut(CODED, 30_000, etag='"1"', **fields), content(other, etag='"2"', **fields))
    (sink,) = fetch_all(fetcher(decode=True), web.url("/a"))
    assert bytes(sink.data) == b"other"


def test_digests_of_servers_are_of_what_they_sent_and_a_jobs_is_of_the_file(
    web: Web, fetcher: MakeFetcher
) -> None:
    sent = base64.b64encode(hashlib.sha256(CODED).digest()).decode()
    web.routes["/a"] = content(CODED, content_encoding="gzip", digest=f"sha-256={sent}")
    web.routes["/lie"] = content(CODED[:-1], content_encoding="gzip", digest=f"sha-256={sent}")
    right, job_wrong, lie = fetch_all(
        fetcher(decode=True),
        Job(web.url("/a"), checksum=Checksum("md5", hashlib.md5(TEXT, usedforsecurity=False).hexdigest())),
        Job(web.url("/a"), checksum=Checksum("sha256", hashlib.sha256(CODED).hexdigest())),
        web.url("/lie"),
    )
    assert bytes(right.data) == TEXT and right.body is not None
    assert reason(job_wrong) is Reason.CHECKSUM
    assert lie.failure is not None


SPLITS = st.lists(st.integers(1, 50), max_size=20)


@given(st.binary(max_size=3000), st.sampled_from(sorted(FORMS)), SPLITS, st.booleans())
def test_in_whatever_pieces_it_comes_it_is_the_same(
    data: bytes, form: str, splits: list[int], padded: bool
) -> None:
    coded = FORMS[form](data)
    if "gzip" in form:
        coded += gzip.compress(data) + bytes(7 * padded)
        data += data
    name = coding(form)
    assert name is not None
    decoder, made = Decoder(name), b""
    for size in splits:
        made += decoder.feed(coded[:size])
        coded = coded[size:]
    assert made + decoder.feed(coded) == data
    assert decoder.complete


@given(st.sampled_from(["gzip", "deflate"]), st.lists(st.binary(max_size=300)), st.integers(0, 40))
def test_no_bytes_raise_anything_else(name: str, pieces: list[bytes], start: int) -> None:
    decoder = Decoder(name)
    try:
        for piece in (FORMS[name](b"x" * 30)[:start], *pieces):
            decoder.feed(piece)
    except ContentError as error:
        assert error.detail.isprintable() and error.reason in (Reason.CHECKSUM, Reason.TOO_LARGE)


def test_a_bomb_takes_little_memory() -> None:
    bomb = gzip.compress(bytes(20_000_000))
    decoder = Decoder("gzip")
    tracemalloc.start()
    try:
        with pytest.raises(ContentError, match="decoded"):
            for start in range(0, len(bomb), 16_384):
                decoder.feed(bomb[start : start + 16_384])
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_what_packs_well_but_not_absurdly_is_no_bomb() -> None:
    lines = b"".join(
        b"2026-11-25 16:%02d:%02d GET /index.html 200\n" % (n // 60 % 60, n % 60) for n in range(90_000)
    )
    packed = gzip.compress(lines)
    assert len(lines) / len(packed) > 10
    assert Decoder("gzip").feed(packed) == lines
