"""``producer --failures``: what bears that name is never lost, whatever it is; real commands."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nearfar.cli.exits import Exit
from tests.support import programs
from tests.support.programs import COMMAND, Program
from tests.support.routes import content, status
from tests.support.waiting import eventually
from tests.support.web import Web

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a device")


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as web:
        web.routes["/good"] = content(b"good")
        web.routes["/bad"] = status(404)
        yield web


def words(*options: str) -> list[str]:
    local = ["--queue", "local", "-o", "files", "--quiet"]
    return ["producer", *local, *options]


def run(folder: Path, *options: str) -> tuple[int, str, str]:
    done = programs.run(*words(*options), cwd=folder)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def test_a_list_that_is_its_own_failures_file_is_refused_and_kept(web: Web, tmp_path: Path) -> None:
    """Given one list as input and as failures file, I expect an error message before anything is fetched."""
    listed = tmp_path / "my-list.txt"
    listed.write_text(f"{web.url('/good')}\n")
    (tmp_path / "link").symlink_to(listed)
    os.link(listed, tmp_path / "twin")
    for name in ("my-list.txt", "link", "twin"):
        code, _, err = run(tmp_path, "-i", "my-list.txt", "--failures", name)
        assert code == Exit.USAGE
        assert f"{name} is the input itself: name another file with --failures" in err
    with listed.open() as stdin:
        done = subprocess.run(
            [*COMMAND, *words("-i", "-", "--failures", "my-list.txt")],
            cwd=tmp_path,
            stdin=stdin,
            timeout=90,
            check=False,
        )
    assert done.returncode == Exit.USAGE
    assert listed.read_text() == f"{web.url('/good')}\n"
    assert web.log == []


def test_another_file_of_that_name_is_kept_when_nothing_failed(web: Web, tmp_path: Path) -> None:
    kept = tmp_path / "notes.txt"
    kept.write_text(f"{web.url('/good')}\n")
    assert run(tmp_path, web.url("/good"), "--failures", "notes.txt")[0] == Exit.OK
    assert kept.read_text() == f"{web.url('/good')}\n"


def test_a_failures_file_can_be_fed_back_under_its_own_name_until_it_goes(web: Web, tmp_path: Path) -> None:
    assert run(tmp_path, web.url("/bad"), "--failures", "left.txt")[0] == Exit.FAILED
    assert run(tmp_path, "-i", "left.txt", "--failures", "left.txt")[0] == Exit.FAILED
    assert (tmp_path / "left.txt").read_text() == f"{web.url('/bad')}\t# http-4xx: HTTP 404 Said So\n"
    web.routes["/bad"] = content(b"now")
    assert run(tmp_path, "-i", "left.txt", "--failures", "left.txt")[0] == Exit.OK
    assert not (tmp_path / "left.txt").exists()


@needs_root
def test_a_device_stays_a_device_whether_something_failed_or_not(web: Web, tmp_path: Path) -> None:
    null = tmp_path / "null"
    os.mknod(null, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    for path, code in (("/bad", Exit.FAILED), ("/good", Exit.OK)):
        for name in ("null", "/dev/null"):
            assert run(tmp_path, web.url(path), "--failures", name)[0] == code
            assert stat.S_ISCHR((tmp_path / name).stat().st_mode)
    assert {path.name for path in tmp_path.iterdir()} == {"null", "files"}


def test_failures_may_go_to_standard_output(web: Web, tmp_path: Path) -> None:
    code, out, _ = run(tmp_path, web.url("/bad"), "--failures", "/dev/stdout")
    assert code == Exit.FAILED
    assert out.splitlines()[0] == f"{web.url('/bad')}\t# http-4xx: HTTP 404 Said So"


@pytest.mark.parametrize(
    ("name", "said"), [("nowhere/failures.txt", "no such file or directory"), (".", "is a directory")]
)
def test_a_place_that_can_be_no_file_is_said_before_anything_is_fetched(
    web: Web, tmp_path: Path, name: str, said: str
) -> None:
    code, _, err = run(tmp_path, web.url("/bad"), "--failures", name)
    assert code == Exit.USAGE and said in err and len(err.splitlines()) == 1
    assert web.log == []


def test_planted_pipes_hold_no_command_up(web: Web, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    planted = [
        tmp_path / ".nearfar-failures.txt.123",
        tmp_path / "files" / ".nearfar-0123456789abcdef.owner",
        tmp_path / "files" / ".nearfar-0123456789abcdef-1.part",
    ]
    for path in planted:
        os.mkfifo(path)
    assert run(tmp_path, web.url("/bad"), web.url("/good"))[0] == Exit.FAILED
    assert (tmp_path / "files" / "good").read_bytes() == b"good"
    assert planted[0].is_fifo() and planted[1].is_fifo()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_pipe_as_input_is_waited_for_and_can_be_left(tmp_path: Path, signum: int) -> None:
    os.mkfifo(tmp_path / "urls")
    process = Program([*COMMAND, *words("-i", "urls")], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        assert eventually(lambda: (tmp_path / "files" / ".nearfar.sqlite").exists(), 20)
        process.send_signal(signum)
        out, _ = process.communicate(timeout=90)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 128 + signum
    assert "0 urls: 0 saved" in out


def test_hostile_lines_are_told_without_their_escapes_and_go_back_in(web: Web, tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text(
        f"{web.url('/bad')}\tname=\x1b[2Jx.png\nftp://h/\x1b]0;title\x07\n{web.url('/bad')}?\u202egpj\n"
    )
    options = ["--queue", "local", "-o", "files", "-i", "urls.txt"]
    for listed in ("urls.txt", "nearfar-failures.txt"):
        options[-1] = listed
        done = subprocess.run(
            [sys.executable, "-m", "nearfar", "producer", *options],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert done.returncode == Exit.FAILED
        assert "3 urls: 0 saved, 0 already there, 3 failed (http-4xx 2, rejected 1)" in done.stdout
        told = done.stdout + done.stderr + (tmp_path / "nearfar-failures.txt").read_text()
        assert told.replace("\n", "").replace("\t", "").isprintable()
