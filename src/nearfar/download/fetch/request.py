"""The fields of a request, its cookies, and its proxies.

Cookies are kept across the redirects of one URL (RFC 6265), and dropped after the last redirect: many servers
set a cookie, redirect, and continue only if the client returns it. Cookies are not shared between URLs. Pure.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from nearfar.download.fetch.content import ACCEPTED
from nearfar.download.fetch.credentials import GivenCookie
from nearfar.download.fetch.headers import http_date
from nearfar.download.fetch.options import FetchOptions
from nearfar.download.model import Saved
from nearfar.download.patterns import compile_lazily
from nearfar.download.urls import Url, UrlError, ascii_host

HARMLESS = frozenset({"accept", "accept-encoding", "accept-language", "user-agent"})
"""Fields sent to other origins. Any other may be a secret (Authorization, Cookie, X-Api-Key, ...)."""


class RequestFields:
    """A user's fields as header lines; built once, shared by all requests without fields of their own."""

    def __init__(self, options: FetchOptions) -> None:
        self.jar = CookieJar(options.cookies)
        self.cookies = Cookies(self.jar)
        """Of a request without received ones."""
        self._logins = {login.host: (login.user, login.password) for login in options.logins}
        self.plain = not (options.expect or options.decode or options.digest or options.rate)
        """No option requires more of a response than completeness."""
        named = {name.lower() for name, _ in options.headers}
        fields = list(options.headers)
        if "user-agent" not in named:
            fields.append(("User-Agent", options.user_agent))
        if options.decode:
            fields.append(("Accept-Encoding", ACCEPTED))
        self.own = [_line(name, value) for name, value in fields]
        """For the origin of the given URL."""
        self.foreign = [_line(name, value) for name, value in fields if name.lower() in HARMLESS]
        """For an origin reached by a redirect."""
        self._own_login = "authorization" in named
        self.conditional = not named.isdisjoint(("if-none-match", "if-modified-since"))
        """A user's own fields make each request conditional."""

    def login(self, url: Url, *, own_origin: bool) -> tuple[str, str] | None:
        """The user name and password for `url`. `own_origin`: it has the origin of the listed URL, where a
        user's own Authorization field comes first. Any other was chosen by a server: it gets the login only
        over https."""
        if not self._logins or (self._own_login if own_origin else url.scheme != "https"):
            return None
        found = self._logins.get(_host_of(url).strip("[]"))
        return self._logins.get("") if found is None and own_origin else found


def with_userinfo(lines: list[bytes], userinfo: tuple[str, str]) -> list[bytes]:
    """`lines` with basic authentication (RFC 7617, as UTF-8), in place of any other Authorization."""
    kept = [line for line in lines if not line.lower().startswith(b"authorization")]
    coded = b64encode(":".join(userinfo).encode("utf-8", "surrogateescape"))
    return [*kept, b"Authorization: Basic " + coded]


def with_cookie(lines: list[bytes], cookie: str) -> list[bytes]:
    """`lines` with `cookie` after a user's own cookies: a request has one Cookie field (RFC 6265, 5.4)."""
    own = [line for line in lines if line.lower().startswith(b"cookie:")]
    kept = [line for line in lines if line not in own]
    said = [line.partition(b":")[2].strip() for line in own]
    return [*kept, b"Cookie: " + b"; ".join((*said, cookie.encode("latin-1", "replace")))]


def resume(start: int, validator: str) -> list[bytes]:
    """The lines that request the bytes from `start`, if the file still has this `validator`."""
    return [b"Range: bytes=%d-" % start, _line("If-Range", validator)]


def unless_changed(saved: Saved, *, by_date: bool) -> list[bytes]:
    """The lines that request a file only if there is another version than the `saved` one (RFC 9110, 13.1);
    none if its server sent no validator. `by_date`: a date may tell, too."""
    lines = []
    if saved.etag and ENTITY_TAG.fullmatch(saved.etag):
        lines.append(_line("If-None-Match", saved.etag))
    if by_date and saved.modified and http_date(saved.modified) is not None:
        lines.append(_line("If-Modified-Since", saved.modified))
    return lines


ENTITY_TAG = compile_lazily(r'(W/)?"[\x21\x23-\x7e\x80-\xff]*"')


def _line(name: str, value: str) -> bytes:
    # libcurl interprets "Name:" as "do not send the field", and "Name;" as an empty value.
    return f"{name}: {value}".encode("latin-1") if value else f"{name};".encode("ascii")


MOST = 50
"""Cookies of one redirect chain."""
LONGEST = 4096
"""Characters of one cookie, name and value."""
MOST_SENT = 8000
"""Characters of all cookies of one request: servers refuse longer fields."""
CONTROL = compile_lazily(r"[\x00-\x08\x0a-\x1f\x7f]")
NUMBER = compile_lazily(r"-?[0-9]{1,18}")
ADDRESS = compile_lazily(r"\[.*\]|[0-9.]+")


def _fits(cookie: GivenCookie, url: Url, host: str, path: str) -> bool:
    if cookie.secure and url.scheme != "https":
        return False
    if host != cookie.domain and (cookie.host_only or not host.endswith(f".{cookie.domain}")):
        return False
    return path == cookie.path or path.startswith(
        cookie.path if cookie.path.endswith("/") else f"{cookie.path}/"
    )


class CookieJar:
    """The cookies that a user has given, by domain."""

    def __init__(self, cookies: Iterable[GivenCookie] = ()) -> None:
        self._by_domain: dict[str, list[GivenCookie]] = {}
        for cookie in cookies:
            self._by_domain.setdefault(cookie.domain, []).append(cookie)

    def __bool__(self) -> bool:
        return bool(self._by_domain)

    def of(self, host: str) -> Iterator[GivenCookie]:
        """Those for `host` or a domain above it."""
        if not self._by_domain:
            return
        yield from self._by_domain.get(host, ())
        if not ADDRESS.fullmatch(host):
            while host := host.partition(".")[2]:
                yield from self._by_domain.get(host, ())


class Cookies:
    """The cookies received in one redirect chain, and those of `jar`, which they replace."""

    def __init__(self, jar: CookieJar | None = None) -> None:
        self._jar = jar or CookieJar()
        self._kept: dict[tuple[str, str, str], GivenCookie | None] = {}
        """By name, domain and path; None for one that the server has dropped."""

    def take(self, values: list[str], url: Url, now: float) -> None:
        """Store the Set-Cookie fields of the response from `url`. `now`: seconds since the epoch."""
        for value in values:
            self._take(value, url, now)

    def field(self, url: Url) -> str | None:
        """The value of the Cookie field for a request to `url`; None for none."""
        if not self._kept and not self._jar:
            return None
        host, path = _host_of(url), url.split()[1]
        given = (each for each in self._jar.of(host) if (each.name, each.domain, each.path) not in self._kept)
        kept = (each for each in self._kept.values() if each is not None)
        fitting = [cookie for cookie in (*given, *kept) if _fits(cookie, url, host, path)]
        # Longer paths first; the sort is stable, so earlier cookies stay first (5.4).
        fitting.sort(key=lambda cookie: -len(cookie.path))
        said, size = [], 0
        for cookie in fitting:
            pair = f"{cookie.name}={cookie.value}" if cookie.name else cookie.value
            size += len(pair) + 2
            if size > MOST_SENT:
                break
            said.append(pair)
        return "; ".join(said) or None

    def _take(self, text: str, url: Url, now: float) -> None:
        pair, _, rest = text.partition(";")
        name, equals, value = pair.partition("=")
        name, value = (name.strip(), value.strip()) if equals else ("", name.strip())
        if not (name or value) or len(name) + len(value) > LONGEST or CONTROL.search(pair):
            return
        told = _attributes(rest)
        host, path = _host_of(url), told.get("path", "")
        domain = told.get("domain", "").lstrip(".").lower()
        if domain and domain != host and not _may_set(host, domain):
            return
        if not path.startswith("/") or CONTROL.search(path):
            path = url.split()[1].rpartition("/")[0] or "/"
        secure = "secure" in told
        if secure and url.scheme != "https":
            return
        if name.startswith("__Secure-") and not secure:
            return
        if name.startswith("__Host-") and (not secure or domain or path != "/"):
            return
        key = (name, domain or host, path)
        self._kept.pop(key, None)
        if len(self._kept) < MOST:
            cookie = GivenCookie(name, value, domain or host, not domain, path, secure)
            self._kept[key] = None if _over(told, now) else cookie


def _attributes(text: str) -> dict[str, str]:
    told: dict[str, str] = {}
    for part in text.split(";"):
        name, _, value = part.partition("=")
        told[name.strip().lower()] = value.strip()
    return told


def _may_set(host: str, domain: str) -> bool:
    """True if a host may set cookies for its parent `domain`. Not for a top-level domain; public suffixes
    with a dot (``co.uk``) are not recognised, which does little harm within one redirect chain."""
    return "." in domain and host.endswith(f".{domain}") and not ADDRESS.fullmatch(host)


def _over(told: dict[str, str], now: float) -> bool:
    """True if the cookie must be dropped."""
    age = told.get("max-age", "")
    if NUMBER.fullmatch(age):
        return int(age) <= 0
    expires = http_date(told.get("expires"))
    return expires is not None and expires <= now


def _host_of(url: Url) -> str:
    return url.host.rpartition(":")[0]


VARIABLES = {
    "http": ("http_proxy", "all_proxy", "ALL_PROXY"),
    "https": ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"),
}
"""The variables that libcurl reads, in this order."""
EXCEPTIONS = ("no_proxy", "NO_PROXY")
PLACE = compile_lazily(r"((?:[A-Za-z0-9]+://)?(?:[^/@]*@)?)([^/:@\[\]]+)(.*)", re.DOTALL)


def proxies_in_ascii(environment: Mapping[str, str]) -> dict[str, str]:
    """The proxy of each scheme, ``""`` for none; empty if libcurl can read the environment itself."""
    found = {scheme: _first(environment, names) for scheme, names in VARIABLES.items()}
    if all(map(str.isascii, found.values())):
        return {}
    return {scheme: _place(text) for scheme, text in found.items()}


def exceptions_in_ascii(environment: Mapping[str, str]) -> str | None:
    """The hosts without a proxy; None if libcurl can read the environment itself."""
    said = _first(environment, EXCEPTIONS)
    if said.isascii():
        return None
    return ",".join(map(_name, re.split(r"[,\s]+", said)))


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next(filter(None, map(environment.get, names)), "")


def _place(text: str) -> str:
    match = PLACE.fullmatch(text)
    return text if match is None else f"{match[1]}{_name(match[2])}{match[3]}"


def _name(name: str) -> str:
    """The ASCII form; `name` itself if it is no host name: then libcurl reports that it is not found."""
    with suppress(UrlError):
        return ascii_host(name)
    return name
