"""Makes the fetcher; imports its implementation only then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nearfar.download.fetch.options import FetchOptions

if TYPE_CHECKING:
    from nearfar.download.fetch.base import Fetcher

__all__ = ["make_fetcher"]


def make_fetcher(options: FetchOptions) -> Fetcher:
    """A fetcher on libcurl. Raises `ImportError`, with a message for the user, without pycurl."""
    from nearfar.download.fetch.curl import CurlFetcher

    return CurlFetcher(options)
