"""The server: its answers, whom it answers, and that those who read nothing cost it nothing."""

from __future__ import annotations

import json
import os
import select
import socket
import threading
import time
from base64 import b64encode
from contextlib import ExitStack
from pathlib import Path

import pytest

from nearfar.dashboard import server
from nearfar.dashboard.board import Board
from nearfar.dashboard.server import MOST_CONNECTIONS, MOST_STREAMS, PAGE, Dashboard, parse
from nearfar.errors import AddressError, KeysError
from tests.dashboard.web import ask, place, read_all, send, served
from tests.support.waiting import eventually

EVENTS = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
TOKEN = "a-token-of-enough-characters"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path


# -- answers ---------------------------------------------------------------------------------------


def test_the_page_and_its_parts_need_nothing_from_elsewhere() -> None:
    with served() as (_, made):
        for path, (_, kind) in PAGE.items():
            answer = ask(made.url, path)
            assert (answer.status, answer.headers["Content-Type"]) == (200, kind)
            text = answer.body.decode()
            assert "https://" not in text or path == "/uplot.js", f"{path} names another site"
            assert len(answer.body) < 60_000
        page = ask(made.url, "/").body.decode()
        assert "<script>" not in page and " style=" not in page, "the policy would refuse it"
        assert "MIT" in ask(made.url, "/uplot.LICENSE").body.decode()


def test_every_answer_has_the_headers_that_keep_other_sites_out() -> None:
    with served() as (_, made):
        for path in ("/", "/api/status", "/metrics", "/health", "/nothing", "/dashboard.js"):
            headers = ask(made.url, path).headers
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            assert "unsafe" not in headers["Content-Security-Policy"]
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert headers["Cache-Control"] == "no-store"
            assert not [name for name in headers if name.lower().startswith("access-control")]


def test_the_status_is_json() -> None:
    with served() as (_, made):
        answer = ask(made.url, "/api/status?x=1")
        assert answer.headers["Content-Type"] == "application/json"
        found = json.loads(answer.body)
        assert (found["program"], found["counts"], found["pid"]) == ("pool", {"done": 3}, os.getpid())


def test_events_are_the_history_and_then_each_snapshot() -> None:
    with (
        served() as (board, made),
        send(made.url, EVENTS) as browser,
    ):
        stream = browser.makefile("rb")
        while (line := stream.readline()) != b"\r\n":
            assert line
        seen = []
        for number in range(4, 7):
            event, data, end = (stream.readline() for _ in range(3))
            seen.append((event, json.loads(data.removeprefix(b"data: "))["counts"]))
            assert end == b"\n"
            board.publish({"counts": {"done": number}}, time.monotonic())
        stream.close()
    assert seen[0] == (b"event: history\n", {"done": [3]})
    assert [event for event, _ in seen[1:]] == [b"event: status\n"] * 2
    assert seen[1][1] == {"done": 3}


def test_head_has_no_body_and_other_methods_are_refused() -> None:
    with served() as (_, made):
        answer = ask(made.url, "/api/status", "HEAD")
        assert (answer.status, answer.body) == (200, b"")
        assert int(answer.headers["Content-Length"]) > 100
        assert ask(made.url, "/events", "HEAD").status == 200
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
            assert ask(made.url, "/api/status", method).status == 405
        assert ask(made.url, "/api/other").status == 404


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET  HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"GET //[ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: [\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: http://[\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic \xff\xff\r\n\r\n",
        b"GET /%00%0d%0a HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_odd_requests_get_an_answer_or_none_and_the_next_is_served(
    request_: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with served() as (_, made):
        with send(made.url, request_) as connection:
            said = read_all(connection)
        assert said == b"" or said.startswith(b"HTTP/1.")
        assert ask(made.url, "/health").status == 200
    assert capsys.readouterr() == ("", "")


def test_health_and_readiness(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(ready=False, waits_for="the coordinator") as (board, made):
        assert ask(made.url, "/health").body == b"ok\n"
        answer = ask(made.url, "/ready")
        assert (answer.status, answer.body) == (503, b"it waits for the coordinator\n")
        board.publish({"counts": {}, "ready": True}, time.monotonic())
        assert ask(made.url, "/ready").status == 200
        board.publish({"counts": {}, "ready": True}, time.monotonic() - 60)
        answer = ask(made.url, "/health")
        assert (answer.status, answer.body) == (503, b"the program's loop has been stuck for 60 s\n")


def test_before_the_first_snapshot_nothing_is_ready() -> None:
    made = Dashboard(Board("pool"), "127.0.0.1:*")
    try:
        for path in ("/api/status", "/metrics", "/events", "/health", "/ready"):
            assert ask(made.url, path).status == 503
        assert ask(made.url, "/").status == 200
    finally:
        made.close()


# -- who is answered -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost:8787", "LOCALHOST", "[::1]:8787", "192.0.2.7:80", socket.gethostname()]
)
def test_its_own_names_are_accepted(host: str) -> None:
    with served() as (_, made):
        assert ask(made.url, "/api/status", Host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "attacker.example",
        "127.0.0.1.attacker.example",
        "localhost.attacker.example:8787",
        "",
        "@127.0.0.1",
        "a b",
    ],
)
def test_a_foreign_host_is_refused(host: str) -> None:
    """A name that an attacker points at 127.0.0.1 must not make this page the attacker's own."""
    with served() as (_, made):
        for path in ("/", "/api/status", "/events", "/metrics", "/health"):
            assert ask(made.url, path, Host=host).status == 403


def test_a_request_without_host_is_refused() -> None:
    with served() as (_, made), send(made.url, b"GET /api/status HTTP/1.0\r\n\r\n") as connection:
        assert read_all(connection).startswith(b"HTTP/1.1 403 ")


def test_pages_of_other_sites_are_refused() -> None:
    with served() as (_, made):
        host = ":".join(map(str, place(made.url)))
        assert ask(made.url, "/events", "HEAD", Origin=f"http://{host}").status == 200
        for origin in ("http://attacker.example", "null", "http://127.0.0.1:1", f"https://{host}"):
            assert ask(made.url, "/events", "HEAD", Origin=origin).status == 403


def test_beyond_loopback_a_token_is_needed(token_file: Path) -> None:
    with pytest.raises(AddressError, match=r"0:\* can be reached from other machines: .*--dashboard-token"):
        Dashboard(Board("pool"), "0.0.0.0:*")
    with served("0.0.0.0:*", str(token_file)) as (_, made):
        url = made.url.replace("0.0.0.0", "127.0.0.1")
        refused = ask(url, "/api/status")
        assert refused.status == 401
        assert refused.headers["WWW-Authenticate"].startswith("Basic ")
        assert TOKEN.encode() not in refused.body
        basic = b64encode(f"any:{TOKEN}".encode()).decode()
        assert ask(url, "/api/status", Authorization=f"Basic {basic}").status == 200
        assert ask(url, "/metrics", Authorization=f"Bearer {TOKEN}").status == 200
        for wrong in (
            "Bearer x",
            "Bearer ",
            "Basic !!",
            f"Basic {b64encode(b'any:x').decode()}",
            f"Digest {TOKEN}",
            TOKEN,
        ):
            assert ask(url, "/", Authorization=wrong).status == 401
        assert ask(url, "/health").status == 200, "a probe has no token, and learns nothing"


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (TOKEN, 0o644, "make it private"),
        ("short", 0o600, "at least 16"),
        ("", 0o600, "at least 16"),
        ("two words of enough length", 0o600, "at least 16"),
        ("ümlaut-ümlaut-ümlaut", 0o600, "cannot read"),
    ],
)
def test_a_bad_token_file_is_refused(content: str, mode: int, said: str, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(KeysError, match=said):
        Dashboard(Board("pool"), "127.0.0.1:*", path)
    with pytest.raises(KeysError, match="cannot read"):
        Dashboard(Board("pool"), "127.0.0.1:*", tmp_path / "missing")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("8000", "127.0.0.1", 8000),
        (":8000", "127.0.0.1", 8000),
        ("[::1]:8000", "::1", 8000),
        ("desk:*", "desk", 0),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert (parse(text).host, parse(text).port) == (host, port)


@pytest.mark.parametrize(
    "text", ["", "x", "127.0.0.1", "127.0.0.1:http", "a:b:c", ":99999", "http://127.0.0.1:1"]
)
def test_a_bad_address_is_a_short_error(text: str) -> None:
    with pytest.raises(AddressError, match="expected HOST:PORT, such as"):
        parse(text)


def test_a_named_port_in_use_is_an_error_and_the_default_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(AddressError, match="address already in use"):
            Dashboard(Board("pool"), busy)
        monkeypatch.setattr(server, "DEFAULT", busy)
        with served(where=True) as (_, made):
            assert made.url != f"http://{busy}/"
            assert ask(made.url, "/health").status == 200


# -- who costs what --------------------------------------------------------------------------------


def publish_fast(board: Board, times: int) -> float:
    """The longest time of a publication."""
    longest = 0.0
    for number in range(times):
        began = time.perf_counter()
        board.publish({"counts": {"done": number}, "ready": True}, time.monotonic())
        longest = max(longest, time.perf_counter() - began)
    return longest


def test_a_hundred_browsers_that_never_read_cost_the_service_nothing() -> None:
    """The loop publishes on, threads are bounded, and a scraper is served meanwhile."""
    with served() as (board, made), ExitStack() as stack:
        before = threading.active_count()
        for _ in range(100):
            browser = stack.enter_context(socket.create_connection(place(made.url), timeout=20))
            browser.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            browser.sendall(EVENTS)
        assert eventually(lambda: threading.active_count() >= before + MOST_STREAMS)
        assert publish_fast(board, 500) < 0.5
        assert threading.active_count() <= before + MOST_CONNECTIONS
        assert eventually(lambda: ask_or_none(made.url) == 200)
    assert eventually(lambda: threading.active_count() <= before)


def ask_or_none(url: str) -> int | None:
    try:
        return ask(url, "/metrics").status
    except OSError:
        return None


def test_browsers_that_do_not_read_are_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SENT_WITHIN", 0.2)
    monkeypatch.setattr(server, "SEND_BUFFER", 4096)
    with (
        served() as (board, made),
        send(made.url, EVENTS) as browser,
    ):
        assert browser.recv(15) == b"HTTP/1.1 200 OK"
        name = "x" * 1_000_000
        before = threading.active_count()

        def gone() -> bool:
            board.publish({"counts": {}, "address": name}, time.monotonic())
            return threading.active_count() < before

        assert eventually(gone, within=20)


def test_scrapers_that_hang_hold_no_place_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given more connections than there is room for, which send half a request, I expect them to be closed in
    time, even if they go on sending."""
    monkeypatch.setattr(server, "HEAD_WITHIN", 0.3)
    with served() as (board, made), ExitStack() as stack:
        hanging = [
            stack.enter_context(send(made.url, b"GET /metrics HTTP/1.1\r\nHost: loc"))
            for _ in range(MOST_CONNECTIONS)
        ]
        assert publish_fast(board, 100) < 0.5
        assert eventually(lambda: ask_or_none(made.url) == 200)
        for connection in hanging:
            assert read_all(connection) == b""


def test_an_endless_request_is_cut_off() -> None:
    with served() as (_, made), send(made.url, b"GET / HTTP/1.1\r\n") as connection:
        with pytest.raises(ConnectionError):
            for _ in range(10_000):
                connection.sendall(b"A: " + b"b" * 1000 + b"\r\n")
                select.select([connection], [], [], 0)
        assert ask(made.url, "/health").status == 200


def test_more_pages_than_places_are_told_so() -> None:
    with served() as (_, made), ExitStack() as stack:
        pages = [stack.enter_context(send(made.url, EVENTS)) for _ in range(MOST_STREAMS)]
        for page in pages:
            assert page.recv(15) == b"HTTP/1.1 200 OK"
        with send(made.url, EVENTS) as late:
            assert read_all(late).startswith(b"HTTP/1.1 503 ")
        assert ask(made.url, "/api/status").status == 200


def test_closing_ends_open_pages_and_frees_the_port() -> None:
    board = Board("pool")
    board.publish({"counts": {}}, time.monotonic())
    made = Dashboard(board, "127.0.0.1:*")
    with send(made.url, EVENTS) as page:
        assert page.recv(15) == b"HTTP/1.1 200 OK"
        began = time.monotonic()
        made.close()
        assert time.monotonic() - began < 15
        read_all(page)
        made.close()
        with pytest.raises(OSError):
            socket.create_connection(place(made.url), timeout=1)


def test_a_forked_child_keeps_no_connection_open() -> None:
    """Given a child that outlives the dashboard, I expect its end to be seen, and the port to be free."""
    board = Board("pool")
    board.publish({"counts": {}}, time.monotonic())
    made = Dashboard(board, "127.0.0.1:*")
    reading, writing = os.pipe()
    with send(made.url, EVENTS) as page:
        assert page.recv(15) == b"HTTP/1.1 200 OK"
        child = os.fork()
        if not child:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
        made.close()
        read_all(page)
        again = Dashboard(Board("pool"), ":".join(map(str, place(made.url))))
        again.close()
    os.close(writing)
    os.close(reading)
    assert os.waitpid(child, 0)[1] == 0
