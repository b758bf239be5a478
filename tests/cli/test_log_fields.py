"""``--log-format json`` has what an event is about in fields of its own, and not only in its text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.routes import content, in_turn, status
from tests.support.shell import ANYWHERE, LIMIT, Shell
from tests.support.web import Web

PAGE = (Path(__file__).parents[2] / "docs" / "options.md").read_text(encoding="utf-8")


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as web:
        web.routes["/1.png"] = in_turn(status(500), content(b"one"))
        web.routes["/2.png"] = content(b"<html>", content_type="text/html")
        web.routes["/3.png"] = status(404)
        yield web


def events(err: str) -> dict[str, dict[str, Any]]:
    """The last event of each kind."""
    lines = [json.loads(line) for line in err.splitlines()]
    assert all({"time", "level", "event", "message"} <= line.keys() for line in lines)
    return {line["event"]: line for line in lines}


def without(event: dict[str, Any], *others: str) -> dict[str, Any]:
    """The fields of an event, without those that all have."""
    return {name: event[name] for name in event if name not in ("time", "level", "event", "message", *others)}


def test_the_events_of_a_download_have_url_reason_and_attempt(shell: Shell, web: Web) -> None:
    urls = [web.url(f"/{name}.png?token=hush") for name in (1, 2, 3)]
    words = ("--queue", "local", "-o", "out", "-v", "--log-format", "json", *urls)
    _, err = shell.start("producer", *words).communicate(timeout=LIMIT)
    found = events(err)
    shown = [url.replace("hush", "***") for url in urls]
    assert without(found["retry"], "seconds") == {
        "url": shown[0],
        "reason": "http-5xx",
        "detail": "HTTP 500 Said So",
        "attempt": 1,
    }
    assert without(found["failed"]) == {"url": shown[2], "reason": "http-4xx", "detail": "HTTP 404 Said So"}
    assert without(found["page"]) == {"url": shown[1], "name": "2.png", "type": "text/html"}
    saved = [json.loads(line) for line in err.splitlines() if json.loads(line)["event"] == "saved"]
    assert {"url": shown[0], "name": "1.png", "size": 3, "attempts": 2} in [without(each) for each in saved]
    assert found["summary"]["failed"] == {"http-4xx": 1}
    assert "hush" not in err
    _, err = shell.start("producer", *words).communicate(timeout=LIMIT)
    assert without(events(err)["already"])["url"] in shown


def test_the_events_of_a_worker_name_it(shell: Shell) -> None:
    _, address = shell.coordinator(ANYWHERE)
    worker = shell.start(
        "worker", "--connect", address, "--processes", "1", "--log-format", "json", "--max-tasks", "1"
    )
    assert worker.stderr is not None
    joined = json.loads(worker.stderr.readline())
    assert without(joined) == {"worker": joined["worker"], "address": joined["address"]}
    assert joined["event"] == "joined"
    from nearfar import Pool

    with Pool.connect(address) as pool:
        pool.apply_async(exit_at_once)
        died = json.loads(worker.stderr.readline())
    assert died["event"] == "worker"
    assert died["worker"].startswith(f"{joined['worker']}/") and "exited with code 7" in died["reason"]


def exit_at_once() -> None:
    import os

    os._exit(7)


def test_the_page_names_every_field() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    fields = set(re.findall(r'"(\w+)": ', source)) - {"event"}
    assert len(fields) > 8
    assert {field for field in fields if f"`{field}`" not in PAGE} == set()
