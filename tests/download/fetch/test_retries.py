"""Failures by class, and attempts after them."""

from __future__ import annotations

import socket
import time
from email.utils import formatdate

import pytest

from nearfar.download.model import Reason
from tests.download.fetch.conftest import MakeFetcher
from tests.support.routes import content, cut, drip, in_turn, raw, status
from tests.support.sinks import Remembered, fetch_all
from tests.support.web import Web

BODY = bytes(range(256)) * 400


def reason(sink: Remembered) -> Reason | None:
    return sink.failure.reason if sink.failure else None


@pytest.mark.parametrize("code", [408, 425, 429, 500, 502, 503, 504])
def test_a_passing_status_is_tried_again(web: Web, fetcher: MakeFetcher, code: int) -> None:
    web.routes["/a"] = in_turn(status(code), status(code), content(b"at last"))
    (sink,) = fetch_all(fetcher(tries=3), web.url("/a"))
    assert bytes(sink.data) == b"at last"
    assert sink.body is not None and sink.body.attempts == 3


@pytest.mark.parametrize(("code", "tries"), [(400, 1), (403, 1), (404, 1), (410, 1), (429, 3), (503, 3)])
def test_a_status_fails_for_good_after_its_tries(
    web: Web, fetcher: MakeFetcher, code: int, tries: int
) -> None:
    web.routes["/a"] = status(code)
    (sink,) = fetch_all(fetcher(tries=3), web.url("/a"))
    assert sink.calls == ["failed"]
    assert reason(sink) is (Reason.HTTP_4XX if code < 500 else Reason.HTTP_5XX)
    assert len(web.log) == tries


def test_the_connection_survives_an_error_answer(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = status(404, body=b"not here" * 100)
    web.routes["/b"] = content(b"x")
    fetch_all(fetcher(per_host=1), web.url("/a"), web.url("/b"))
    assert web.connections == 1


def test_a_closed_port_is_a_connect_failure(fetcher: MakeFetcher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (sink,) = fetch_all(fetcher(tries=2), f"http://127.0.0.1:{port}/")
    assert reason(sink) is Reason.CONNECT


def test_a_name_that_no_resolver_takes_is_a_dns_failure(fetcher: MakeFetcher) -> None:
    (sink,) = fetch_all(fetcher(tries=9), f"http://{'a' * 70}.invalid/?key=s3cret")
    assert reason(sink) is Reason.DNS
    assert sink.failure is not None and "s3cret" not in sink.failure.detail


def test_a_connection_that_says_nothing_is_a_connect_failure(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/reset"] = raw(b"", then="reset")
    web.routes["/drop"] = raw(b"", then="drop")
    for sink in fetch_all(fetcher(tries=2), web.url("/reset"), web.url("/drop")):
        assert reason(sink) is Reason.CONNECT


def test_nonsense_instead_of_http_is_refused(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = raw(b"220 smtp.example.org ESMTP\r\n")
    (sink,) = fetch_all(fetcher(), web.url("/a"))
    assert reason(sink) is Reason.REFUSED


def test_an_unasked_change_of_protocol_is_no_file(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
    (sink,) = fetch_all(fetcher(tries=2), web.url("/a"))
    assert reason(sink) in (Reason.CONNECT, Reason.REFUSED)  # versions of libcurl differ


def test_an_interim_answer_is_passed_over(web: Web, fetcher: MakeFetcher) -> None:
    early = b'HTTP/1.1 103 Early Hints\r\nETag: "early"\r\n\r\n'
    web.routes["/a"] = raw(early + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    web.routes["/cut"] = raw(early)
    whole, short = fetch_all(fetcher(tries=1), web.url("/a"), web.url("/cut"))
    assert bytes(whole.data) == b"ok"
    assert whole.head is not None and (whole.head.status, whole.head.etag) == (200, None)
    assert reason(short) is Reason.CONNECT


@pytest.mark.parametrize("by", ["drop", "reset"])
def test_a_body_cut_short_is_truncated(web: Web, fetcher: MakeFetcher, by: str) -> None:
    web.routes["/a"] = cut(BODY, 1000, by=by)
    (sink,) = fetch_all(fetcher(tries=2), web.url("/a"))
    assert reason(sink) is Reason.TRUNCATED
    assert len(web.log) == 2


def test_a_body_cut_in_chunked_coding_is_truncated(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n5\r\nab")
    (sink,) = fetch_all(fetcher(tries=1), web.url("/a"))
    assert reason(sink) is Reason.TRUNCATED


def test_a_head_without_its_body_is_truncated(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = cut(BODY, 0)
    (sink,) = fetch_all(fetcher(tries=1), web.url("/a"))
    assert reason(sink) is Reason.TRUNCATED


def test_a_body_that_drips_is_a_timeout_where_a_speed_is_asked(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = drip(10, 0.05)
    (sink,) = fetch_all(fetcher(tries=1, stall_timeout=1, stall_speed=2000), web.url("/a"))
    assert reason(sink) is Reason.TIMEOUT


def test_the_total_limit_ends_a_body_that_drips(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = drip(10, 0.05)
    (sink,) = fetch_all(fetcher(tries=1, total_timeout=0.4), web.url("/a"))
    assert reason(sink) is Reason.TIMEOUT


def test_a_server_that_never_completes_the_handshake_is_a_timeout(fetcher: MakeFetcher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        (sink,) = fetch_all(fetcher(tries=1, connect_timeout=0.3), url)
    assert reason(sink) is Reason.TIMEOUT


@pytest.mark.slow
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_parks_the_host_and_not_the_others(web: Web, fetcher: MakeFetcher, form: str) -> None:
    """Given one place, a host that asks for 2 seconds and another host, I expect the other to go first."""
    wait = "2" if form == "seconds" else formatdate(time.time() + 3, usegmt=True)
    with Web() as other:
        web.routes["/a"] = in_turn(status(503, {"Retry-After": wait}), content(b"a"))
        web.routes["/b"] = content(b"b")
        other.routes["*"] = content(b"c")
        urls = [web.url("/a"), web.url("/b"), *(other.url(f"/{n}") for n in range(20))]
        assert all(sink.body for sink in fetch_all(fetcher(connections=1), *urls))
        asked = web.requests("/a")[0].at
        assert web.requests("/a")[1].at - asked > 1.4
        assert web.requests("/b")[0].at - asked > 1.4
        assert other.requests("/19")[0].at - asked < 1.4


def test_retry_after_is_capped(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = in_turn(status(429, {"Retry-After": "86400"}), content(b"a"))
    (sink,) = fetch_all(fetcher(retry_after_cap=0.2), web.url("/a"))
    assert bytes(sink.data) == b"a"
