"""The fields of a request: all of them to the origin that was asked, the harmless ones to any other."""

from __future__ import annotations

from base64 import b64encode

from nearfar.download.fetch.decoding import ACCEPTED
from nearfar.download.fetch.options import FetchOptions

__all__ = ["RequestFields", "basic", "resume"]

HARMLESS = frozenset({"accept", "accept-encoding", "accept-language", "user-agent"})
"""Any other field a user adds may be a secret (Authorization, Cookie, X-Api-Key, ...)."""


class RequestFields:
    """A user's fields as header lines; built once, shared by all requests that add none."""

    def __init__(self, options: FetchOptions) -> None:
        named = {name.lower() for name, _ in options.headers}
        fields = list(options.headers)
        if "user-agent" not in named:
            fields.append(("User-Agent", options.user_agent))
        if options.decode:
            fields.append(("Accept-Encoding", ACCEPTED))
        self.own = [_line(name, value) for name, value in fields]
        """For the origin of the URL as it was given."""
        self.foreign = [_line(name, value) for name, value in fields if name.lower() in HARMLESS]
        """For an origin that a redirect led to."""


def basic(userinfo: tuple[str, str]) -> bytes:
    """The line of basic authentication (RFC 7617, as UTF-8)."""
    return b"Authorization: Basic " + b64encode(":".join(userinfo).encode("utf-8", "surrogateescape"))


def resume(start: int, etag: str) -> list[bytes]:
    """The lines that ask for the bytes from `start`, if the file is still the one called `etag`."""
    return [b"Range: bytes=%d-" % start, _line("If-Range", etag)]


def _line(name: str, value: str) -> bytes:
    # libcurl takes "Name:" for "send no such field", and "Name;" for an empty value.
    return f"{name}: {value}".encode("latin-1") if value else f"{name};".encode("ascii")
