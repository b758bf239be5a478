"""``--json``: one object on standard output, and nothing else there, however the program ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nearfar.cli import keys, verify
from nearfar.cli.exits import Exit
from nearfar.net.auth import read_public
from tests.cli.test_verify import FILES, save
from tests.support.routes import content, status
from tests.support.shell import LIMIT, Shell, interrupt
from tests.support.web import Web


@pytest.fixture
def web() -> Any:
    with Web() as web:
        web.routes["/1.png"] = content(b"one")
        web.routes["/2.png"] = content(b"<html>", Content_Type="text/html")
        web.routes["/3.png"] = status(404)
        yield web


def result(out: str) -> dict[str, Any]:
    (line,) = out.splitlines()
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


def test_a_local_download_reports_its_counts(shell: Shell, web: Web) -> None:
    urls = [web.url(f"/{name}.png") for name in (1, 2, 3, 3)]
    words = ("--queue", "local", "-o", "out", "--json", "--retries", "0", *urls)
    out, err = shell.start("producer", *words).communicate(timeout=LIMIT)
    assert result(out) == {
        "urls": 4,
        "saved": 2,
        "already": 0,
        "failed": {"http-4xx": 2},
        "left": 0,
        "size": 9,
        "rest_unread": False,
        "failures": "nearfar-failures.txt",
        "failures_error": None,
        "web_pages": {"image/*": 1},
        "error": None,
        "exit_code": Exit.FAILED,
    }, err
    out, _ = shell.start("producer", *words[:-2]).communicate(timeout=LIMIT)
    found = result(out)
    assert (found["already"], found["failures"], found["exit_code"]) == (2, None, Exit.OK)


def test_a_far_download_reports_on_both_sides(shell: Shell, web: Web) -> None:
    consumer = shell.start("consumer", "-o", "out", "--bind", "ipc://q", "--json")
    producer = shell.start("producer", "--queue", "ipc://q", "--json", web.url("/1.png"), web.url("/3.png"))
    out, err = producer.communicate(timeout=LIMIT)
    assert result(out)["saved"] == 1, err
    out, err = consumer.communicate(timeout=LIMIT)
    assert result(out) == {
        "saved": 1,
        "failed": {},
        "size": 3,
        "folder": "out",
        "error": None,
        "exit_code": Exit.OK,
    }, err


@pytest.mark.parametrize(
    "words", [("consumer", "--queue", "ipc://none"), ("producer", "--queue", "ipc://none", "http://h/")]
)
def test_a_lost_queue_is_in_the_result(shell: Shell, words: tuple[str, ...]) -> None:
    program = shell.start(*words, "--json", "--wait", "0.1")
    out, _ = program.communicate(timeout=LIMIT)
    found = result(out)
    assert program.returncode == found["exit_code"] == Exit.LOST
    assert "answered at" in found["error"]


def test_an_interrupted_download_reports_what_is_left(shell: Shell) -> None:
    program = shell.start("producer", "--queue", "ipc://none", "--json", "http://h/1", "http://h/2")
    assert program.stderr is not None and program.stderr.readline()
    interrupt(program)
    out, _ = program.communicate(timeout=LIMIT)
    found = result(out)
    assert program.returncode == found["exit_code"] == Exit.INTERRUPTED
    assert (found["urls"], found["left"]) == (2, 2)


def test_verify_reports_every_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "files", *FILES)
    (tmp_path / "files" / "girl.png").write_bytes(b"")
    assert verify.main([str(tmp_path / "files"), "--json"]) == Exit.FAILED
    found = result(capsys.readouterr().out)
    assert found["folders"] == {str(tmp_path / "files"): 2}
    assert (found["urls"], found["verified"], found["size"]) == (None, 2, 60)
    (wrong,) = found["wrong"]
    assert "girl.png" in wrong
    assert (found["not_in_list"], found["repaired"], found["exit_code"]) == ([], [], Exit.FAILED)


def test_keys_are_listed_with_their_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "keys")
    keys.main(["init", "--keys", folder])
    capsys.readouterr()
    assert keys.main(["list", "--json", "--keys", folder]) == Exit.OK
    found = result(capsys.readouterr().out)
    (client,) = found["clients"]
    assert (found["folder"], client["name"]) == (folder, "local")
    assert client["public_key"] == read_public(tmp_path / "keys" / "client.key").decode()
    assert client["since"].startswith("20") and client["since"].endswith("+00:00")
