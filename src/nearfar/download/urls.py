"""Parses, joins, compares and prints the URLs that nearfar accepts.

Only http and https. A URL is parsed once, here, and rebuilt from its checked parts, so that no other parser
(libcurl's, a proxy's) can find another host in the same text.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote, unquote_to_bytes

from nearfar.download.patterns import compile_lazily
from nearfar.errors import NearfarError

PARTS = ("scheme", "userinfo", "host", "port", "path", "query")
PORTS = {"http": 80, "https": 443}
URL = compile_lazily(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://"
    r"(?:(?P<userinfo>[^/?#\\]*)@)?(?P<host>\[[0-9a-f:.]+\]|[^/?#@:\[\]]+)(?::(?P<port>[0-9]{0,5}))?"
    r"(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?(?:#.*)?",
    re.IGNORECASE,
)
ABSOLUTE = compile_lazily(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
REFERENCE = compile_lazily(r"([^?#]*)(\?[^#]*)?(?:#.*)?")
"""Path and query of a reference without scheme and authority."""
CONTROL = compile_lazily(r"[\x00-\x1f\x7f-\x9f]")
CONTROL_BYTE = compile_lazily(r"[\x00-\x1f\x7f]")
"""Control characters in a field that may hold UTF-8: bytes above 0x7f are parts of characters."""
HOST = compile_lazily(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_.])?")
LONGEST_NAME = 253
"""Bytes of a host name in ASCII, without a final dot (RFC 1035)."""
PLAIN = compile_lazily(r"[!#$%&'()*+,/:;=?@\[\]~\w.-]*", re.ASCII)
"""Text that `quote` would return unchanged; this check takes a third of its time."""
AS_IS = "!#$%&'()*+,/:;=?@[]~"
"""Characters that `quote` leaves unchanged: reserved ones, and the percent sign of escapes."""
NORMAL = compile_lazily(r"https?://[a-z0-9_.-]+(?::[1-9][0-9]{0,4})?/[!$&'()*+,/:;=?@~\w.-]*", re.ASCII)
"""A URL that `resource` need not parse, except for dot segments and default ports."""
ESCAPE = compile_lazily(r"%([0-9A-Fa-f]{2})")
UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class UrlError(NearfarError, ValueError):
    """A URL that cannot be fetched; the message has the reason, and no secrets."""


class Url(NamedTuple):
    """An absolute URL that may be fetched."""

    text: str
    """ASCII, without userinfo, fragment, dot segments and default port."""
    scheme: str
    host: str
    """``name:port`` or ``[address]:port``, always with the port."""
    userinfo: tuple[str, str] | None = None
    """Name and password, decoded; never part of `text`."""

    @property
    def origin(self) -> tuple[str, str]:
        """Scheme, and host with port: what RFC 6454 calls the origin."""
        return self.scheme, self.host

    def split(self) -> tuple[str, str, str]:
        """`text` in three parts: scheme and authority; path, from its slash; query, with its mark."""
        start = self.text.index("/", len(self.scheme) + 3)
        path, mark, query = self.text[start:].partition("?")
        return self.text[:start], path, mark + query


def parse_url(text: str) -> Url:
    """Parse an absolute http or https URL; raises `UrlError`.

    Spaces and characters outside ASCII in path and query are percent-encoded (as UTF-8), and dot segments
    are removed (RFC 3986, 5.2.4). A host may be percent-encoded; one outside ASCII is converted by
    `ascii_host`. Everything else stays unchanged.
    """
    if NORMAL.fullmatch(text) and "/." not in text:
        scheme, _, rest = text.partition("://")
        host, _, path = rest.partition("/")
        name, _, digits = host.partition(":")
        authority, place = _authority(scheme, name, digits)
        return Url(text if authority == host else f"{scheme}://{authority}/{path}", scheme, place)
    text = text.strip(" ")
    if CONTROL.search(text):
        raise UrlError("control characters in the URL")
    if not text.isascii():
        try:
            text.encode(errors="surrogateescape")
        except UnicodeError:
            raise UrlError("characters in the URL that are no Unicode text") from None
    match = URL.fullmatch(text)
    if match is None:
        raise UrlError("not a URL of the form http://host/path or https://host/path")
    scheme, userinfo, host, digits, path, query = match.group(*PARTS)
    scheme = scheme.lower()
    if scheme not in PORTS:
        raise UrlError(f"scheme {scheme}: only http and https are fetched")
    authority, place = _authority(scheme, host, digits)
    rest = _without_dots(path or "/") + (query or "")
    if not PLAIN.fullmatch(rest):
        rest = quote(rest, safe=AS_IS, errors="surrogateescape")
    return Url(f"{scheme}://{authority}{rest}", scheme, place, _userinfo(userinfo))


def join_url(base: Url, location: str) -> Url:
    """Resolve a Location field relative to `base` (RFC 3986, 5.2); raises `UrlError`.

    `location` is the field as HTTP libraries return it, ISO 8859-1; bytes outside ASCII are escaped, and read
    as UTF-8 in a host. A scheme without an authority (``http:x``) is refused.
    """
    if CONTROL_BYTE.search(location):
        raise UrlError("control characters in the redirect's target")
    target = quote(location.strip().encode("latin-1", "replace"), safe=AS_IS)
    if ABSOLUTE.match(target):
        return parse_url(target)
    if target.startswith("//"):
        return parse_url(f"{base.scheme}:{target}")
    match = REFERENCE.fullmatch(target)
    assert match is not None, "every text without control characters is a reference"
    path, query = match.groups(default="")
    authority, base_path, base_query = base.split()
    if not path:
        path, query = base_path, query or base_query
    elif not path.startswith("/"):
        path = f"{base_path.rpartition('/')[0]}/{path}"
    return parse_url(f"{authority}{path}{query}")


def resource(text: str) -> str:
    """A canonical form, equal for all URLs that name the same resource; `text` itself if it is no URL.

    The rules of RFC 3986, 6.2.2 and 6.2.3: case of scheme and host, the default port, an empty path, dot
    segments, unnecessary escapes, the case of the others; and no fragment, which is never sent to a server.
    User and password stay. Never raises: a URL that cannot be fetched fails elsewhere.
    """
    if NORMAL.fullmatch(text) and not ("/." in text or ":80/" in text or ":443/" in text):
        return text
    try:
        url = parse_url(text)
    except UrlError:
        return text
    match = URL.fullmatch(text.strip(" "))
    userinfo = match["userinfo"] if match else None
    scheme, _, rest = url.text.partition("://")
    return f"{scheme}://{f'{userinfo}@' if userinfo else ''}{ESCAPE.sub(_normal_escape, rest)}"


def one_line(text: str, most: int = 300) -> str:
    """`text` as one printable line of at most `most` characters."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    line = " ".join(printable.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def ascii_host(name: str) -> str:
    """A host name for the lookup: UTS 46, non-transitional, which is IDNA 2008 after a mapping.

    So ``straße.example`` is not ``strasse.example``, as in current browsers and curl. Symbols (emoji) are
    accepted, as by UTS 46. Labels in ASCII stay unchanged, but in lower case. Raises `UrlError`.
    """
    if name.isascii():
        return name.lower()
    try:
        import idna
    except ImportError:
        hint = "a host name outside ASCII needs the package idna: pip install 'nearfar[download]'"
        raise UrlError(hint) from None
    try:
        mapped = idna.uts46_remap(name, std3_rules=False)
        return ".".join(_label(label) for label in mapped.split("."))
    except (idna.IDNAError, UnicodeError):
        raise UrlError("the host is no valid internationalised name") from None


def _label(label: str) -> str:
    import idna

    if label.isascii():
        return label
    try:
        return idna.alabel(label).decode("ascii")
    except idna.InvalidCodepoint:
        # `uts46_remap` accepted it, so it is a symbol that UTS 46 allows. The other rules apply, too.
        idna.check_hyphen_ok(label)
        idna.check_initial_combiner(label)
        idna.check_bidi(label)
        if "\u200c" in label or "\u200d" in label:
            raise
    encoded = "xn--" + label.encode("punycode").decode("ascii")
    if len(encoded) > 63:
        raise UrlError("a part of the host name is longer than 63 bytes")
    return encoded


@lru_cache(maxsize=1024)
def _authority(scheme: str, host: str, digits: str | None) -> tuple[str, str]:
    """Host and port as they appear in a URL, and always with the port."""
    host = _host(host.lower())
    port = int(digits) if digits else PORTS[scheme]
    if not 0 < port < 65536:
        raise UrlError(f"no port has the number {port}")
    return host if port == PORTS[scheme] else f"{host}:{port}", f"{host}:{port}"


def _host(host: str) -> str:
    """A host in ASCII, an IPv6 address in brackets."""
    if HOST.fullmatch(host):
        return host
    if host.startswith("["):
        import ipaddress  # rarely needed

        try:
            return f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            raise UrlError("the host is no IPv6 address") from None
    if "%" in host:
        try:
            host = unquote_to_bytes(host).decode("utf-8")
        except UnicodeError:
            raise UrlError("the host is no valid internationalised name") from None
    name = ascii_host(host)
    if not HOST.fullmatch(name):
        raise UrlError("the host holds characters that no host name has")
    if not host.isascii() and len(name.rstrip(".")) > LONGEST_NAME:
        raise UrlError(f"the host name is longer than {LONGEST_NAME} bytes")
    return name


def _without_dots(path: str) -> str:
    """`path`, absolute, without its dot segments, escaped ones included."""
    if "/." not in path and "/%2" not in path:
        return path
    kept: list[str] = []
    for segment in path.split("/")[1:]:
        plain = segment.replace("%2e", ".").replace("%2E", ".")
        if plain not in (".", ".."):
            kept.append(segment)
        elif plain == ".." and kept:
            kept.pop()
    if plain in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def _normal_escape(match: re.Match[str]) -> str:
    character = chr(int(match[1], 16))
    return character if character in UNRESERVED else match[0].upper()


def _userinfo(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    name, _, password = text.partition(":")
    return unquote(name), unquote(password)
