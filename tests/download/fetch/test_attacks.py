"""Servers that mean harm: each answer ends, by a limit that has a reason, and takes no other file along."""

from __future__ import annotations

import gzip
import threading
from pathlib import Path

import pycurl
import pytest

from nearfar.download.fetch import curl_handle, options
from nearfar.download.fetch.options import FetchOptions
from nearfar.download.model import Reason
from tests.download.fetch.conftest import MakeFetcher
from tests.support.exchange import Handler, Reply, Request
from tests.support.routes import content, drip, endless, raw, redirect
from tests.support.sinks import fetch_all
from tests.support.web import Web

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LAST_CHUNK = CHUNKED + b"1\r\na\r\n0\r\n"
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
BOMB = gzip.compress(bytes(1_000_000))


def again(first: bytes, data: bytes, seconds: float = 0.0) -> Handler:
    """`first`, then `data` without end, as fast as it is read, or every so many `seconds`."""
    pause = threading.Event()

    def handle(request: Request, reply: Reply) -> None:
        reply.raw(first)
        while not (seconds and pause.wait(seconds)):
            reply.raw(data)

    return handle


OLD = pycurl.version_info()[2] < 0x080000
"""A libcurl, as some wheels of pycurl have it, that takes some things for granted."""
NO_HEAD = (Reason.TOO_LARGE, Reason.REJECTED) if OLD else (Reason.TOO_LARGE,)
ENDLESS_HEADS = {
    "fields": again(OK, b"X-A: " + b"b" * 200 + b"\r\n"),
    "one field": again(OK + b"X: ", b"b" * 1000),
    "interim answers": again(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "interim answers with fields": again(b"", EARLY.replace(b"x", b"x" * 100)),
    "trailers": again(LAST_CHUNK, b"X: " + b"y" * 200 + b"\r\n"),
    "a cookie": again(OK + b"Set-Cookie: a=", b"b" * 1000),
}


@pytest.mark.parametrize("kind", ENDLESS_HEADS)
def test_a_head_without_end_is_too_large_and_not_asked_for_again(
    web: Web, fetcher: MakeFetcher, kind: str
) -> None:
    web.routes["/a"] = ENDLESS_HEADS[kind]
    (sink,) = fetch_all(fetcher(tries=3), web.url("/a"))
    assert sink.failure is not None and sink.failure.reason in NO_HEAD
    assert len(web.log) == 1


@pytest.mark.parametrize("kind", ENDLESS_HEADS)
def test_so_it_is_where_libcurl_itself_knows_no_limit(
    web: Web, fetcher: MakeFetcher, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(curl_handle, "HEADS_BOUNDED", False)
    web.routes["/a"] = ENDLESS_HEADS[kind]
    web.routes["/b"] = content(b"x")
    bad, good = fetch_all(fetcher(tries=3), web.url("/a"), web.url("/b"))
    assert bad.failure is not None and bad.failure.reason in NO_HEAD
    assert bytes(good.data) == b"x"


DRIPS = {
    "body": drip(1, 0.05),
    "chunks": again(CHUNKED, b"1\r\na\r\n", 0.05),
    "the size of a chunk": again(CHUNKED + b"1", b";a=1", 0.05),
    "fields": again(OK, b"X: y\r\n", 0.05),
    "interim answers": again(b"", EARLY, 0.05),
    "trailers": again(LAST_CHUNK, b"X: y\r\n", 0.05),
    "nothing": raw(b"", then="stall"),
    "half a head": raw(OK, then="stall"),
    "a head alone": raw(OK + b"Content-Length: 5\r\n\r\n", then="stall"),
}


def test_what_drips_or_stalls_times_out_by_default(web: Web, fetcher: MakeFetcher) -> None:
    """Given the default speed, and one second of patience instead of 30, I expect all to end."""
    for kind, handler in DRIPS.items():
        web.routes[f"/{kind.replace(' ', '-')}"] = handler
    sinks = fetch_all(fetcher(tries=1, stall_timeout=1), *map(web.url, web.routes))
    reasons = {
        path: sink.failure and sink.failure.reason for path, sink in zip(web.routes, sinks, strict=True)
    }
    assert reasons == dict.fromkeys(web.routes, Reason.TIMEOUT)


@pytest.mark.slow
def test_an_honest_slow_body_is_let_through(web: Web, fetcher: MakeFetcher) -> None:
    """Given the default speed, a patience of one second, and a line of 800 bytes a second for two."""
    pause = threading.Event()

    def slow(request: Request, reply: Reply) -> None:
        reply.head(200, {"Content-Length": "1600"})
        for _ in range(20):
            pause.wait(0.1)
            reply.data(bytes(80))

    web.routes["/a"] = slow
    (sink,) = fetch_all(fetcher(tries=1, stall_timeout=1), web.url("/a"))
    assert sink.body is not None and sink.body.size == 1600


def test_a_body_without_end_is_too_large_by_default(
    web: Web, fetcher: MakeFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "ENDLESS", 300_000)
    web.routes["/a"] = endless()
    web.routes["/announced"] = content(bytes(400_000))
    bad, good = fetch_all(fetcher(tries=3), web.url("/a"), web.url("/announced"))
    assert bad.failure is not None and bad.failure.reason is Reason.TOO_LARGE
    assert len(web.requests("/a")) == 1
    assert len(good.data) == 400_000, "what announces its length is no endless body"


@pytest.mark.parametrize("length", ["1000000000001", "9" * 18, "9" * 30, "9" * 5000])
def test_a_length_that_nobody_means_is_too_large(web: Web, fetcher: MakeFetcher, length: str) -> None:
    web.routes["/a"] = raw(OK + f"Content-Length: {length}\r\n\r\nabc".encode())
    (sink,) = fetch_all(fetcher(tries=1), web.url("/a"))
    assert sink.failure is not None and sink.failure.reason is Reason.TOO_LARGE


def test_the_defaults_end_what_does_not_end_by_itself() -> None:
    default = FetchOptions()
    assert (default.stall_timeout, default.least_speed, default.total_timeout) == (30, 100, 86_400)
    assert (default.limit(None), default.limit(10)) == (10**10, 10**12)
    assert FetchOptions(max_size=5).limit(None) == FetchOptions(max_size=5).limit(9) == 5


@pytest.mark.parametrize(("rate", "speed"), [(None, 100), (10**6, 100), (6400, 25), (100, 1)])
def test_a_rate_of_ours_makes_no_stall(rate: int | None, speed: int) -> None:
    assert FetchOptions(connections=64, rate=rate).least_speed == speed


LIES = {
    "two lengths": (OK + b"Content-Length: 3\r\nContent-Length: 5\r\n\r\nabcde", Reason.REJECTED),
    "a length below none": (OK + b"Content-Length: -3\r\n\r\nabc", Reason.REJECTED),
    "a chunk larger than numbers": (CHUNKED + b"FFFFFFFFFFFFFFFFFF\r\nabc", Reason.TRUNCATED),
    "a chunk below none": (CHUNKED + b"-5\r\nabc", Reason.TRUNCATED),
    "no last chunk": (CHUNKED + b"3\r\nabc\r\n", Reason.TRUNCATED),
    "more announced than sent": (OK + b"Content-Length: 9\r\n\r\nabc", Reason.TRUNCATED),
    "no http": (b"<html>and no more", Reason.REJECTED),
    "a status below 100": (b"HTTP/1.1 000 X\r\n\r\nabc", Reason.REJECTED),
    "a coding nobody asked for": (
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n%x\r\n" % len(BOMB) + BOMB + b"\r\n0\r\n\r\n",
        Reason.REJECTED,
    ),
}
if not OLD:
    LIES |= {
        "nul in a field": (OK + b"X: a\0b\r\nContent-Length: 1\r\n\r\na", Reason.REJECTED),
        "http of tomorrow": (b"HTTP/7.1 200 X\r\n\r\nabc", Reason.REJECTED),
    }


@pytest.mark.parametrize("kind", LIES)
def test_an_answer_that_contradicts_itself_is_no_file(web: Web, fetcher: MakeFetcher, kind: str) -> None:
    answer, reason = LIES[kind]
    web.routes["/a"] = raw(answer)
    (sink,) = fetch_all(fetcher(tries=1), web.url("/a"))
    assert sink.failure is not None and sink.failure.reason is reason


@pytest.mark.parametrize("late", [False, True])
def test_a_body_longer_than_announced_does_not_spill_into_the_next(
    web: Web, fetcher: MakeFetcher, late: bool
) -> None:
    """Given a rest that comes with the body, or once its connection is idle, I expect a clean next file."""
    ended, sent = threading.Event(), threading.Event()

    def lie(request: Request, reply: Reply) -> None:
        rest = b"and the rest of it"
        reply.raw(OK + b"Content-Length: 3\r\n\r\nabc" + (b"" if late else rest))
        if late and ended.wait(10):
            reply.raw(rest)
        sent.set()

    web.routes["/lie"] = lie
    web.routes["/next"] = content(b"next")
    engine = fetcher(per_host=1)
    (sink,) = fetch_all(engine, web.url("/lie"))
    assert bytes(sink.data) == b"abc"
    ended.set()
    assert sent.wait(10)
    (sink,) = fetch_all(engine, web.url("/next"))
    assert bytes(sink.data) == b"next" and sink.body is not None


def test_cookies_and_passwords_lying_about_are_not_sent(
    web: Web, fetcher: MakeFetcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password hush\n")
    web.routes["*"] = content(b"x", set_cookie="a=b")
    engine = fetcher()
    fetch_all(engine, web.url("/a"))
    fetch_all(engine, web.url("/b"))
    assert not web.requests("/b")[0].fields.keys() & {"cookie", "authorization", "referer"}


def test_credentials_that_a_redirect_brings_are_sent_within_their_origin_only(
    web: Web, fetcher: MakeFetcher
) -> None:
    """Given a host that names a password of its own, and one that names another host's, I expect one sent."""
    with Web() as other:
        web.routes["/a"] = redirect(web.url("/b").replace("//", "//me:hush@"))
        web.routes["/b"] = redirect("/c")
        web.routes["/c"] = redirect(other.url("/d").replace("//", "//me:hush@"))
        other.routes["/d"] = redirect(web.url("/e"))
        web.routes["/e"] = content(b"x")
        (sink,) = fetch_all(fetcher(), web.url("/a"))
        assert sink.head is not None and "hush" not in sink.head.url
        sent = ["authorization" in request.fields for request in (*web.log[:3], *other.log, *web.log[3:])]
        assert sent == [False, True, True, False, False]


@pytest.mark.parametrize("port", ["same", "other"])
def test_another_port_is_another_origin(web: Web, fetcher: MakeFetcher, port: str) -> None:
    with Web() as other:
        there = web if port == "same" else other
        web.routes["/a"] = redirect(there.url("/b"))
        there.routes["/b"] = content(b"x")
        secrets = {"authorization": "Bearer x", "cookie": "a=b", "x-api-key": "k", "private-token": "t"}
        fetch_all(fetcher(headers=tuple(secrets.items())), web.url("/a"))
        assert len(secrets.keys() & there.requests("/b")[0].fields.keys()) == (4 if port == "same" else 0)


def test_line_ends_in_a_redirect_stay_escaped(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = redirect("/b%0d%0aX-Evil:%201%00")
    web.routes["*"] = content(b"x")
    fetch_all(fetcher(), web.url("/a"))
    assert web.log[1].path.lower() == "/b%0d%0ax-evil:%201%00"
    assert "x-evil" not in web.log[1].fields


@pytest.mark.parametrize("target", ["/b\rX-Evil: 1", "/b\x00", "/b\x0bc", "http://127.0.0.1\x00.h/"])
def test_control_characters_in_a_redirect_are_refused(web: Web, fetcher: MakeFetcher, target: str) -> None:
    web.routes["/a"] = redirect(target)
    (sink,) = fetch_all(fetcher(), web.url("/a"))
    assert sink.failure is not None and sink.failure.reason is Reason.REJECTED
    assert len(web.log) == 1


@pytest.mark.parametrize(
    "scheme", ["file", "gopher", "dict", "ftp", "ldap", "smb", "data", "javascript", "ws"]
)
def test_only_http_and_https_are_followed(web: Web, fetcher: MakeFetcher, scheme: str) -> None:
    web.routes["/a"] = redirect(f"{scheme}://127.0.0.1:{web.port}/b")
    by_redirect, at_once = fetch_all(fetcher(), web.url("/a"), f"{scheme}://127.0.0.1:{web.port}/b")
    for sink in (by_redirect, at_once):
        assert sink.failure is not None and sink.failure.reason is Reason.REJECTED
    assert web.connections == 1


@pytest.mark.slow
def test_a_stuck_connection_is_not_used_for_the_next_attempt(web: Web, fetcher: MakeFetcher) -> None:
    """Given HTTP/2 over one connection that a stalled answer holds, I expect the others to get another."""
    web.routes["/stuck"] = raw_stall
    web.routes["/next"] = content(b"next")
    stuck, other = fetch_all(
        fetcher(http="h2c", tries=2, stall_timeout=1, per_host=1), web.url("/stuck"), web.url("/next")
    )
    assert stuck.failure is not None and stuck.failure.reason is Reason.TIMEOUT
    assert bytes(other.data) == b"next"


def raw_stall(request: Request, reply: Reply) -> None:
    reply.head(200, {})
    reply.stall()
