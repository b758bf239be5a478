"""One libcurl easy handle, kept and reused: its options, and the callbacks that feed a transfer."""

from __future__ import annotations

import ssl
import time

from nearfar.download.fetch.headers import parse_head
from nearfar.download.fetch.options import FetchOptions
from nearfar.download.fetch.policy import Throttle
from nearfar.download.fetch.transfer import Transfer
from nearfar.download.fetch.trouble import Trouble, from_curl
from nearfar.download.model import Reason

try:
    import pycurl
except ImportError as error:
    raise ImportError("downloading needs pycurl: pip install 'nearfar[download]'") from error

__all__ = ["Handle", "pycurl"]

VERSIONS = {
    "auto": pycurl.CURL_HTTP_VERSION_2TLS,
    "1.1": pycurl.CURL_HTTP_VERSION_1_1,
    "h2c": pycurl.CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE,
}
ABORT = -1
UNWANTED = frozenset({Reason.REFUSED, Reason.TOO_LARGE})
DISCARDED_AT_MOST = 64 * 1024
"""Bytes of an unwanted body that are read so that its connection can be used again."""


class Handle:
    """An easy handle and the transfer it works for.

    Two callbacks a file, no more: heads are gathered by `list.append` itself and read once, with the
    body's first bytes.
    """

    def __init__(self, options: FetchOptions, throttle: Throttle) -> None:
        self.curl = pycurl.Curl()
        self.transfer: Transfer | None = None
        self.host = ""
        self.paused = False
        """The sink asked for a pause."""
        self.held = False
        """libcurl was told so, and keeps bytes that wait."""
        self._throttle = throttle
        self._error: BaseException | None = None
        self._discarded = 0
        self._lines: list[bytes] = []
        self._fields: list[bytes] | None = None
        self._http = options.http
        self._sharing = False
        self._answered = False
        self._taking = False
        _configure(self.curl, options)
        self.curl.setopt(pycurl.HEADERFUNCTION, self._lines.append)
        self.curl.setopt(pycurl.WRITEFUNCTION, self._write)

    def load(self, transfer: Transfer, host: str) -> None:
        """Make the handle ready for the transfer's next request, counted at `host`."""
        self.transfer, self.host = transfer, host
        self.paused = self.held = self._answered = self._taking = False
        self._discarded = 0
        self._lines.clear()
        self.curl.setopt(pycurl.URL, transfer.url.text)
        self._share(self._http == "h2c" or (self._http == "auto" and transfer.url.scheme == "https"))
        fields = transfer.request()
        if fields is not self._fields:
            self.curl.setopt(pycurl.HTTPHEADER, fields)
            self._fields = fields

    def conclude(self, code: int, message: str) -> Trouble | None:
        """The request is over with libcurl's `code` (0: well): what the connection has to say about it.

        Judges a head that no body followed. Raises what the sink raised on the way.
        """
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        # An interim answer (1xx) before a cut is none; where libcurl takes it for the last one, it is judged.
        if not self._answered and (not code or self.curl.getinfo(pycurl.RESPONSE_CODE) >= 200):
            self._answer()
        return from_curl(code, message, self._answered) if code else None

    def unpause(self) -> int:
        """Let the bytes come again; those that wait come now.

        Returns libcurl's code: 0, or why the request ended over the bytes that waited.
        """
        self.paused = False
        if self.held:
            self.held = False
            try:
                self.curl.pause(pycurl.PAUSE_CONT)
            except pycurl.error as error:
                return int(error.args[0])
        return 0

    def close(self) -> None:
        self.transfer = None
        self.curl.close()

    def _share(self, wanted: bool) -> None:
        """Wait for a connection under way that may turn out to speak HTTP/2, instead of opening another.

        Not where it cannot: libcurl would let all requests to the host wait for the first one's answer.
        """
        if wanted is not self._sharing:
            self.curl.setopt(pycurl.PIPEWAIT, int(wanted))
            self._sharing = wanted

    def _write(self, data: bytes) -> int | None:
        """libcurl's write callback: None takes the bytes, `ABORT` ends the request."""
        if self.paused:
            self.held = True
            pause: int = pycurl.WRITEFUNC_PAUSE
            return pause
        try:
            return self._feed(data)
        except BaseException as error:
            # Nothing can be raised through libcurl: `conclude` does it.
            self._error = error
            return ABORT

    def _feed(self, data: bytes) -> int | None:
        transfer = self.transfer
        assert transfer is not None
        if not self._answered:
            self._answer()
        self._throttle.spend(len(data))
        if not self._taking:
            # A refused file is not worth its bytes; the small body of an error or a redirect is.
            refused = transfer.trouble is not None and transfer.trouble.reason in UNWANTED
            self._discarded += len(data)
            return ABORT if refused or self._discarded > DISCARDED_AT_MOST else None
        if not transfer.take(data):
            if transfer.trouble is not None:
                return ABORT
            self.paused = True
        return None

    def _answer(self) -> None:
        assert self.transfer is not None
        self._answered = True
        self._taking = self.transfer.answered(parse_head(self._lines), time.time())


def _configure(curl: pycurl.Curl, options: FetchOptions) -> None:
    """What is the same for all requests. Proxy variables are honoured by libcurl itself."""
    setopt = curl.setopt
    setopt(pycurl.NOSIGNAL, 1)
    setopt(pycurl.HTTP_VERSION, VERSIONS[options.http])
    setopt(pycurl.BUFFERSIZE, options.buffer_size)
    setopt(pycurl.CONNECTTIMEOUT_MS, max(1, int(options.connect_timeout * 1000)))
    setopt(pycurl.LOW_SPEED_LIMIT, options.stall_speed)
    setopt(pycurl.LOW_SPEED_TIME, options.stall_timeout)
    if options.total_timeout is not None:
        setopt(pycurl.TIMEOUT_MS, max(1, int(options.total_timeout * 1000)))
    if options.rate is not None:
        setopt(pycurl.MAX_RECV_SPEED_LARGE, options.rate)
        setopt(pycurl.BUFFERSIZE, max(1024, min(options.buffer_size, options.rate // 16)))
    _configure_tls(curl, options)


def _configure_tls(curl: pycurl.Curl, options: FetchOptions) -> None:
    if options.insecure:
        curl.setopt(pycurl.SSL_VERIFYPEER, 0)
        curl.setopt(pycurl.SSL_VERIFYHOST, 0)
        return
    # The libcurl of a wheel looks where its builder's system kept authorities; Python knows this system's.
    paths = ssl.get_default_verify_paths()
    ca_file = options.ca_file or paths.cafile
    if ca_file is not None:
        curl.setopt(pycurl.CAINFO, str(ca_file))
    if options.ca_file is None and paths.capath is not None:
        curl.setopt(pycurl.CAPATH, paths.capath)
