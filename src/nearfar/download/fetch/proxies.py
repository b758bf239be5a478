"""The proxies of the environment whose names are outside ASCII, which libcurl may not know. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress

from nearfar.download.urls import UrlError, ascii_host

__all__ = ["exceptions_in_ascii", "proxies_in_ascii"]

VARIABLES = {
    "http": ("http_proxy", "all_proxy", "ALL_PROXY"),
    "https": ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"),
}
"""Where libcurl looks, in this order."""
EXCEPTIONS = ("no_proxy", "NO_PROXY")
PLACE = re.compile(r"((?:[A-Za-z0-9]+://)?(?:[^/@]*@)?)([^/:@\[\]]+)(.*)", re.DOTALL)


def proxies_in_ascii(environment: Mapping[str, str]) -> dict[str, str]:
    """The proxy of each scheme, ``""`` for none; empty where libcurl can read the environment itself."""
    found = {scheme: _first(environment, names) for scheme, names in VARIABLES.items()}
    if all(map(str.isascii, found.values())):
        return {}
    return {scheme: _place(text) for scheme, text in found.items()}


def exceptions_in_ascii(environment: Mapping[str, str]) -> str | None:
    """The hosts that are asked without a proxy; None where libcurl can read the environment itself."""
    said = _first(environment, EXCEPTIONS)
    if said.isascii():
        return None
    return ",".join(map(_name, re.split(r"[,\s]+", said)))


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next(filter(None, map(environment.get, names)), "")


def _place(text: str) -> str:
    match = PLACE.fullmatch(text)
    return text if match is None else f"{match[1]}{_name(match[2])}{match[3]}"


def _name(name: str) -> str:
    """`name` itself if it is none: then nobody finds it, and libcurl says so."""
    with suppress(UrlError):
        return ascii_host(name)
    return name
