"""The progress of a real command on a real terminal, narrow and wide: a pseudo-terminal of the test."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nearfar.cli.exits import Exit
from tests.support.exchange import Reply, Request
from tests.support.web import Web

LIMIT = 80.0
BODY = bytes(6 * 1024 * 1024)
"""A file large enough for a bar of its own."""
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")
}
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Screen:
    """A command on a pseudo-terminal, and what it has written there."""

    def __init__(self, columns: int, folder: Path, *words: str) -> None:
        self.columns = columns
        self.text = ""
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nearfar", *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=folder,
            env=ENVIRONMENT | {"TERM": "xterm-256color"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)

    def wait_for(self, text: str) -> None:
        """Read until `text` was written."""
        until = time.monotonic() + LIMIT
        while text not in CONTROL.sub("", self.text):
            assert time.monotonic() < until and self._read(until), f"no {text!r} in {self.text[-2000:]!r}"

    def ctrl_c(self) -> None:
        os.write(self._ours, b"\x03")

    def end(self, *, press: bool = False) -> int:
        """Read to the end; returns the exit code. `press`: Ctrl-C after each drawing."""
        until = time.monotonic() + LIMIT
        while self._read(until):
            assert time.monotonic() < until
            if press:
                self.ctrl_c()
        return self.process.wait(LIMIT)

    def lines(self) -> list[str]:
        """Every line that was drawn or printed, without control sequences."""
        return [line for line in re.split(r"[\r\n]+", CONTROL.sub("", self.text)) if line]

    def _read(self, until: float) -> bool:
        if not select.select([self._ours], [], [], max(0.0, until - time.monotonic()))[0]:
            return False
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # the program has closed the terminal
            return False
        self.text += data.decode()
        return bool(data)

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(LIMIT)
        os.close(self._ours)


@pytest.fixture
def halves() -> Iterator[Web]:
    """A server that sends the last byte of each file once the test says so, or ends."""
    with Web() as web:
        gate, go = os.pipe()

        def handle(request: Request, reply: Reply) -> None:
            reply.head(200, {"Content-Length": str(len(BODY))})
            reply.data(BODY[:-1])
            select.select([gate], [], [], LIMIT)
            reply.data(BODY[-1:])
            reply.end()

        web.routes["*"] = handle
        web.at_close.append(lambda: os.close(go))
        web.go = lambda: os.write(go, b"x")  # type: ignore[attr-defined]
        yield web
    os.close(gate)


@contextmanager
def downloading(columns: int, folder: Path, web: Web, *words: str) -> Iterator[Screen]:
    urls = [
        web.url("/a-file-with-a-very-long-name-indeed-which-is-wider-than-the-terminal.bin"),
        web.url("/b.bin"),
    ]
    screen = Screen(
        columns, folder, "producer", "--queue", "local", "-o", "out", "--stall-timeout", "300", *words, *urls
    )
    try:
        yield screen
    finally:
        screen.close()


@pytest.mark.parametrize("columns", [40, 80])
def test_bars_never_wrap_and_say_that_ctrl_c_was_received(columns: int, tmp_path: Path, halves: Web) -> None:
    with downloading(columns, tmp_path, halves) as screen:
        screen.wait_for("6.3 MB of 6.3 MB")
        screen.wait_for("0 of 2")
        screen.ctrl_c()
        screen.wait_for("stopping")
        halves.go()  # type: ignore[attr-defined]
        code = screen.end()
    assert code == Exit.INTERRUPTED
    drawn = [line for line in screen.lines() if "━" in line or "MB" in line or "stopping" in line]
    bars = [line for line in drawn if not line.startswith("2 urls: ")]
    assert bars and max(map(len, bars)) < columns  # with the terminal's ^C after one of them
    assert "finishing the current work" not in screen.text
    assert "2 urls: 2 saved" in screen.text
    assert screen.text.rfind("\x1b[?25h") > screen.text.rfind("\x1b[?25l")


def test_a_second_ctrl_c_leaves_at_once_with_a_usable_terminal(tmp_path: Path, halves: Web) -> None:
    with downloading(80, tmp_path, halves) as screen:
        screen.wait_for("6.3 MB of 6.3 MB")
        screen.ctrl_c()
        screen.wait_for("stopping (again: at once)")
        assert screen.end(press=True) == Exit.INTERRUPTED
    assert "2 urls:" not in screen.text, "it does not wait, not even for its report"
    assert screen.text.rfind("\x1b[?25h") > screen.text.rfind("\x1b[?25l")


@pytest.mark.parametrize(
    ("words", "bar", "colors"),
    [
        (("--progress", "off"), False, True),
        (("--progress", "plain"), False, True),
        (("--color", "never"), True, False),
        (("--color", "always"), True, True),
        ((), True, True),
    ],
)
def test_progress_and_colors_on_a_terminal(
    words: tuple[str, ...], bar: bool, colors: bool, tmp_path: Path, halves: Web
) -> None:
    with downloading(80, tmp_path, halves, "-k", *words) as screen:
        screen.wait_for("no certificate is checked")
        if bar:
            screen.wait_for("MB of 6.3 MB")
        halves.go()  # type: ignore[attr-defined]
        assert screen.end() == Exit.OK
    assert ("━" in screen.text) is bar
    assert ("\x1b[33m-k" in screen.text) is colors
    assert (re.search(r"\x1b\[[0-9;]+m", screen.text) is not None) is colors


def test_json_goes_to_standard_output_alone(tmp_path: Path, halves: Web) -> None:
    with downloading(80, tmp_path, halves, "--json", "--progress", "off") as screen:
        halves.go()  # type: ignore[attr-defined]
        assert screen.end() == Exit.OK
    (line,) = screen.lines()
    assert line.startswith('{"urls": 2, "saved": 2,')
