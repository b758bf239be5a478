"""``nearfar gallery`` serves until a signal."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from nearfar.cli.gallery import main
from nearfar.demo.gallery import Gallery

GALLERY = [sys.executable, "-m", "nearfar", "gallery"]


def test_it_serves_until_a_signal_and_ends_well() -> None:
    command = [*GALLERY, "--bind", "127.0.0.1:0", "--count", "3", "--seed", "x"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
        assert program.stderr is not None
        said = re.search(r"serving 3 images at (http://127\.0\.0\.1:\d+)/", program.stderr.readline())
        assert said is not None
        with urllib.request.urlopen(f"{said[1]}/images/0001.png", timeout=10) as answer:
            assert answer.read() == Gallery(3, 2, "x").picture("0001.png")
        program.send_signal(signal.SIGTERM)
        assert "stopping" in program.stderr.read()
        assert program.wait(10) == 0


@pytest.mark.parametrize("bind", ["8000", ":8000", "127.0.0.1:x", "127.0.0.1:70000"])
def test_a_bad_address_is_a_usage_error(bind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--bind", bind])
    assert left.value.code == 2
    assert f"'{bind}' is not of the form HOST:PORT" in capsys.readouterr().err


def test_an_address_in_use_is_a_short_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        run = subprocess.run([*GALLERY, "--bind", bind], capture_output=True, text=True, timeout=90)
    assert run.returncode == 2
    assert run.stderr == f"cannot listen at {bind}: Address already in use\n"


def test_a_name_that_leads_nowhere_is_a_short_error() -> None:
    run = subprocess.run(
        [*GALLERY, "--bind", "nowhere.invalid:8000"], capture_output=True, text=True, timeout=30
    )
    assert run.returncode == 2
    assert run.stderr.startswith("cannot listen at nowhere.invalid:8000: ")
    assert "Unknown error" not in run.stderr
    assert run.stderr.count("\n") == 1
