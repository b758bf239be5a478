"""Every setting of a fetcher, with its unit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from nearfar import __version__
from nearfar.download.fetch.credentials import GivenCookie, Login
from nearfar.download.patterns import compile_lazily

TOKEN = compile_lazily(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
OURS = frozenset(
    {"accept-encoding", "connection", "content-length", "if-range", "range", "te", "transfer-encoding"}
)
"""Fields that select the bytes sent; a user's value would break resumption or the length check."""
ANNOUNCED_AT_MOST = 10**12
"""Bytes, the default `max_size` where a length is announced: a terabyte."""
ENDLESS = 10**10
"""Bytes, the default `max_size` where no length is announced: a longer body counts as endless."""
MOST_CONNECTIONS = 500
"""`select` supports 1,024 descriptors, and an HTTP/1.1 transfer may hold two while it connects."""


class _FetchOptions(NamedTuple):
    """How to fetch: the fields of `FetchOptions`, unchecked."""

    connections: int = 64
    """Transfers at a time, over all hosts (1 to 500)."""
    per_host: int = 16
    """Transfers at a time to one host and port; over HTTP/2 they share one connection. Of all processes
    together, if the fetcher shares its limits (`Fetcher.share`)."""
    host_rate: float | None = None
    """Requests per second to one host and port, likewise; None: no limit."""

    connect_timeout: float = 20.0
    """Seconds for name lookup, connection and TLS handshake together."""
    stall_timeout: int = 30
    """Seconds that a transfer may stay below `stall_speed`, by libcurl's average over about the last five;
    a pause by the sink does not count (with libcurl 7.61 it does)."""
    stall_speed: int = 100
    """Bytes per second: below the slowest usable line, above what a server sends that only keeps a connection
    open. Lower where the share of `rate` for each of `connections` is less."""
    total_timeout: float | None = 86_400.0
    """Seconds for one request from start to last byte, pauses included; None: no limit. A file that takes
    longer is resumed by the next attempt, if the server sends a validator."""

    tries: int = 5
    """Attempts per URL before it fails. Not counted: redirects, attempts that the server deferred, and
    attempts whose bytes the next one can continue."""
    backoff: float = 0.5
    """Seconds: the longest wait before the second attempt; doubled for each later one."""
    backoff_cap: float = 60.0
    """Seconds: the longest wait before any attempt."""
    retry_after_cap: float = 300.0
    """Seconds: the longest that a server's Retry-After pauses its host."""
    wait_for_host: float = 600.0
    """Seconds that a URL waits for a host that only sends 429 or 503 with Retry-After, and for which one URL
    may be deferred in total. Such a wait uses no attempt."""
    redirects: int = 10
    """Redirects followed per attempt."""

    max_size: int | None = None
    """Bytes a file may have; None: `ANNOUNCED_AT_MOST` where its length is announced, else `ENDLESS`."""
    expect: tuple[str, ...] = ()
    """Patterns such as ``image/*``, one of which the media type must match; empty: any type. If the server
    sends none, or a generic one, the file's first bytes decide."""
    rate: int | None = None
    """Bytes per second over all transfers; None: no limit."""

    decode: bool = False
    """Request gzip and deflate, and save the decoded body. Otherwise every body is saved as sent."""
    digest: bool = False
    """Compute SHA-256 of every file, to compare it where it is saved. False: only where a job or a server
    names a digest; the store computes it anyway, and nothing in between can change the bytes."""
    no_private: bool = False
    """Connect to public addresses only (`public.is_public`), whatever a name or a redirect resolves to, and
    to no proxy."""
    headers: tuple[tuple[str, str], ...] = ()
    """Fields sent with every request. After a redirect to another origin, only those in
    `request.HARMLESS`."""
    user_agent: str = f"nearfar/{__version__}"
    proxy: str | None = None
    """The proxy of every request, as a URL; empty: none; None: what the environment says."""
    http: Literal["auto", "1.1", "h2c"] = "auto"
    """``auto``: HTTP/2 where TLS negotiates it, else 1.1; ``h2c``: HTTP/2 at once, even without TLS."""
    logins: tuple[Login, ...] = ()
    """User names and passwords by host, for URLs without their own; after a redirect to another origin, only
    over https. The one without a host is for the origin of the listed URL only."""
    cookies: tuple[GivenCookie, ...] = ()
    """Cookies sent to the hosts that they are for, also after a redirect."""
    cert_file: Path | None = None
    """PEM file of a client certificate, and its key unless `key_file` has it, for the origin of the listed
    URL only."""
    key_file: Path | None = None
    ca_file: Path | None = None
    """PEM file of the certificate authorities to trust; None: the system's."""
    insecure: bool = False
    """Accept any certificate for any host."""
    buffer_size: int = 256 * 1024
    """Bytes that libcurl reads at a time, about ten times in a row where the server is as fast."""


class FetchOptions(_FetchOptions):
    """How to fetch. Raises `ValueError`, with a message for the user, on an invalid setting."""

    __slots__ = ()

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        self = super().__new__(cls, *args, **settings)
        self._check()
        return self

    def __repr__(self) -> str:
        """Without the fields that may hold secrets."""
        return _FetchOptions.__repr__(self._replace(headers=(), proxy=None, logins=(), cookies=()))

    @property
    def least_speed(self) -> int:
        """Bytes per second below which a transfer is stalled; at most a quarter of its share of the rate."""
        share = self.stall_speed if self.rate is None else self.rate // (4 * self.connections)
        return max(1, min(self.stall_speed, share))

    def limit(self, announced: int | None) -> int:
        """Bytes that a file may have, given its `announced` length (None: not announced)."""
        if self.max_size is not None:
            return self.max_size
        return ENDLESS if announced is None else ANNOUNCED_AT_MOST

    def _check(self) -> None:
        _within("connections", self.connections, 1, MOST_CONNECTIONS)
        for name in ("per_host", "stall_timeout", "stall_speed", "tries"):
            _within(name, getattr(self, name), 1)
        _within("redirects", self.redirects, 0)
        _within("buffer_size", self.buffer_size, 1024, 10 * 1024 * 1024)
        for name in ("connect_timeout", "backoff", "backoff_cap"):
            _positive(name, getattr(self, name))
        for name in ("total_timeout", "rate", "host_rate"):
            if getattr(self, name) is not None:
                _positive(name, getattr(self, name))
        if self.max_size is not None:
            _within("max_size", self.max_size, 0)
        for name in ("retry_after_cap", "wait_for_host"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        if self.http not in ("auto", "1.1", "h2c"):
            raise ValueError("http must be auto, 1.1 or h2c")
        if self.proxy and (not self.proxy.isascii() or not self.proxy.isprintable() or " " in self.proxy):
            raise ValueError("proxy: not a URL")
        if self.proxy and self.no_private:
            raise ValueError("a proxy and no_private exclude each other: a proxy would connect on its own")
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("a key needs its certificate: --cert FILE")
        for name, value in (*self.headers, ("User-Agent", self.user_agent)):
            _check_field(name, value)


def _within(name: str, value: int, least: int, most: int | None = None) -> None:
    if value < least or (most is not None and value > most):
        raise ValueError(f"{name} must be {least} or more" + (f", up to {most}" if most else ""))


def _positive(name: str, value: float) -> None:
    if value <= 0:
        raise ValueError(f"{name} must be more than 0")


def _check_field(name: str, value: str) -> None:
    if not TOKEN.fullmatch(name):
        raise ValueError("a header needs a name of letters, digits and -, as in 'Name: value'")
    if name.lower() in OURS:
        raise ValueError(f"header {name} is set by the fetcher itself")
    if any(c != "\t" and (not " " <= c <= "\xff" or c == "\x7f") for c in value):
        raise ValueError(f"header {name}: the value holds characters that no header may have")
