"""The fields of a request: all of them to the origin that was asked, the harmless ones to any other."""

from __future__ import annotations

from base64 import b64encode

from nearfar.download.fetch.decoding import ACCEPTED
from nearfar.download.fetch.options import FetchOptions

__all__ = ["RequestFields", "resume", "with_cookie", "with_userinfo"]

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


def with_userinfo(lines: list[bytes], userinfo: tuple[str, str]) -> list[bytes]:
    """`lines` with basic authentication (RFC 7617, as UTF-8) in place of any other."""
    kept = [line for line in lines if not line.lower().startswith(b"authorization")]
    coded = b64encode(":".join(userinfo).encode("utf-8", "surrogateescape"))
    return [*kept, b"Authorization: Basic " + coded]


def with_cookie(lines: list[bytes], cookie: str) -> list[bytes]:
    """`lines` with `cookie` behind a user's own cookies: a request has one Cookie field (RFC 6265, 5.4)."""
    own = [line for line in lines if line.lower().startswith(b"cookie:")]
    kept = [line for line in lines if line not in own]
    said = [line.partition(b":")[2].strip() for line in own]
    return [*kept, b"Cookie: " + b"; ".join((*said, cookie.encode("latin-1", "replace")))]


def resume(start: int, validator: str) -> list[bytes]:
    """The lines that ask for the bytes from `start`, if the file is still the one with this `validator`."""
    return [b"Range: bytes=%d-" % start, _line("If-Range", validator)]


def _line(name: str, value: str) -> bytes:
    # libcurl takes "Name:" for "send no such field", and "Name;" for an empty value.
    return f"{name}: {value}".encode("latin-1") if value else f"{name};".encode("ascii")
