"""Redirects: bounded, to http and https only, never down from https, and no secrets to others."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nearfar.download.fetch.curl_handle import Handle
from nearfar.download.fetch.transfer import Transfer
from nearfar.download.model import Reason
from tests.download.fetch.conftest import MakeFetcher
from tests.support.routes import content, in_turn, raw, redirect, status
from tests.support.sinks import Remembered, fetch_all
from tests.support.tls import Tls
from tests.support.web import Web

SECRETS = (("Authorization", "Bearer x"), ("Cookie", "a=b"), ("X-Api-Key", "k"), ("Accept", "image/*"))


def refused(sink: Remembered, word: str) -> bool:
    assert sink.failure is not None
    return sink.failure.reason is Reason.REJECTED and word in sink.failure.detail


@pytest.mark.parametrize("code", [300, 301, 302, 303, 307, 308])
def test_a_redirect_is_followed(web: Web, fetcher: MakeFetcher, code: int) -> None:
    web.routes["/old"] = redirect("new%20place?x=1#there", code)
    web.routes["/new%20place"] = content(b"here")
    (sink,) = fetch_all(fetcher(), web.url("/old"))
    assert bytes(sink.data) == b"here"
    assert sink.head is not None and sink.head.url == web.url("/new%20place?x=1")
    assert sink.body is not None and sink.body.attempts == 1
    assert web.connections == 1


def test_a_target_outside_ascii_is_escaped(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/old"] = redirect("/ä b")
    web.routes["/%C3%A4%20b"] = content(b"here")
    (sink,) = fetch_all(fetcher(), web.url("/old"))
    assert bytes(sink.data) == b"here"


def test_a_loop_of_redirects_is_refused(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"], web.routes["/b"] = redirect("/b"), redirect("/a")
    (sink,) = fetch_all(fetcher(redirects=4), web.url("/a"))
    assert refused(sink, "more than 4 redirects")
    assert len(web.log) == 5


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/", "http://"]
)
def test_a_redirect_to_another_scheme_or_nowhere_is_refused(
    web: Web, fetcher: MakeFetcher, target: str
) -> None:
    web.routes["/a"] = redirect(target)
    (sink,) = fetch_all(fetcher(), web.url("/a"))
    assert refused(sink, "redirect not followed")


@pytest.mark.parametrize("code", [304, 305, 306, 399])
def test_what_is_no_redirect_is_not_followed(web: Web, fetcher: MakeFetcher, code: int) -> None:
    web.routes["/a"], web.routes["/b"] = redirect("/b", code), content(b"here")
    (sink,) = fetch_all(fetcher(), web.url("/a"))
    assert refused(sink, f"HTTP {code}") and len(web.log) == 1


def test_of_two_targets_the_first_is_followed(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = raw(b"HTTP/1.1 302 F\r\nContent-Length: 0\r\nLocation: /b\r\nLocation: /c\r\n\r\n")
    web.routes["/b"] = content(b"here")
    (sink,) = fetch_all(fetcher(), web.url("/a"))
    assert bytes(sink.data) == b"here"


@pytest.mark.parametrize("host", ["12%37.0.0.1", "\uff11\uff12\uff17.0.0.1", "127\u30020\u30020\uff0e1"])
def test_a_host_may_be_escaped_or_in_utf_8(web: Web, fetcher: MakeFetcher, host: str) -> None:
    """The test's server sends what it is given as UTF-8."""
    web.routes["/a"] = redirect(f"http://{host}:{web.port}/stra\u00dfe")
    web.routes["/stra%C3%9Fe"] = content(b"here")
    (sink,) = fetch_all(fetcher(), web.url("/a"))
    assert bytes(sink.data) == b"here"
    assert web.log[1].fields["host"] == f"127.0.0.1:{web.port}"


def test_a_host_outside_ascii_is_asked_for_by_one_name_everywhere(
    web: Web, fetcher: MakeFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a proxy, which sees the names: in the list, in a redirect, in the Host field."""
    monkeypatch.setenv("http_proxy", web.url("/"))
    web.routes["http://xn--strae-oqa.example/"] = redirect("http://fa\u00df.example/x")
    web.routes["http://xn--fa-hia.example/x"] = content(b"here")
    (sink,) = fetch_all(fetcher(), "http://stra\u00dfe.example/")
    assert bytes(sink.data) == b"here"
    assert [request.fields["host"] for request in web.log] == ["xn--strae-oqa.example", "xn--fa-hia.example"]
    assert sink.head is not None and sink.head.url == "http://xn--fa-hia.example/x"


@pytest.mark.parametrize("host", ["\uff11\uff12\uff17.0.0.1", "me:hush@127\u30020.0.1"])
def test_a_proxy_may_have_a_name_outside_ascii(
    web: Web, fetcher: MakeFetcher, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("http_proxy", f"http://{host}:{web.port}/")
    web.routes["http://nowhere.example/"] = content(b"here")
    (sink,) = fetch_all(fetcher(), "http://nowhere.example/")
    assert bytes(sink.data) == b"here"
    assert ("proxy-authorization" in web.log[0].fields) is ("@" in host)


def test_a_host_that_is_asked_without_a_proxy_is_known_by_any_spelling(
    web: Web, fetcher: MakeFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", web.url("/"))
    monkeypatch.setenv("no_proxy", "nowhere.example, \uff11\uff12\uff17.0.0.1")
    with Web() as direct:
        direct.routes["/"] = content(b"direct")
        (sink,) = fetch_all(fetcher(), direct.url("/"))
    assert bytes(sink.data) == b"direct" and not web.log


def test_a_target_that_libcurl_does_not_take_fails_alone(
    web: Web, fetcher: MakeFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: Handle, transfer: Transfer, host: str, was: Callable[..., None] = Handle.load) -> None:
        if transfer.url.text.endswith("/odd"):
            raise ValueError("odd")
        was(self, transfer, host)

    monkeypatch.setattr(Handle, "load", load)
    web.routes["/a"] = redirect("/odd")
    web.routes["/b"] = content(b"x")
    bad, good = fetch_all(fetcher(connections=1), web.url("/a"), web.url("/b"))
    assert refused(bad, "ValueError: odd") and bytes(good.data) == b"x"


def test_cookies_come_back_along_the_redirects_of_one_url(web: Web, fetcher: MakeFetcher) -> None:
    """Given a user's own cookie, a page that sets one and redirects to itself, and another origin."""
    with Web() as other:
        web.routes["/a"] = in_turn(
            status(302, {"Location": "/a", "Set-Cookie": "s=1; Path=/a; HttpOnly"}), redirect("/a/b")
        )
        web.routes["/a/b"] = status(302, {"Location": "/c", "Set-Cookie": "t=2; Path=/"})
        web.routes["/c"] = redirect(other.url("/d", "localhost"))
        other.routes["/d"] = content(b"here")
        engine = fetcher(headers=(("Cookie", "own=0"),))
        (sink,) = fetch_all(engine, web.url("/a"))
        assert bytes(sink.data) == b"here"
        sent = [request.fields.get("cookie") for request in (*web.log, *other.log)]
        assert sent == ["own=0", "own=0; s=1", "own=0; s=1", "own=0; t=2", None]
        web.log.clear()
        fetch_all(engine, web.url("/c"))
        assert web.log[0].fields.get("cookie") == "own=0", "another URL knows nothing of them"


def test_a_redirect_without_a_target_is_refused(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = status(302)
    (sink,) = fetch_all(fetcher(), web.url("/a"))
    assert refused(sink, "HTTP 302")


def test_a_redirect_from_https_to_http_is_refused(
    web: Web, secure_web: Web, tls: Tls, fetcher: MakeFetcher
) -> None:
    secure_web.routes["/a"] = redirect(web.url("/plain?token=s3cret"))
    (sink,) = fetch_all(fetcher(ca_file=tls.ca_file), secure_web.url("/a"))
    assert refused(sink, "from https to http")
    assert sink.failure is not None and "s3cret" not in sink.failure.detail
    assert not web.log


def test_a_redirect_from_http_to_https_is_followed(
    web: Web, secure_web: Web, tls: Tls, fetcher: MakeFetcher
) -> None:
    web.routes["/a"] = redirect(secure_web.url("/b"))
    secure_web.routes["/b"] = content(b"here")
    (sink,) = fetch_all(fetcher(ca_file=tls.ca_file), web.url("/a"))
    assert bytes(sink.data) == b"here"


def test_secrets_stay_with_their_origin(web: Web, fetcher: MakeFetcher) -> None:
    with Web() as other:
        web.routes["/a"] = redirect("/b")
        web.routes["/b"] = redirect(other.url("/c"))
        other.routes["/c"] = redirect(web.url("/d"))
        web.routes["/d"] = content(b"here")
        url = web.url("/a").replace("//", "//user:password@")
        fetch_all(fetcher(headers=SECRETS[1:]), url)
        kept = web.requests("/b")[0].fields
        assert kept["cookie"] == "a=b" and kept["authorization"].startswith("Basic ")
        # Nor do they come back when the way leads home: by then a stranger has chosen it.
        for fields in (other.requests("/c")[0].fields, web.requests("/d")[0].fields):
            assert not fields.keys() & {"authorization", "cookie", "x-api-key"}
            assert fields["accept"] == "image/*" and "nearfar" in fields["user-agent"]


def test_the_next_file_has_the_secrets_again(web: Web, fetcher: MakeFetcher) -> None:
    with Web() as other:
        web.routes["/a"] = redirect(other.url("/b"))
        web.routes["/c"] = content(b"x")
        other.routes["/b"] = content(b"x")
        engine = fetcher(headers=SECRETS)
        fetch_all(engine, web.url("/a"))
        fetch_all(engine, web.url("/c"))
        assert web.requests("/c")[0].fields["authorization"] == "Bearer x"


def test_a_redirect_answered_by_an_error_fails_as_that_error(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = redirect("/gone")
    (sink,) = fetch_all(fetcher(), web.url("/a"))
    assert sink.failure is not None and sink.failure.reason is Reason.HTTP_4XX
