"""The options of dashboards, ``nearfar top``, and the commands that ask a queue."""

from __future__ import annotations

import base64
import http.server
import json
import os
import signal
import socket
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest

from nearfar import Pool, Queue
from nearfar.cli import coordinator, queue, top
from nearfar.cli.exits import Exit
from tests.dashboard.test_programs import checked
from tests.dashboard.web import served
from tests.pool import tasks
from tests.support.keys import keys
from tests.support.shell import ANYWHERE, Shell, ended, first_line, interrupt
from tests.support.waiting import eventually

PROGRAMS = {
    "coordinator": ["--bind", ANYWHERE],
    "queue": ["--bind", ANYWHERE],
    "worker": ["--connect", "tcp://127.0.0.1:1"],
    "consumer": ["--bind", ANYWHERE, "-o", "saved"],
    "producer": ["--queue", "tcp://127.0.0.1:1", "http://127.0.0.1:1/x"],
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_dashboard_that_cannot_be_had_is_a_short_error(program: str, shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        busy = shell.start(program, *PROGRAMS[program], "--dashboard", place)
        exposed = shell.start(program, *PROGRAMS[program], "--dashboard", "0.0.0.0:*")
        lonely = shell.start(program, *PROGRAMS[program], "--dashboard-token", "token")
        for process, said in (
            (busy, f"the dashboard cannot use {place}: address already in use"),
            (
                exposed,
                "can be reached from other machines: give a file with a token (--dashboard-token FILE)",
            ),
            (lonely, "--dashboard-token applies to --dashboard only"),
        ):
            code, out, err = ended(process)
            assert (code, out) == (Exit.USAGE, "")
            assert err.endswith(f"{said}\n") and err.startswith(f"nearfar {program}: ")
            assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://127.0.0.1:1/x", "it takes HOST:PORT, not a URL: put it last"),
        ("desk", "expected HOST:PORT, such as 127.0.0.1:8787"),
        ("127.0.0.1:99999", "expected HOST:PORT"),
    ],
)
def test_a_bad_address_of_a_dashboard_is_a_short_error(
    text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        queue.make_parser().parse_args(["--dashboard", text])
    assert left.value.code == Exit.USAGE
    assert said in capsys.readouterr().err


# -- top -------------------------------------------------------------------------------------------


def test_top_prints_once_what_the_dashboard_shows(capsys: pytest.CaptureFixture[str]) -> None:
    with Pool(1, dashboard="127.0.0.1:*") as pool:
        assert pool.map(tasks.square, range(5), 1) == [n * n for n in range(5)]
        with pytest.raises(ZeroDivisionError):
            pool.apply(divmod, (1, 0))
        address = str(pool.dashboard_url)
        done = 0
        while done < 6:
            assert top.main([address, "--json"]) == Exit.OK
            done = json.loads(capsys.readouterr().out)["counts"]["done"]
        assert top.main([address.removeprefix("http://").rstrip("/"), "--once"]) == Exit.OK
    out, err = capsys.readouterr()
    assert err == ""
    head, counts, *rest = out.splitlines()
    assert head.startswith("pool ") and head.endswith("  live")
    assert counts.startswith("1 workers") and "6 done, 1 raised" in counts
    assert any(line.split()[:2] == ["worker", "host"] for line in rest)
    assert any(line.startswith("1 x ") for line in rest)
    assert "\x1b" not in out


def test_top_shows_a_queue_a_download_and_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    found = {
        "queue": {
            "address": "tcp://127.0.0.1:1",
            "counts": dict.fromkeys(("size", "unsettled", "redelivered", "dead", "producers", "consumers"), 1)
            | {"stored": 0, "settled": 0},
            "oldest": 75.0,
            "consumers": [{"name": "evil\x1b[2J", "taken": 1, "ahead": 2, "delivered": 3}],
            "dead_letters": [],
        },
        "hosts": [
            {
                "host": "a.example",
                "active": 2,
                "waiting": 1,
                "parked": 9.0,
                "saved": 4,
                "failed": {"dns": 1},
                "bytes": 5000,
            }
        ],
        "files": [
            {"name": "http://a.example/x", "size": 100, "bytes": 50},
            {"name": "y", "size": None, "bytes": 1},
        ],
    }
    with served(**found) as (_, made):
        assert top.main([made.url, "--once", "--color", "always"]) == Exit.OK
        assert "\x1b[1mpool " in capsys.readouterr().out
        assert top.main([made.url, "--once"]) == Exit.OK
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "queue: 1 waiting, 0 in hand, oldest 1:15" in out
    assert "evil\\x1b[2J" in out
    assert "━━━━━━━━━━··········" in out
    assert "dns 1" in out


def test_top_runs_until_ctrl_c_and_until_the_dashboard_ends(shell: Shell) -> None:
    with served() as (board, made):
        stopped = shell.start("top", made.url, "--every", "0.1")
        left = shell.start("top", made.url, "--every", "0.1")
        for process in (stopped, left):
            assert first_line(process).startswith("pool ")
        board.publish({"counts": {"done": 4}}, time.monotonic())
        interrupt(stopped)
        assert ended(stopped)[0] == Exit.OK
    code, _, err = ended(left)
    assert (code, err.count("\n")) == (Exit.LOST, 1)
    assert "no dashboard answers" in err


def test_top_needs_the_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("the-right-token-of-this-dashboard")
    wrong.write_text("another-token-of-another-dashboard")
    for path in (right, wrong):
        path.chmod(0o600)
    with served(token=str(right)) as (_, made):
        assert top.main([made.url, "--json", "--token", str(right)]) == Exit.OK
        capsys.readouterr()
        for words in ([], ["--token", str(wrong)]):
            assert top.main([made.url, "--json", *words]) == Exit.UNTRUSTED
            out, err = capsys.readouterr()
            assert (out, err.count("\n")) == ("", 1)
            assert "refuses: give the token" in err
        assert top.main([made.url, "--json", "--token", str(tmp_path / "missing")]) == Exit.USAGE


@pytest.mark.parametrize(
    ("address", "code", "said"),
    [
        ("redis://127.0.0.1:1/0/a", Exit.USAGE, "is neither the address of a dashboard"),
        ("http://127.0.0.1:1/api", Exit.USAGE, "is neither the address of a dashboard"),
        ("tcp://127.0.0.1", Exit.USAGE, "tcp://127.0.0.1"),
        ("tcp://127.0.0.1:*", Exit.USAGE, "tcp://127.0.0.1:*"),
        ("desk", Exit.USAGE, "expected HOST:PORT"),
        ("127.0.0.1:1", Exit.LOST, "connection refused"),
    ],
)
def test_top_with_a_wrong_address_is_a_short_error(
    address: str, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert top.main([address, "--once"]) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("nearfar top: ") and said in err


def test_top_asks_a_coordinator_by_its_own_messages(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    mark, gate = tmp_path / "mark", tmp_path / "gate"
    with Pool(1, address=ANYWHERE) as pool:
        address = str(pool.address)
        assert pool.map(tasks.square, range(5), 1) == [n * n for n in range(5)]
        running = pool.apply_async(tasks.leave_then_wait_for, (str(mark), str(gate)))
        assert eventually(mark.exists)
        assert top.main([address, "--json"]) == Exit.OK
        status = json.loads(capsys.readouterr().out)
        assert top.main([address, "--once"]) == Exit.OK
        gate.touch()
        running.get(20)
    (worker,) = checked(status)["workers"]
    assert (worker["runs"], worker["tasks"]) == ("tests.pool.tasks:leave_then_wait_for", 5)
    assert (status["program"], status["address"]) == ("coordinator", address)
    assert (status["counts"]["running"], status["counts"]["done"]) == (1, 5)
    assert status["rates"]["done"] == 0
    assert not status.keys() & {"pid", "host", "started"}, "these would be of the process that asks"
    out, err = capsys.readouterr()
    head, counts, *rest = out.splitlines()
    assert (head, err) == (f"coordinator {address}  live", "")
    assert "1 running" in counts and "5 done" in counts
    assert "tests.pool.tasks:leave_then_wait_for" in rest[-1]


def test_top_asks_a_queue_by_its_own_messages(capsys: pytest.CaptureFixture[str]) -> None:
    with Queue(0, f"ipc:///tmp/nearfar-top-{os.getpid()}.sock") as hosted:
        hosted.put_many([b"waits", b"too"])
        assert top.main([hosted.address, "--json"]) == Exit.OK
        status = checked(json.loads(capsys.readouterr().out))
        assert top.main([hosted.address, "--once"]) == Exit.OK
        assert hosted.counts()["producers"] == 1, "what asks is no producer"
        assert [hosted.get(timeout=20) for _ in range(2)] == [b"waits", b"too"]
    assert (status["program"], status["queue"]["counts"]["size"]) == ("queue", 2)
    assert status["queue"]["rates"]["stored"] == 0
    out, err = capsys.readouterr()
    assert (out.splitlines()[0], err) == (f"queue {hosted.address}  live", "")
    assert "queue: 2 waiting, 0 in hand, 0 put/s" in out


def test_top_of_a_queue_or_coordinator_ends_when_that_ends(shell: Shell) -> None:
    for program, address in (shell.queue(), shell.coordinator()):
        shown = shell.start("top", address, "--every", "0.1", "--wait", "1")
        assert first_line(shown).endswith(f" {address}  live\n")
        program.kill()
        code, _, err = ended(shown)
        assert (code, err.count("\n")) == (Exit.LOST, 1)
        assert err.startswith("nearfar top: no ")


def test_top_needs_the_keys_of_a_queue_and_no_token_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    token.write_text("the-right-token-of-this-dashboard")
    token.chmod(0o600)
    with Queue(0, ANYWHERE, keys=keys()) as hosted:
        for words, code, said in (
            (["--no-keys"], Exit.UNTRUSTED, "keys"),
            (["--token", str(token)], Exit.USAGE, "--token is for dashboards"),
        ):
            assert top.main([hosted.address, "--json", *words]) == code
            out, err = capsys.readouterr()
            assert (out, err.count("\n")) == ("", 1)
            assert said in err
        assert top.main([hosted.address, "--json", "--keys", str(keys())]) == Exit.OK
        assert json.loads(capsys.readouterr().out)["program"] == "queue"


def test_the_status_of_a_pool_at_the_address_of_a_queue_is_a_short_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Queue(0, ANYWHERE) as hosted:
        assert coordinator.main(["--status", hosted.address]) == Exit.LOST
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "this is a queue, and not the coordinator of a pool" in err


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"counts": 5}', b'{"counts": {"a": "b"}}'])
def test_top_of_another_server_is_a_short_error(body: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert top.main([f"127.0.0.1:{server.server_port}", "--once"]) == Exit.LOST
        thread.join()
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


# -- a queue's and a coordinator's status ----------------------------------------------------------


def test_the_status_and_the_dead_letters_of_a_queue(capsys: pytest.CaptureFixture[str]) -> None:
    with Queue(0, ANYWHERE, max_attempts=1) as hosted:
        hosted.put_many([{"number": 1}, b"bytes", Fraction(1, 2)])
        for _ in range(3):
            hosted.receive(timeout=20).nack()
        hosted.put("waits")
        hosted.flush(20)
        address = hosted.address
        assert queue.main(["--status", address]) == Exit.OK
        status = capsys.readouterr().out.splitlines()
        assert queue.main(["--status", address, "--json"]) == Exit.OK
        found = json.loads(capsys.readouterr().out)
        assert queue.main(["--dead-letters", address]) == Exit.OK
        listed = capsys.readouterr().out.splitlines()
        assert queue.main(["--dead-letters", address, "--json"]) == Exit.OK
        letters = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert queue.main(["--requeue", address, "--json"]) == Exit.OK
        again = json.loads(capsys.readouterr().out)
        assert queue.main(["--requeue", address]) == Exit.OK
        assert capsys.readouterr().out == "0 items put again\n"
        assert queue.main(["--dead-letters", address]) == Exit.OK
        assert capsys.readouterr().out == "no dead letters\n"
        assert hosted.qsize() == 4
    assert status[0].startswith("1 waiting (") and ", 3 dead;" in status[0]
    assert status[1].endswith("0 put/s, 0 done/s, 0 redelivered")
    assert (found["counts"]["dead"], found["counts"]["size"], found["address"]) == (3, 1, address)
    assert set(found["rates"]) == {"stored", "settled", "redelivered", "dead"}
    assert listed[0].split() == ["producer", "items", "bytes", "attempts", "last"]
    assert "gave it up" in listed[1]
    contents = [each for letter in letters for each in letter.get("content", ())]
    assert {"number": 1} in contents
    (pickled,) = [letter for letter in letters if "encoded" in letter]
    assert base64.b64decode(pickled["encoded"])
    assert again == {"requeued": 3}


@pytest.mark.parametrize("what", ["--status", "--dead-letters", "--requeue"])
def test_asking_a_missing_queue_fails_in_time(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    assert queue.main([what, "ipc:///tmp/no-queue-is-here", "--wait", "0.3"]) == Exit.LOST
    assert time.monotonic() - began < 10
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert queue.main([what, "tcp://127.0.0.1:*"]) == Exit.USAGE


def test_the_status_of_a_coordinator_as_json(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    process, address = shell.coordinator(ANYWHERE, "--workers", "1")
    assert coordinator.main(["--status", address, "--json"]) == Exit.OK
    assert json.loads(capsys.readouterr().out)["workers"] == 1
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == Exit.OK
