"""Credentials from files: read correctly, sent to the hosts that they are for, and to no other."""

from __future__ import annotations

import base64
import ssl
from pathlib import Path

import pytest
import trustme

from nearfar.download.fetch.credentials import GivenCookie, Login, read_cookies, read_netrc
from nearfar.download.fetch.options import FetchOptions
from nearfar.download.fetch.request import CookieJar, Cookies
from nearfar.download.model import Reason
from nearfar.download.urls import parse_url
from tests.download.fetch.conftest import MakeFetcher
from tests.support.routes import content, redirect, status
from tests.support.sinks import fetch_all
from tests.support.tls import Tls
from tests.support.web import Web

NOW = 1_000_000.0
COOKIES = """\
# Netscape HTTP Cookie File
.example.org\tTRUE\t/\tFALSE\t0\tsession\ts1
example.org\tFALSE\t/private\tTRUE\t2000000\tsafe\ts2

#HttpOnly_www.example.org\tFALSE\t/\tFALSE\t2000000\thidden\ts3
example.org\tFALSE\t/\tFALSE\t999999\texpired\ts4
org\tTRUE\t/\tFALSE\t0\ttop\ts5
example.org\tFALSE\t/\tFALSE\t0\tempty
"""


def cookie_file(folder: Path, text: str = COOKIES) -> Path:
    path = folder / "cookies.txt"
    path.write_text(text, encoding="latin-1")
    return path


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("http://example.org/", "empty=; session=s1"),
        ("https://example.org/private/x", "safe=s2; empty=; session=s1"),
        ("http://example.org/private/x", "empty=; session=s1"),
        ("https://example.org/privately", "empty=; session=s1"),
        ("http://www.example.org/", "hidden=s3; session=s1"),
        ("http://cdn.example.org:8080/x", "session=s1"),
        ("http://notexample.org/", None),
        ("http://example.org.evil/", None),
        ("http://other.org/", None),
        ("http://org/", "top=s5"),
        ("http://127.0.0.1/", None),
    ],
)
def test_a_cookie_goes_to_the_hosts_and_paths_that_it_is_for(
    url: str, sent: str | None, tmp_path: Path
) -> None:
    jar = CookieJar(read_cookies(cookie_file(tmp_path), NOW))
    said = Cookies(jar).field(parse_url(url))
    assert (said and set(said.split("; "))) == (sent and set(sent.split("; ")))
    assert said is None or said.startswith("safe=") or "safe" not in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("example.org\tFALSE\t/\tFALSE\t0", "line 1 is no cookie in Netscape's format: 7 fields"),
        ("a=b", "line 1 is no cookie"),
        ("example.org\tmaybe\t/\tFALSE\t0\tn\thush", "TRUE or FALSE"),
        ("example.org\tTRUE\t/\tFALSE\tnever\tn\thush", "TRUE or FALSE, and a time"),
        ("\tTRUE\t/\tFALSE\t0\tn\thush", "a domain is missing"),
        ("h\tTRUE\t/\tFALSE\t0\tn\thush; x=y", "a character that no cookie may have"),
        ("h\tTRUE\t/\tFALSE\t0\tn\thush\x01", "a character that no cookie may have"),
    ],
)
def test_a_line_that_is_no_cookie_is_named_without_its_secret(line: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cookies\.txt: line 1") as caught:
        read_cookies(cookie_file(tmp_path, line), NOW)
    assert said in str(caught.value) and "hush" not in str(caught.value)


def test_a_server_replaces_and_drops_given_cookies(web: Web, fetcher: MakeFetcher) -> None:
    cookies = [GivenCookie(name, "given", "127.0.0.1", True, "/", False) for name in ("a", "b", "c")]
    web.routes["/start"] = status(302, {"Location": "/end", "Set-Cookie": "a=new; path=/"})
    web.routes["/end"] = content(b"x")
    web.routes["/drop"] = status(302, {"Location": "/end", "Set-Cookie": "b=; path=/; max-age=0"})
    get = fetcher(cookies=tuple(cookies))
    fetch_all(get, web.url("/start"))
    fetch_all(get, web.url("/drop"))
    sent = [set(request.fields["cookie"].split("; ")) for request in web.requests("/end")]
    assert sent == [{"a=new", "b=given", "c=given"}, {"a=given", "c=given"}]


def test_given_cookies_join_the_users_field_and_do_not_leave_their_host(fetcher: MakeFetcher) -> None:
    with Web() as web, Web(host="127.0.0.2") as other:
        web.routes["/a"] = redirect(f"http://127.0.0.2:{other.port}/b")
        other.routes["/b"] = content(b"x")
        given = (GivenCookie("a", "b", "127.0.0.1", True, "/", False),)
        fetch_all(fetcher(cookies=given, headers=(("Cookie", "own=1"),)), web.url("/a"))
        assert web.log[0].fields["cookie"] == "own=1; a=b"
        assert "cookie" not in other.log[0].fields


# -- netrc -----------------------------------------------------------------------------------------


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def netrc_file(folder: Path, text: str) -> Path:
    path = folder / "netrc"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_a_netrc_is_read(tmp_path: Path) -> None:
    path = netrc_file(tmp_path, "machine Storage login me password hush\n\ndefault login any password x\n")
    assert read_netrc(path) == (Login("storage", "me", "hush"), Login("", "any", "x"))


def test_the_users_own_netrc_is_read_if_nobody_else_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(OSError, match=r"\.netrc"):
        read_netrc(None)
    path = tmp_path / ".netrc"
    path.write_text("machine h login me password hush\n")
    path.chmod(0o644)
    with pytest.raises(ValueError, match=r"~/\.netrc: others can read it.*chmod 600") as caught:
        read_netrc(None)
    assert "hush" not in str(caught.value)
    path.chmod(0o600)
    assert read_netrc(None) == (Login("h", "me", "hush"),)


@pytest.mark.parametrize("text", ["machine h hush\n", "hush\n", "machine h login me\nhush x"])
def test_a_wrong_netrc_is_named_without_its_secrets(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line .* is not what a netrc has there") as caught:
        read_netrc(netrc_file(tmp_path, text))
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "logins", "headers", "sent"),
    [
        ("http://127.0.0.1", {"127.0.0.1": "x"}, (), "x"),
        ("http://127.0.0.1", {"": "d"}, (), "d"),
        ("http://127.0.0.1", {"": "d", "127.0.0.1": "x"}, (), "x"),
        ("http://127.0.0.1", {"other": "x"}, (), None),
        ("http://u:own@127.0.0.1", {"127.0.0.1": "x"}, (), "own"),
        ("http://127.0.0.1", {"127.0.0.1": "x"}, (("Authorization", "Bearer t"),), "Bearer t"),
    ],
)
def test_a_login_is_sent_to_its_host(
    url: str,
    logins: dict[str, str],
    headers: tuple[tuple[str, str], ...],
    sent: str | None,
    web: Web,
    fetcher: MakeFetcher,
) -> None:
    web.routes["/a"] = content(b"x")
    known = tuple(Login(host, "u", password) for host, password in logins.items())
    fetch_all(fetcher(logins=known, headers=headers), f"{url}:{web.port}/a")
    expected = sent if sent is None or " " in sent else basic("u", sent)
    assert web.log[0].fields.get("authorization") == expected


@pytest.mark.parametrize(
    ("logins", "sent"),
    [({"127.0.0.1": "x"}, None), ({"": "d"}, None), ({"127.0.0.1": "x", "127.0.0.2": "y"}, "y")],
)
def test_after_a_redirect_only_that_hosts_own_login_is_sent(
    logins: dict[str, str], sent: str | None, fetcher: MakeFetcher
) -> None:
    with Web() as web, Web(host="127.0.0.2") as other:
        web.routes["/a"] = redirect(f"http://127.0.0.2:{other.port}/b")
        other.routes["/b"] = content(b"x")
        known = tuple(Login(host, "u", password) for host, password in logins.items())
        fetch_all(fetcher(logins=known), web.url("/a"))
        assert "authorization" in web.log[0].fields
        assert other.log[0].fields.get("authorization") == (sent and basic("u", sent))


# -- client certificates ---------------------------------------------------------------------------


class Mutual:
    """Two servers that ask for a client certificate, one of which requires it."""

    def __init__(self, folder: Path) -> None:
        self.tls = Tls.make(folder)
        authority = trustme.CA()
        issued = authority.issue_cert("client@example.org")
        self.both, self.cert, self.key = folder / "both.pem", folder / "cert.pem", folder / "key.pem"
        issued.private_key_and_cert_chain_pem.write_to_path(str(self.both))
        issued.cert_chain_pems[0].write_to_path(str(self.cert))
        issued.private_key_pem.write_to_path(str(self.key))
        self.tls.server.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(self.tls.server)


@pytest.fixture
def mutual(tmp_path: Path) -> Mutual:
    return Mutual(tmp_path)


def test_a_client_certificate_is_shown(mutual: Mutual, fetcher: MakeFetcher) -> None:
    with Web(tls=mutual.tls.server) as web:
        web.routes["*"] = content(b"x")
        for settings in (
            {"cert_file": mutual.both},
            {"cert_file": mutual.cert, "key_file": mutual.key},
        ):
            (sink,) = fetch_all(fetcher(ca_file=mutual.tls.ca_file, **settings), web.url("/a"))
            assert bytes(sink.data) == b"x", sink.failure
        (sink,) = fetch_all(fetcher(ca_file=mutual.tls.ca_file, tries=1), web.url("/a"))
        assert sink.failure is not None


def test_a_client_certificate_is_for_the_origin_of_the_listed_url(
    mutual: Mutual, fetcher: MakeFetcher
) -> None:
    """Given a redirect to another origin that requires a certificate, I expect that it gets none, and that
    the next URL of the first origin gets it again.
    """
    with Web(tls=mutual.tls.server) as web, Web(tls=mutual.tls.server) as other:
        web.routes["/a"] = redirect(other.url("/b"))
        web.routes["/c"] = content(b"x")
        other.routes["/b"] = content(b"stolen")
        get = fetcher(ca_file=mutual.tls.ca_file, cert_file=mutual.both, tries=1, connections=1)
        first, second, third = fetch_all(get, web.url("/a"), web.url("/c"), other.url("/b"))
        assert first.failure is not None and first.failure.reason in (Reason.TLS, Reason.CONNECT)
        assert bytes(second.data) == b"x"
        assert bytes(third.data) == b"stolen", "as a listed URL it gets the certificate"


def test_a_missing_or_wrong_certificate_is_a_tls_failure(mutual: Mutual, fetcher: MakeFetcher) -> None:
    with Web(tls=mutual.tls.server) as web:
        for path in (mutual.both.with_name("none.pem"), mutual.key):
            get = fetcher(ca_file=mutual.tls.ca_file, cert_file=path)
            (sink,) = fetch_all(get, web.url("/a"))
            assert sink.failure is not None and sink.failure.reason is Reason.TLS


def test_a_key_needs_its_certificate() -> None:
    with pytest.raises(ValueError, match="--cert"):
        FetchOptions(key_file=Path("key.pem"))


def test_no_secret_is_in_a_repr() -> None:
    cookie = GivenCookie("n", "hush", "h", True, "/", False)
    assert "hush" not in repr(FetchOptions(logins=(Login("h", "u", "hush"),), cookies=(cookie,)))


def test_a_given_proxy_replaces_those_of_the_environment(
    web: Web, fetcher: MakeFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "*")
    web.routes["*"] = content(b"by proxy")
    (sink,) = fetch_all(fetcher(proxy=f"http://127.0.0.1:{web.port}"), "http://unreachable.invalid/a")
    assert bytes(sink.data) == b"by proxy"
    monkeypatch.delenv("no_proxy")
    (sink,) = fetch_all(fetcher(proxy=""), web.url("/direct"))
    assert bytes(sink.data) == b"by proxy" and web.log[-1].path == "/direct"
