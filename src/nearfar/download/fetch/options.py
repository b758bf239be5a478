"""Every setting of a fetcher, with its unit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from nearfar import __version__
from nearfar.download.patterns import compile_lazily

__all__ = ["FetchOptions"]

TOKEN = compile_lazily(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
OURS = frozenset(
    {"accept-encoding", "connection", "content-length", "if-range", "range", "te", "transfer-encoding"}
)
"""Fields that decide which bytes come; a user's value would break resumption or the length check."""
ANNOUNCED_AT_MOST = 10**12
"""Bytes: a terabyte is rarely wanted, but a server may announce one."""
ENDLESS = 10**10
"""Bytes after which a body of unannounced length is taken for one without an end."""
MOST_CONNECTIONS = 500
"""`select` knows 1,024 descriptors, and an HTTP/1.1 transfer, while it connects, may hold two."""


class _FetchOptions(NamedTuple):
    """How to fetch: `FetchOptions` before it is checked."""

    connections: int = 64
    """Transfers at a time, over all hosts (1 to 500)."""
    per_host: int = 16
    """Transfers at a time to one host and port; over HTTP/2 they share one connection."""

    connect_timeout: float = 20.0
    """Seconds for name, connection and TLS handshake together."""
    stall_timeout: int = 30
    """Seconds that a transfer may stay below `stall_speed`, on libcurl's average over the last five or so;
    a pause of the sink's does not count (for libcurl 7.61 it does)."""
    stall_speed: int = 100
    """Bytes per second: less than the slowest line in use, more than a server that only keeps us waiting
    cares to send. Lower where `rate` does not let each of `connections` have as much."""
    total_timeout: float | None = 86_400.0
    """Seconds for one request from its start to its last byte, a pause included; None: no limit. A file that
    takes longer goes on from there with the next attempt, if its server names its version."""

    tries: int = 5
    """Attempts per URL before it failed. Redirects do not count, nor does an attempt that was put off by the
    server, or that brought bytes from which the next one goes on."""
    backoff: float = 0.5
    """Seconds: the longest wait before the second attempt; doubled for each further one."""
    backoff_cap: float = 60.0
    """Seconds: the longest wait before any attempt."""
    retry_after_cap: float = 300.0
    """Seconds: the longest that a server's Retry-After parks its host."""
    wait_for_host: float = 600.0
    """Seconds that a URL waits for a host that only asks for patience (429 or 503 with Retry-After), and that
    one URL may be put off in all. Waiting so spends no attempt."""
    redirects: int = 10
    """Redirects followed per attempt."""

    max_size: int | None = None
    """Bytes a file may have; None: `ANNOUNCED_AT_MOST` where its length is announced, else `ENDLESS`."""
    expect: tuple[str, ...] = ()
    """Patterns such as ``image/*`` of which the media type must match one; empty: any type. Where a server
    names none, or one that says nothing, the file's first bytes decide."""
    rate: int | None = None
    """Bytes per second over all transfers; None: no limit."""

    decode: bool = False
    """Ask for gzip and deflate, and save what comes of them. Else every body is saved as it was sent."""
    digest: bool = False
    """Count SHA-256 of every file, to be compared where it is saved. False: only where a job or a server
    names a digest, for what saves the file counts it anyhow, and nothing between can change its bytes."""
    no_private: bool = False
    """Connect to public addresses only (`public.is_public`), whatever a name or a redirect says, and to
    no proxy."""
    headers: tuple[tuple[str, str], ...] = ()
    """Fields sent with every request. After a redirect to another origin only the harmless ones still go."""
    user_agent: str = f"nearfar/{__version__}"
    http: Literal["auto", "1.1", "h2c"] = "auto"
    """``auto``: HTTP/2 where TLS negotiates it, else 1.1; ``h2c``: HTTP/2 at once, also without TLS."""
    ca_file: Path | None = None
    """PEM file of the authorities to trust; None: the system's."""
    insecure: bool = False
    """Accept any certificate, of any host."""
    buffer_size: int = 256 * 1024
    """Bytes that libcurl reads at a time, some ten times in a row where the server is as quick."""


class FetchOptions(_FetchOptions):
    """How to fetch. Raises `ValueError`, with a sentence for the user, on a setting that cannot work."""

    __slots__ = ()

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        self = super().__new__(cls, *args, **settings)
        self._check()
        return self

    def __repr__(self) -> str:
        """Without `headers`, which may hold secrets."""
        return _FetchOptions.__repr__(self._replace(headers=()))

    @property
    def least_speed(self) -> int:
        """Bytes per second below which a transfer stalls; at most a quarter of its share of the rate."""
        share = self.stall_speed if self.rate is None else self.rate // (4 * self.connections)
        return max(1, min(self.stall_speed, share))

    def limit(self, announced: int | None) -> int:
        """Bytes that a file may have whose length was `announced`, or not (None)."""
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
        for name in ("total_timeout", "rate"):
            if getattr(self, name) is not None:
                _positive(name, getattr(self, name))
        if self.max_size is not None:
            _within("max_size", self.max_size, 0)
        for name in ("retry_after_cap", "wait_for_host"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        if self.http not in ("auto", "1.1", "h2c"):
            raise ValueError("http must be auto, 1.1 or h2c")
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
