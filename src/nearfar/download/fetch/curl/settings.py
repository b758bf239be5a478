"""The options of an easy handle that are the same for all of its requests."""

from __future__ import annotations

import os
import ssl

from nearfar.download.fetch.options import FetchOptions
from nearfar.download.fetch.proxies import exceptions_in_ascii

try:
    import pycurl
except ImportError as error:
    raise ImportError("downloading needs pycurl: pip install 'nearfar[download]'") from error

__all__ = ["configure", "pycurl"]

VERSIONS = {
    "auto": pycurl.CURL_HTTP_VERSION_2TLS,
    "1.1": pycurl.CURL_HTTP_VERSION_1_1,
    "h2c": pycurl.CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE,
}

CODED = 16 * 1024
"""Bytes taken at a time where they may have to be decoded."""


def configure(curl: pycurl.Curl, options: FetchOptions) -> None:
    """Set what `options` say. Redirects and cookies are ours: libcurl's are left off."""
    setopt = curl.setopt
    setopt(pycurl.NOSIGNAL, 1)
    # `urls.py` lets nothing else through; this is for the day when it has a hole.
    setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
    setopt(pycurl.HTTP_VERSION, VERSIONS[options.http])
    # What is decoded comes whole: as much at a time must fit into memory a thousandfold.
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
        # A proxy would look names up, and connect, out of our sight. Else its variables are honoured.
        setopt(pycurl.PROXY, "")
    elif (hosts := exceptions_in_ascii(os.environ)) is not None:
        setopt(pycurl.NOPROXY, hosts)
    _configure_tls(curl, options)


def _configure_tls(curl: pycurl.Curl, options: FetchOptions) -> None:
    curl.setopt(pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2)
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
