"""TLS, HTTP/2 and proxies."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from nearfar.download.model import Reason
from tests.download.fetch.conftest import MakeFetcher
from tests.support.exchange import Reply, Request
from tests.support.routes import content, cut, in_turn
from tests.support.sinks import fetch_all
from tests.support.tls import Tls
from tests.support.web import Web

BODY = bytes(range(256)) * 2000


def test_https_speaks_http2_where_the_server_does(secure_web: Web, tls: Tls, fetcher: MakeFetcher) -> None:
    secure_web.routes["*"] = content(BODY, etag='"1"')
    urls = (secure_web.url(f"/{n}") for n in range(30))
    sinks = fetch_all(fetcher(ca_file=tls.ca_file, digest=True), *urls)
    assert {sink.body.sha256 for sink in sinks if sink.body} == {hashlib.sha256(BODY).hexdigest()}
    assert {request.version for request in secure_web.log} == {"2"}
    assert secure_web.connections < 16, "transfers at a time do not share a connection"


def test_https_speaks_http1_where_it_is_told(secure_web: Web, tls: Tls, fetcher: MakeFetcher) -> None:
    secure_web.routes["/a"] = content(BODY)
    (sink,) = fetch_all(fetcher(ca_file=tls.ca_file, http="1.1"), secure_web.url("/a"))
    assert bytes(sink.data) == BODY and secure_web.log[0].version == "1.1"


def test_http2_without_tls_by_prior_knowledge(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["*"] = content(BODY)
    sinks = fetch_all(fetcher(http="h2c"), web.url("/a"), web.url("/b"))
    assert all(bytes(sink.data) == BODY for sink in sinks)
    assert {request.version for request in web.log} == {"2"}


def test_a_stream_that_is_reset_goes_on_where_it_was(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = in_turn(cut(BODY, 50_000, by="reset", etag='"1"'), content(BODY, etag='"1"'))
    (sink,) = fetch_all(fetcher(http="h2c"), web.url("/a"))
    assert bytes(sink.data) == BODY
    assert web.log[1].fields.get("if-range") in ('"1"', None)
    assert len(web.log) == 2


def test_an_unknown_authority_is_a_tls_failure_at_once(secure_web: Web, fetcher: MakeFetcher) -> None:
    secure_web.routes["/a"] = content(BODY)
    (sink,) = fetch_all(fetcher(), secure_web.url("/a"))
    assert sink.failure is not None and sink.failure.reason is Reason.TLS
    assert secure_web.connections == 1 and not secure_web.log


def test_a_certificate_for_another_name_is_a_tls_failure(tmp_path: Path, fetcher: MakeFetcher) -> None:
    tls = Tls.make(tmp_path, name="elsewhere.example")
    with Web(tls=tls.server) as web:
        (sink,) = fetch_all(fetcher(ca_file=tls.ca_file), web.url("/a"))
        assert sink.failure is not None and sink.failure.reason is Reason.TLS
        assert not web.log


def test_insecure_takes_any_certificate(secure_web: Web, fetcher: MakeFetcher) -> None:
    secure_web.routes["/a"] = content(BODY)
    (sink,) = fetch_all(fetcher(insecure=True), secure_web.url("/a"))
    assert bytes(sink.data) == BODY


def test_a_missing_authority_file_is_a_tls_failure(
    secure_web: Web, tmp_path: Path, fetcher: MakeFetcher
) -> None:
    (sink,) = fetch_all(fetcher(ca_file=tmp_path / "none.pem"), secure_web.url("/a"))
    assert sink.failure is not None and sink.failure.reason is Reason.TLS


def test_plain_http_to_a_tls_port_is_no_file(secure_web: Web, fetcher: MakeFetcher) -> None:
    (sink,) = fetch_all(fetcher(tries=1), secure_web.url("/a").replace("https", "http"))
    assert sink.failure is not None and sink.failure.reason in (Reason.CONNECT, Reason.REJECTED)


def test_the_proxy_variable_is_honoured(
    web: Web, fetcher: MakeFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://u:secret@127.0.0.1:{web.port}")
    web.routes["*"] = content(b"by proxy")
    (sink,) = fetch_all(fetcher(), "http://unreachable.invalid/a?b=c")
    assert bytes(sink.data) == b"by proxy"
    assert web.log[0].path == "http://unreachable.invalid/a?b=c"
    assert "proxy-authorization" in web.log[0].fields


def test_hosts_without_a_proxy_are_asked_directly(
    web: Web, fetcher: MakeFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    web.routes["/a"] = content(b"direct")
    (sink,) = fetch_all(fetcher(), web.url("/a"))
    assert bytes(sink.data) == b"direct"


def test_https_goes_through_a_tunnel_whose_refusal_is_a_connect_failure(
    web: Web, fetcher: MakeFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(request: Request, reply: Reply) -> None:
        reply.head(407, {"Content-Length": "0", "Connection": "close"})
        reply.drop()

    monkeypatch.setenv("https_proxy", f"http://u:secret@127.0.0.1:{web.port}")
    web.routes["*"] = refuse
    (sink,) = fetch_all(fetcher(tries=1), "https://unreachable.invalid/a?b=s3cret")
    assert sink.failure is not None and sink.failure.reason is Reason.CONNECT
    assert web.log[0].path == "unreachable.invalid:443"
    assert "secret" not in sink.failure.detail and "s3cret" not in sink.failure.detail
