"""Cookies among the redirects of one URL (RFC 6265). Pure; they are forgotten with the last redirect.

Many a server sets one, redirects, and goes on only if it comes back. No cookie of one URL is sent for
another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nearfar.download.fetch.headers import http_date
from nearfar.download.urls import Url

__all__ = ["Cookies"]

MOST = 50
"""Cookies of one chain of redirects."""
LONGEST = 4096
"""Characters of one, name and value."""
MOST_SENT = 8000
"""Characters of all that are sent with a request: servers refuse longer fields."""
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
NUMBER = re.compile(r"-?[0-9]{1,18}")
ADDRESS = re.compile(r"\[.*\]|[0-9.]+")


@dataclass(frozen=True, slots=True)
class _Cookie:
    name: str
    value: str
    domain: str
    host_only: bool
    path: str
    secure: bool

    def fits(self, url: Url, host: str, path: str) -> bool:
        if self.secure and url.scheme != "https":
            return False
        if host != self.domain and (self.host_only or not host.endswith(f".{self.domain}")):
            return False
        return path == self.path or path.startswith(self.path if self.path.endswith("/") else f"{self.path}/")


class Cookies:
    """Those that came so far in one chain of redirects."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str, str], _Cookie] = {}

    def take(self, values: list[str], url: Url, now: float) -> None:
        """Keep what the Set-Cookie fields of the answer from `url` say. `now`: seconds since the epoch."""
        for value in values:
            self._take(value, url, now)

    def field(self, url: Url) -> str | None:
        """The value of the Cookie field for a request to `url`; None for none."""
        if not self._kept:
            return None
        host, path = _name(url), url.split()[1]
        fitting = [cookie for cookie in self._kept.values() if cookie.fits(url, host, path)]
        # Longer paths first; Python's sort keeps the order of those set earlier (5.4).
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
        host, path = _name(url), told.get("path", "")
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
        if not _over(told, now) and len(self._kept) < MOST:
            self._kept[key] = _Cookie(name, value, domain or host, not domain, path, secure)


def _attributes(text: str) -> dict[str, str]:
    told: dict[str, str] = {}
    for part in text.split(";"):
        name, _, value = part.partition("=")
        told[name.strip().lower()] = value.strip()
    return told


def _may_set(host: str, domain: str) -> bool:
    """True if a host may speak for `domain`, above its own. Not for a whole top-level domain; what is as wide
    but has a dot (``co.uk``) is not known here, and does little harm within one chain of redirects."""
    return "." in domain and host.endswith(f".{domain}") and not ADDRESS.fullmatch(host)


def _over(told: dict[str, str], now: float) -> bool:
    """True if the cookie is to be forgotten."""
    age = told.get("max-age", "")
    if NUMBER.fullmatch(age):
        return int(age) <= 0
    expires = http_date(told.get("expires"))
    return expires is not None and expires <= now


def _name(url: Url) -> str:
    return url.host.rpartition(":")[0]
