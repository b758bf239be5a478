"""Fetching by libcurl; nothing outside this folder imports pycurl."""

from __future__ import annotations

from nearfar.download.fetch.curl.loop import CurlFetcher

__all__ = ["CurlFetcher"]
