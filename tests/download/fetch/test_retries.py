"""Failures by class, and attempts after them."""

from __future__ import annotations

import socket
import time
from email.utils import formatdate

import pytest

from nearfar.download.model import Reason
from tests.download.fetch.conftest import MakeFetcher
from tests.support.exchange import Reply, Request
from tests.support.routes import content, cut, drip, in_turn, paced, raw, status
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
    assert reason(sink) is Reason.REJECTED


def test_an_unasked_change_of_protocol_is_no_file(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
    (sink,) = fetch_all(fetcher(tries=2), web.url("/a"))
    assert reason(sink) in (Reason.CONNECT, Reason.REJECTED)  # versions of libcurl differ


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


@pytest.mark.parametrize("code", [429, 503])
def test_a_server_that_paces_us_fails_nothing(web: Web, fetcher: MakeFetcher, code: int) -> None:
    """Given a host that lets 3 requests through at a time, puts off the rest, and one try, I expect all."""
    web.routes["*"] = paced(content(b"x"), 3, 0.05, code)
    sinks = fetch_all(fetcher(tries=1, retry_after_cap=0.06), *(web.url(f"/{n}") for n in range(45)))
    assert [sink.failure for sink in sinks] == [None] * 45
    assert len(web.log) < 4 * 45, "it goes on more slowly after a complaint"


def test_a_host_that_only_puts_off_is_given_up_in_time(web: Web, fetcher: MakeFetcher) -> None:
    """Given another host behind it and fewer places than files, I expect all of the bad host's to fail."""
    with Web() as other:
        web.routes["*"] = status(429, {"Retry-After": "1"})
        other.routes["*"] = content(b"x")
        engine = fetcher(retry_after_cap=0.05, wait_for_host=0.3, connections=4)
        started = time.monotonic()
        *bad, good = fetch_all(engine, *(web.url(f"/{n}") for n in range(20)), other.url("/"))
        assert time.monotonic() - started < 5
    assert {reason(sink) for sink in bad} == {Reason.HTTP_4XX}
    assert bad[0].failure is not None and "--wait-for-host" in bad[0].failure.detail
    assert bytes(good.data) == b"x"


def test_one_url_that_is_always_put_off_holds_up_no_other(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/odd"] = status(429, {"Retry-After": "0"})
    web.routes["*"] = content(b"x")
    engine = fetcher(wait_for_host=0.2, connections=2)
    odd, *others = fetch_all(engine, web.url("/odd"), *(web.url(f"/{n}") for n in range(30)))
    assert reason(odd) is Reason.HTTP_4XX and all(sink.body for sink in others)
    assert len(web.requests("/odd")) < 200, "a time of none is no invitation to ask in a ring"


def test_a_host_is_not_waited_for_where_that_is_not_wanted(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = in_turn(status(429, {"Retry-After": "1"}), content(b"x"))
    (sink,) = fetch_all(fetcher(wait_for_host=0), web.url("/a"))
    assert reason(sink) is Reason.HTTP_4XX and len(web.log) == 1


@pytest.mark.parametrize(
    "value",
    [
        "Thu, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Thu, 01 Jan 9999 00:00:00 +9999",
        "Thu, 99 Jan 2026 99:99:99 GMT",
        "9" * 400,
        "-1",
        "1e400",
        "nan",
        "\xb2",
        ";",
    ],
)
def test_a_time_that_makes_no_sense_harms_no_other_file(web: Web, fetcher: MakeFetcher, value: str) -> None:
    web.routes["/bad"] = status(503, {"Retry-After": value})
    web.routes["*"] = content(b"x")
    bad, *good = fetch_all(fetcher(tries=2), web.url("/bad"), *(web.url(f"/{n}") for n in range(20)))
    assert reason(bad) is Reason.HTTP_5XX
    assert all(sink.body for sink in good)


@pytest.mark.parametrize("by", ["drop", "reset"])
def test_a_file_whose_every_answer_is_cut_arrives_all_the_same(
    web: Web, fetcher: MakeFetcher, by: str
) -> None:
    """Given two tries, and ten pieces."""

    def tenth(request: Request, reply: Reply) -> None:
        start = int(request.fields.get("range", "bytes=0-")[6:-1])
        reply.head(
            206 if start else 200,
            {
                "Content-Length": str(len(BODY) - start),
                "Content-Range": f"bytes {start}-{len(BODY) - 1}/{len(BODY)}",
                "ETag": '"1"',
            },
        )
        reply.data(BODY[start : start + len(BODY) // 10])
        if start + len(BODY) // 10 < len(BODY):
            getattr(reply, by)()

    web.routes["/a"] = tenth
    (sink,) = fetch_all(fetcher(tries=2), web.url("/a"))
    assert bytes(sink.data) == BODY
    assert len(web.log) <= 12


def test_retry_after_is_capped(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = in_turn(status(429, {"Retry-After": "86400"}), content(b"a"))
    (sink,) = fetch_all(fetcher(retry_after_cap=0.2), web.url("/a"))
    assert bytes(sink.data) == b"a"
