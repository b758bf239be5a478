"""The interface of fetching: a fetcher, its sinks, and the failures of an attempt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from nearfar.download.model import Body, Failure, Head, HostNow, Job, Partial, Reason, Saved
from nearfar.download.urls import one_line
from nearfar.queues.limits import Claim, Grant


class Sink(Protocol):
    """Receives one transfer. Calls come from the thread that calls `Fetcher.poll`, in this order::

    begin (chunk* | restart begin)* (done | failed | unchanged)      or      failed | unchanged

    A transfer that continues a partial file starts after its bytes, without the first ``begin``.
    """

    def begin(self, head: Head) -> None:
        """A body starts: the response of the final URL, with a status that carries a file."""

    def chunk(self, data: bytes) -> bool:
        """The next bytes, in order. Return False to pause: no more bytes come until `Fetcher.resume`.

        The bytes of that call are accepted, and not repeated.
        """

    def restart(self) -> None:
        """Discard all bytes so far: the file changed, or a retry cannot continue them."""

    def done(self, body: Body) -> None:
        """The body is complete; each length and digest that the server or the job named matches."""

    def failed(self, failure: Failure) -> None:
        """The transfer failed. Bytes given before are void."""

    def unchanged(self) -> None:
        """The server has no other version of the saved file. Bytes given before are void."""


class HostLimits(Protocol):
    """The way of one fetcher to the holder of limits that several processes share (`nearfar.queues.limits`).

    Not thread-safe. The thread that receives for it wakes the fetcher.
    """

    def session(self) -> int:
        """The number of the present session with the holder, from 1; 0 while there is none.

        In each new session, the first claims to send are all that the fetcher has and wants.
        """

    def expired(self) -> bool:
        """The lease has ended, because the holder was not heard: nothing that it granted counts any more."""

    def receive(self) -> Sequence[Grant]:
        """The grants that arrived in the present session since the last call. Never waits."""

    def claim(self, session: int, claims: Sequence[Claim]) -> None:
        """Send claims; they are dropped if `session` has ended meanwhile. Never waits."""

    def due(self) -> float:
        """When to call `receive` although nothing wakes the fetcher (`time.monotonic`)."""


class Fetcher(Protocol):
    """Drives transfers; not thread-safe except `wake`."""

    def share(self, limits: HostLimits) -> None:
        """From now until `cancel` or `close`, share the limits per host with others. Call it before `add`."""

    def add(self, job: Job, sink: Sink, partial: Partial | None = None, saved: Saved | None = None) -> None:
        """Start a transfer, or queue it behind a per-host limit or a parked host.

        `partial`: what the sink has of the file already. If the server does not confirm that it is the
        beginning of the same version, the sink is told to `restart`. `saved`: the file that is saved
        already, to be fetched only if the server has another version.
        """

    def resume(self, sink: Sink) -> None:
        """Undo a pause that `Sink.chunk` asked for."""

    def drop(self, sink: Sink) -> None:
        """Drop one transfer that has not ended, without calling its sink again. Not allowed inside `poll`."""

    def poll(self, timeout: float) -> None:
        """Advance every transfer; return after at most `timeout` seconds, or once something happened."""

    def wake(self) -> None:
        """Make a `poll` in another thread return now."""

    def cancel(self) -> None:
        """Drop every transfer without calling its sink again. Ends sharing, and closes the connections that
        count there; what hosts have asked for is remembered."""

    def give_back(self) -> list[Sink]:
        """Drop the transfers that have no request under way, and return their sinks. Not allowed inside
        `poll`."""

    @property
    def has_capacity(self) -> bool:
        """True if more transfers could start: those that wait are limited by their hosts."""

    def hosts(self) -> list[HostNow]:
        """The hosts with transfers, or with a pause."""

    @property
    def in_flight(self) -> int:
        """Transfers added and not yet ended."""

    def close(self) -> None:
        """Cancel everything and close every connection."""


TRANSIENT_STATUS = frozenset({408, 425, 429})
BUSY_STATUS = frozenset({429, 503})
"""Statuses that ask for fewer requests (RFC 6585, 4; RFC 9110, 15.6.4)."""

# libcurl's error codes; its ABI guarantees the numbers (libcurl-errors(3)).
HEAD_AT_MOST = 256 * 1024
"""Bytes of header fields of one request, of all its responses and trailers together."""
OPERATION_TIMEDOUT = 28
PARTIAL_FILE = 18
DNS = frozenset({5, 6})  # proxy, host
CONNECT = frozenset({7, 45, 97})  # host, local interface, proxy handshake
TLS_BROKEN_OFF = frozenset({35, 80})  # perhaps only the connection
TLS_REFUSED = frozenset({51, 53, 54, 58, 59, 60, 64, 66, 77, 82, 83, 90, 91, 98})
TOO_LARGE = frozenset({100})  # one header field
NO_HTTP = frozenset({1, 8})  # a status line, or a field, that is invalid
CUT = frozenset({16, 18, 52, 55, 56, 92})  # HTTP/2, partial, nothing, send, receive, HTTP/2 stream


class Trouble(NamedTuple):
    """Why one attempt failed, and whether to retry."""

    reason: Reason
    detail: str
    transient: bool = False
    """A later attempt may succeed."""
    retry_after: float | None = None
    """Seconds for which the host asked for no requests."""
    busy: bool = False
    """The host asked for fewer requests."""

    @property
    def paced(self) -> bool:
        """The host named a time to retry: the request was too early, and did not fail."""
        return self.busy and self.retry_after is not None

    def failure(self) -> Failure:
        return Failure(self.reason, one_line(self.detail))


def from_curl(code: int, message: str, answered: bool, *, reused: bool = False) -> Trouble:
    """The failure behind libcurl's error `code`; `answered`: a head was received, so a body was cut off.

    `reused`: the connection had carried another response before.
    """
    detail = message or f"libcurl error {code}"
    if code in DNS:
        return Trouble(Reason.DNS, detail, transient=True)
    if code == OPERATION_TIMEDOUT:
        return Trouble(Reason.TIMEOUT, detail, transient=True)
    if code in CONNECT:
        return Trouble(Reason.CONNECT, detail, transient=True)
    if code in TLS_BROKEN_OFF:
        return Trouble(Reason.TLS, detail, transient=True)
    if code in TLS_REFUSED:
        return Trouble(Reason.TLS, detail)
    if code in CUT:
        cut = answered or code == PARTIAL_FILE
        return Trouble(Reason.TRUNCATED if cut else Reason.CONNECT, detail, transient=True)
    if code in TOO_LARGE:
        return too_large_head()
    # An invalid response may be the rest of a previous one that was longer than announced.
    return Trouble(Reason.REJECTED, detail, transient=reused and code in NO_HTTP)


def unreadable(error: Exception) -> Trouble:
    """The failure for a response that made our own code raise."""
    return Trouble(
        Reason.REJECTED, f"the answer cannot be read ({type(error).__name__}: {one_line(str(error), 80)})"
    )


def too_large_head() -> Trouble:
    """The failure for header fields above the limit."""
    return Trouble(Reason.TOO_LARGE, f"more than {HEAD_AT_MOST} bytes of header fields")


def from_status(status: int, phrase: str, retry_after: float | None) -> Trouble:
    """The failure behind a response that carries no file."""
    detail = one_line(f"HTTP {status} {phrase}", 100)
    busy = status in BUSY_STATUS
    if 400 <= status < 500:
        transient = status in TRANSIENT_STATUS
        return Trouble(Reason.HTTP_4XX, detail, transient, retry_after if transient else None, busy)
    if 500 <= status < 600:
        return Trouble(Reason.HTTP_5XX, detail, True, retry_after, busy)
    return Trouble(Reason.REJECTED, f"{detail}: an answer without a file")
