"""Whatever a server sends ends its own URL only: answers made up at random, beside good ones."""

from __future__ import annotations

import os
from contextlib import closing

import msgpack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nearfar.download.fetch.curl import CurlFetcher
from nearfar.download.fetch.headers import FIELDS
from nearfar.download.fetch.options import FetchOptions
from nearfar.download.messages import Open, decode, encode
from nearfar.download.model import Job
from nearfar.download.store.names import clean, wanted
from tests.support.exchange import Handler, Reply, Request
from tests.support.routes import content
from tests.support.sinks import Remembered, fetch_all
from tests.support.web import Web

EXAMPLES = int(os.environ.get("NEARFAR_HOSTILE_EXAMPLES", "40"))
GOOD = bytes(range(256)) * 8

NASTY = st.sampled_from(
    [
        b"",
        b"0",
        b"-1",
        b"5",
        b"9" * 30,
        b"9" * 5000,
        b"1e9",
        b"\xb2",
        b"nan",
        b"bytes 0-4/5",
        b"bytes 2-4/5",
        b"bytes 0-4/*",
        b"bytes */5",
        b"bytes 9999999999999999999-0/0",
        b"Thu, 01 Jan 99999999999999999999 00:00:00 GMT",
        b"Thu, 01 Jan 1970 00:00:00 GMT",
        b"Fri, 31 Dec 9999 23:59:59 GMT",
        b'"1"',
        b'W/"1"',
        b'"\xff"',
        b"/bad",
        b"//",
        b"?",
        b"http:",
        b"http://\xff/",
        b"//127.0.0.1:1/",
        b"//[::1",
        b"/\xc3\x9f%",
        b"ftp://h/",
        b"gzip",
        b"gzip, gzip",
        b"identity",
        b"chunked",
        b"chunked, chunked",
        b"a=b; domain=; path=; max-age=999999999999999999999999",
        b"=; expires=" + b"9" * 99,
        b'attachment; filename="',
        b"attachment; filename*=''%",
        b'; filename="=?utf-8?b?=====?="',
        b"filename*0*=x''%ff; filename*99=",
        b"sha-256=:AAAA:, md5=\xff",
        b"text/html",
        b";;;;",
        b"\t \t",
    ]
)
VALUE = st.one_of(
    NASTY, st.binary(max_size=40).map(lambda data: data.replace(b"\n", b"").replace(b"\r", b""))
)
NAME = st.sampled_from([*FIELDS, b"Connection", b"X", b"", b" "])
FIELD = st.builds(lambda name, value: name + b": " + value + b"\r\n", NAME, VALUE)
STATUS = st.sampled_from(
    [100, 103, 200, 200, 200, 203, 204, 206, 206, 300, 302, 302, 304, 307, 401, 404, 416, 429, 503, 599, 999]
)
ANSWER = st.builds(
    lambda status, fields, body: b"HTTP/1.1 %d X\r\n%s\r\n%s" % (status, b"".join(fields), body),
    STATUS,
    st.lists(FIELD, max_size=6),
    st.sampled_from(
        [b"", b"abcde", b"0\r\n\r\n", b"5\r\nabcde\r\n0\r\n\r\n", b"\x1f\x8b\x08\0", b"<html>", bytes(600)]
    ),
)
HOSTILE = st.one_of(ANSWER, ANSWER, ANSWER, st.binary(max_size=80))


OPTIONS = FetchOptions(
    tries=2,
    backoff=0.001,
    retry_after_cap=0.001,
    wait_for_host=0.01,
    redirects=3,
    connect_timeout=1.0,
    total_timeout=1.0,
)
CAREFUL = OPTIONS._replace(decode=True, expect=("application/*", "text/html"), max_size=3000)


def test_no_answer_harms_another_file() -> None:
    """Given a server that sends anything, and ends, I expect an end of each URL, and good files beside it."""
    with Web() as bad, Web() as good:
        good.routes["*"] = content(GOOD, content_type="application/x-good")
        with closing(CurlFetcher(OPTIONS)) as plain, closing(CurlFetcher(CAREFUL)) as careful:

            @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
            @given(st.lists(HOSTILE, min_size=1, max_size=8))
            def attempt(answers: list[bytes]) -> None:
                bad.routes["*"] = sending(answers)
                urls = [
                    *(bad.url(f"/{n}") for n in range(len(answers))),
                    *(good.url(f"/{n}") for n in range(3)),
                ]
                for engine in (plain, careful):
                    sinks = fetch_all(engine, *urls)
                    for sink in sinks:
                        check(sink)
                    assert all(bytes(sink.data) == GOOD for sink in sinks[len(answers) :])

            attempt()


def sending(answers: list[bytes]) -> Handler:
    """Each of `answers` at the path that is its number, the first one at any other."""
    by_path = {f"/{n}": answer for n, answer in enumerate(answers)}

    def send(request: Request, reply: Reply) -> None:
        reply.raw(by_path.get(request.path, answers[0]))
        reply.drop()

    return send


def check(sink: Remembered) -> None:
    """It has one end, which can be told and written down."""
    if sink.failure is not None:
        assert sink.failure.detail.isprintable()
    else:
        assert sink.body is not None and sink.body.size == len(sink.data)
    if sink.head is not None:
        spelt = decode(msgpack.unpackb(msgpack.packb(encode(Open("stream", Job("http://h/"), sink.head)))))
        assert isinstance(spelt, Open) and spelt.head == sink.head
        for part in wanted(Job("http://h/"), sink.head):
            assert part == clean(part) and part
