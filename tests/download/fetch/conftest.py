"""Servers and fetchers that end with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from nearfar.download.fetch.curl import CurlFetcher
from nearfar.download.fetch.options import FetchOptions
from tests.support.tls import Tls
from tests.support.web import Web

MakeFetcher = Callable[..., CurlFetcher]


@pytest.fixture(autouse=True)
def no_proxy_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "http_proxy",
        "https_proxy",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
        "no_proxy",
        "NO_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as server:
        yield server


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return Tls.make(tmp_path_factory.mktemp("tls"), alpn=("h2", "http/1.1"))


@pytest.fixture
def secure_web(tls: Tls) -> Iterator[Web]:
    with Web(tls=tls.server) as server:
        yield server


@pytest.fixture
def fetcher() -> Iterator[MakeFetcher]:
    """Makes fetchers, given settings; waits before a retry are short unless told."""
    with ExitStack() as stack:

        def make(**settings: Any) -> CurlFetcher:
            options = FetchOptions(**{"backoff": 0.01, "stall_timeout": 2, **settings})
            return stack.enter_context(closing(CurlFetcher(options)))

        yield make
