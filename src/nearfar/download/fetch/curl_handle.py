"""One libcurl easy handle, kept and reused: its options, and the callbacks that feed a transfer."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any

from nearfar.download.fetch.base import HEAD_AT_MOST, Trouble, from_curl, too_large_head
from nearfar.download.fetch.headers import parse_head
from nearfar.download.fetch.options import FetchOptions
from nearfar.download.fetch.request import exceptions_in_ascii, proxies_in_ascii
from nearfar.download.fetch.transfer import Throttle, Transfer
from nearfar.download.model import Reason

__all__ = ["Handle", "configure", "pycurl", "shut_connection"]


try:
    import pycurl
except ImportError as error:
    raise ImportError("downloading needs pycurl: pip install 'nearfar[download]'") from error


VERSIONS = {
    "auto": pycurl.CURL_HTTP_VERSION_2TLS,
    "1.1": pycurl.CURL_HTTP_VERSION_1_1,
    "h2c": pycurl.CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE,
}

CODED = 16 * 1024
"""Bytes read at a time where they may have to be decoded."""


def configure(curl: pycurl.Curl, options: FetchOptions) -> None:
    """Set `options`. We handle redirects and cookies ourselves: libcurl's are disabled."""
    setopt = curl.setopt
    setopt(pycurl.NOSIGNAL, 1)
    # `nearfar.download.urls` allows nothing else; this is a second line of defence.
    setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
    setopt(pycurl.HTTP_VERSION, VERSIONS[options.http])
    # A buffer is decoded whole: its size times a thousand must fit into memory.
    setopt(pycurl.BUFFERSIZE, min(options.buffer_size, CODED) if options.decode else options.buffer_size)
    setopt(pycurl.CONNECTTIMEOUT_MS, max(1, int(options.connect_timeout * 1000)))
    setopt(pycurl.LOW_SPEED_LIMIT, options.least_speed)
    setopt(pycurl.LOW_SPEED_TIME, options.stall_timeout)
    if options.total_timeout is not None:
        setopt(pycurl.TIMEOUT_MS, max(1, int(options.total_timeout * 1000)))
    if options.rate is not None:
        setopt(pycurl.MAX_RECV_SPEED_LARGE, options.rate)
        setopt(pycurl.BUFFERSIZE, max(1024, min(options.buffer_size, options.rate // 16)))
    if options.no_private:
        # A proxy would resolve and connect out of our control. Otherwise its variables are honoured.
        setopt(pycurl.PROXY, "")
    elif options.proxy is not None:
        setopt(pycurl.PROXY, options.proxy)
        setopt(pycurl.NOPROXY, "")
    elif (hosts := exceptions_in_ascii(os.environ)) is not None:
        setopt(pycurl.NOPROXY, hosts)


def configure_tls(curl: pycurl.Curl, options: FetchOptions) -> None:
    """Set the TLS options: at the first URL that needs TLS."""
    import ssl

    curl.setopt(pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2)
    if options.insecure:
        curl.setopt(pycurl.SSL_VERIFYPEER, 0)
        curl.setopt(pycurl.SSL_VERIFYHOST, 0)
        return
    # A wheel's libcurl has the certificate paths of its build system; Python has those of this system.
    paths = ssl.get_default_verify_paths()
    ca_file = options.ca_file or paths.cafile
    if ca_file is not None:
        curl.setopt(pycurl.CAINFO, str(ca_file))
    if options.ca_file is None and paths.capath is not None:
        curl.setopt(pycurl.CAPATH, paths.capath)


def shut_connection(descriptor: int, port: int) -> None:
    """End an idle connection of libcurl with this local port. libcurl notices that later, at the latest when
    it sends on it (see `Handle.stale`).

    Nothing happens if libcurl has closed it: the descriptor may be of another file by now.
    """
    import socket  # needed where limits are shared, and by --no-private

    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
        name = connection.getsockname()
        if isinstance(name, tuple) and name[1] == port:
            connection.shutdown(socket.SHUT_RDWR)


ABORT = -1
ABORTED = 23
"""libcurl's code for a transfer that the callback ended."""
UNWANTED = frozenset({Reason.REJECTED, Reason.TOO_LARGE})
COULD_NOT_CONNECT = 7
HEAD_ERRORS = frozenset({8, 23, 56})
"""libcurl's codes for an abandoned head: by libcurl, after 300 kB or 5,000 lines, or by our callback."""
HEADS_BOUNDED = pycurl.version_info()[2] >= 0x080300
DISCARDED_AT_MOST = 64 * 1024
"""Bytes of an unwanted body that are read so that its connection can be reused."""


class Lent:
    """A socket for pycurl, which duplicates the object given (before 7.46, it accepts no plain number)."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def __del__(self) -> None:
        os.close(self._descriptor)


class Handle:
    """An easy handle and its present transfer.

    `list.append` itself gathers heads and bodies, so no Python code runs inside libcurl. `CurlFetcher`
    calls `look` often, so that little is gathered.
    """

    def __init__(self, options: FetchOptions, throttle: Throttle) -> None:
        self.curl = pycurl.Curl()
        self.transfer: Transfer | None = None
        self.host = ""
        self.paused = False
        """The sink asked for a pause."""
        self.pieces: list[bytes] = []
        """Pieces of the body that were not passed on yet; each has 16 KiB at most."""
        # What must be decoded is passed on piece by piece: each may grow much.
        self._decodes = options.decode
        self._options = options
        self._spend = throttle.spend
        self._error: BaseException | None = None
        self._discarded = 0
        self._lines: list[bytes] = []
        self._head_size = 0
        self._fields: list[bytes] | None = None
        self._http = options.http
        self._proxies = (
            {} if options.no_private or options.proxy is not None else proxies_in_ascii(os.environ)
        )
        self._answered = False
        self._taking = False
        self._barred: str | None = None
        self._configure()

    def _configure(self) -> None:
        """Set what all transfers have in common, on a new handle or one that was reset."""
        self._sharing = self._fresh = self._secure = self._certified = False
        self._fields = None
        configure(self.curl, self._options)
        self.curl.setopt(pycurl.HEADERFUNCTION, self._lines.append if HEADS_BOUNDED else self._gather)
        self.curl.setopt(pycurl.WRITEFUNCTION, self.pieces.append)
        if self._options.no_private:
            self.curl.setopt(pycurl.OPENSOCKETFUNCTION, self._open)

    def load(self, transfer: Transfer, host: str) -> None:
        """Prepare the handle for the transfer's next request, which `host`'s limit counts."""
        self.transfer, self.host = transfer, host
        self.paused = self._answered = self._taking = False
        self._discarded = self._head_size = 0
        self._barred = None
        self.pieces.clear()
        self._lines.clear()
        if self._certified and not transfer.own_origin:
            # The certificate is for the origin of the listed URL; pycurl cannot unset it alone.
            self.curl.reset()
            self._configure()
        url = transfer.url
        self.curl.setopt(pycurl.URL, url.text)
        shared = self._http == "h2c" or (self._http == "auto" and url.scheme == "https")
        if shared is not self._sharing:
            self._share(shared)
        if transfer.fresh is not self._fresh:
            self.curl.setopt(pycurl.FRESH_CONNECT, int(transfer.fresh))
            self._fresh = transfer.fresh
        if not self._secure and url.scheme == "https":
            configure_tls(self.curl, self._options)
            self._secure = True
        if (cert := self._options.cert_file) is not None and transfer.own_origin and not self._certified:
            self.curl.setopt(pycurl.SSLCERT, str(cert))
            self.curl.setopt(pycurl.SSLKEY, str(self._options.key_file or cert))
            self._certified = True
        if self._proxies:
            self.curl.setopt(pycurl.PROXY, self._proxies[url.scheme])
        fields = transfer.request()
        if fields is not self._fields:
            self.curl.setopt(pycurl.HTTPHEADER, fields)
            self._fields = fields

    def look(self) -> bool:
        """Pass on what was gathered. False if the request must end: then `conclude` raises the exception
        of the sink. If the sink asks for a pause, `paused` is set, and the rest stays gathered."""
        assert self.transfer is not None
        try:
            if not self._answered:
                self._answer()
            if not self._taking:
                return self._discard()
            pieces = self.pieces
            while pieces:
                if self._decodes or len(pieces) == 1:
                    data = pieces.pop(0)
                else:
                    data = b"".join(pieces)
                    pieces.clear()
                self._spend(len(data))
                if not self.transfer.take(data):
                    self.paused = self.transfer.trouble is None
                    return self.paused
        except BaseException as error:
            self._error = error
            return False
        return True

    def plain(self) -> bool:
        """The request succeeded, and nothing was passed on yet: pass it on, unless a special case applies."""
        transfer = self.transfer
        return not self._answered and transfer is not None and transfer.plain(self._lines, self.pieces)

    def conclude(self, code: int, message: str) -> Trouble | None:
        """The request ended with libcurl's `code` (0: success): return the connection's failure, or None.

        Evaluates a head without a body. Raises the exception of the sink, if there was one.
        """
        while self.pieces and self.look():
            pass
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        # Ignore an interim response (1xx) before a cut; if libcurl takes it as the final one, evaluate it.
        if not self._answered and (not code or self.curl.getinfo(pycurl.RESPONSE_CODE) >= 200):
            self._answer()
        if code == COULD_NOT_CONNECT and self._barred is not None:
            return Trouble(Reason.REJECTED, f"{self._barred} is no public address (--no-private)")
        if not code:
            return None
        if code in HEAD_ERRORS and sum(map(len, self._lines)) > HEAD_AT_MOST:
            return too_large_head()
        return from_curl(code, message, self._answered, reused=not self.curl.getinfo(pycurl.NUM_CONNECTS))

    def stale(self) -> bool:
        """The request used an open connection, and nothing came back: that one was closed meanwhile."""
        return not (self._answered or self._lines or self.pieces or self.curl.getinfo(pycurl.NUM_CONNECTS))

    def local_port(self) -> int:
        """The local port of the present connection, or of the last one."""
        return int(self.curl.getinfo(pycurl.LOCAL_PORT))

    def opened(self) -> tuple[int, int] | None:
        """The local port and the descriptor of the connection that the request has opened; None if it used
        an open one, or has closed it. Call it before the handle is removed."""
        if not self.curl.getinfo(pycurl.NUM_CONNECTS):
            return None
        port, descriptor = self.local_port(), int(self.curl.getinfo(pycurl.LASTSOCKET))
        return (port, descriptor) if port > 0 and descriptor >= 0 else None

    def pause(self) -> None:
        """Pause receiving. The transfer must not be over."""
        self.curl.pause(pycurl.PAUSE_RECV)

    def unpause(self) -> int:
        """Resume receiving; return libcurl's code: 0, or why the request ended meanwhile."""
        self.paused = False
        try:
            self.curl.pause(pycurl.PAUSE_CONT)
        except pycurl.error as error:
            return int(error.args[0])
        return 0

    def close(self) -> None:
        self.transfer = None
        self.curl.close()

    def _open(self, purpose: int, address: Any) -> int | Lent:
        """Open libcurl's socket for exactly the resolved address to which it connects.

        So no second name lookup can change the address between check and use. A connection that is reused was
        checked when it was opened.
        """
        import socket

        from nearfar.download.public import is_public

        family, kind, protocol, place = address
        if family not in (socket.AF_INET, socket.AF_INET6) or not is_public(place[0]):
            self._barred = str(place[0])
            return int(pycurl.SOCKET_BAD)
        try:
            return Lent(socket.socket(family, kind, protocol).detach())
        except OSError:
            return int(pycurl.SOCKET_BAD)

    def _gather(self, line: bytes) -> int | None:
        """The header callback for libcurl before 8.3, which does not limit the size of heads."""
        self._lines.append(line)
        self._head_size += len(line)
        return ABORT if self._head_size > HEAD_AT_MOST else None

    def _share(self, wanted: bool) -> None:
        """Wait for a connection being opened that may use HTTP/2, instead of opening another.

        Only where HTTP/2 is possible: otherwise libcurl delays all requests to the host until the first
        response.
        """
        self.curl.setopt(pycurl.PIPEWAIT, int(wanted))
        self._sharing = wanted

    def _discard(self) -> bool:
        """Whether to read the unwanted body and reuse the connection: that of an error, not of a refused
        file."""
        trouble = None if self.transfer is None else self.transfer.trouble
        size = sum(map(len, self.pieces))
        self.pieces.clear()
        self._spend(size)
        self._discarded += size
        refused = trouble is not None and trouble.reason in UNWANTED
        return not refused and self._discarded <= DISCARDED_AT_MOST

    def _answer(self) -> None:
        assert self.transfer is not None
        self._answered = True
        try:
            answer = parse_head(self._lines)
        except Exception as error:
            self._taking = self.transfer.stumble(error)
        else:
            self._taking = self.transfer.answered(answer, time.time())
