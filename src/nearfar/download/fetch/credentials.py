"""Reads the files in which users keep credentials: netrc, and cookies as browsers and curl write them.

What they hold is sent to matching hosts only, and appears in no message.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

MOST_COOKIES = 10_000
"""Cookies of a file."""
LARGEST = 16 * 1024 * 1024
"""Bytes of a file."""
HTTP_ONLY = "#HttpOnly_"
FIELDS = 7
"""Of a line in a file of cookies: domain, for its subdomains, path, secure, expires, name, value."""


class Login(NamedTuple):
    """A user name and password for one host; for the ``default`` of a netrc, `host` is empty."""

    host: str
    user: str
    password: str


class GivenCookie(NamedTuple):
    """A cookie that a user has given. Not `host_only`: for the subdomains of `domain`, too."""

    name: str
    value: str
    domain: str
    host_only: bool
    path: str
    secure: bool


def read_netrc(path: Path | None) -> tuple[Login, ...]:
    """The logins of a netrc file; None: ``~/.netrc``, which no other user may be able to read.

    Raises `OSError`, and `ValueError`, without a part of the file.
    """
    import netrc  # few downloads have one

    try:
        found = netrc.netrc(None if path is None else str(path))
    except netrc.NetrcParseError as error:
        # The message may hold a word of the file: a password.
        place = path or Path("~/.netrc")
        if "~/.netrc" in str(error.msg) or "permissive" in str(error.msg):
            raise ValueError(
                f"{place}: others can read it, or it belongs to another user: chmod 600"
            ) from None
        raise ValueError(f"{place}: line {error.lineno} is not what a netrc has there") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path or '~/.netrc'}: not text") from None
    return tuple(
        Login("" if host == "default" else host.lower(), user, password or "")
        for host, (user, _, password) in found.hosts.items()
    )


def read_cookies(path: Path, now: float) -> tuple[GivenCookie, ...]:
    """The cookies of a file in Netscape's format that are not expired at `now`, seconds since the epoch.

    Raises `OSError`, and `ValueError` with the number of a line that is no cookie.
    """
    with path.open("rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"{path}: more than {LARGEST >> 20} MiB")
    cookies = []
    for number, line in enumerate(data.decode("latin-1").split("\n"), 1):
        text = line.rstrip("\r")
        if text.startswith(HTTP_ONLY):
            text = text.removeprefix(HTTP_ONLY)
        elif not text.strip() or text.startswith("#"):
            continue
        cookie, expires = _cookie(text, f"{path}: line {number}")
        if not expires or expires > now:
            cookies.append(cookie)
    if len(cookies) > MOST_COOKIES:
        raise ValueError(f"{path}: more than {MOST_COOKIES:,} cookies")
    return tuple(cookies)


def _cookie(text: str, where: str) -> tuple[GivenCookie, float]:
    fields = text.split("\t")
    if len(fields) == FIELDS - 1:
        fields.append("")  # an empty value, and an editor that removes white space at the end
    if len(fields) != FIELDS:
        raise ValueError(f"{where} is no cookie in Netscape's format: {FIELDS} fields with tabs between them")
    domain, subdomains, path, secure, expires, name, value = fields
    try:
        until = float(expires)
    except ValueError:
        until = math.nan
    if math.isnan(until) or {subdomains.upper(), secure.upper()} - {"TRUE", "FALSE"}:
        raise ValueError(
            f"{where} is no cookie in Netscape's format: TRUE or FALSE, and a time, are expected"
        )
    if not domain.strip(".") or any(
        not " " <= character <= "\xff" or character in ";\x7f" for character in name + value
    ):
        raise ValueError(f"{where}: a domain is missing, or a character that no cookie may have is in it")
    host = domain.lower().lstrip(".")
    host_only = subdomains.upper() == "FALSE" and not domain.startswith(".")
    # A cookie for every host of a top-level domain is for one host, as in browsers.
    host_only = host_only or "." not in host
    return GivenCookie(name, value, host, host_only, path or "/", secure.upper() == "TRUE"), until
