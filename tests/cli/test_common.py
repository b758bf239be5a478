"""Messages and stopping, which are the same in all programs."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from datetime import datetime

import pytest

from nearfar.cli.common import (
    StopRequest,
    TextFormatter,
    add_logging_options,
    announce,
    in_color,
    set_up_logging,
    why,
)
from nearfar.cli.exits import Exit


@pytest.fixture(autouse=True)
def own_root_logger(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    monkeypatch.setattr(root, "handlers", [])
    yield
    root.setLevel(level)


def set_up(*argv: str) -> None:
    parser = argparse.ArgumentParser()
    add_logging_options(parser)
    set_up_logging(parser.parse_args(argv))


def test_text_format_is_only_the_message(capsys: pytest.CaptureFixture[str]) -> None:
    set_up()
    logging.getLogger("nearfar.queue").info("hosting at %s", "tcp://127.0.0.1:5555")
    logging.getLogger("nearfar.queue").debug("a credit of 5")
    assert capsys.readouterr().err == "hosting at tcp://127.0.0.1:5555\n"


def test_quiet_shows_only_warnings_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("--quiet")
    logging.getLogger("nearfar").info("saved 1.png")
    logging.getLogger("nearfar").warning("the disk is nearly full")
    assert capsys.readouterr().err == "the disk is nearly full\n"


def test_json_is_one_object_in_each_line(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("--log-format", "json")
    logging.getLogger("nearfar.queue").info("two\nlines", extra={"event": "saved", "fields": {"size": 5}})
    said = json.loads(capsys.readouterr().err)
    assert datetime.fromisoformat(said.pop("time")).utcoffset() is not None
    assert said == {"level": "info", "event": "saved", "message": "two\nlines", "size": 5}


def test_json_contains_a_traceback_and_the_logger(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("--log-format", "json", "-v")
    try:
        raise ValueError("five")
    except ValueError:
        logging.getLogger("nearfar.queue").debug("no", exc_info=True)
    said = json.loads(capsys.readouterr().err)
    assert said["event"] == "nearfar.queue"
    assert said["traceback"].endswith("ValueError: five")


def test_quiet_and_verbose_exclude_each_other() -> None:
    with pytest.raises(SystemExit) as left:
        set_up("--quiet", "--verbose")
    assert left.value.code == Exit.USAGE


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_announcement_keeps_the_format(log_format: str, capfd: pytest.CaptureFixture[str]) -> None:
    set_up("--log-format", log_format)
    announce("stopping", "stopping")
    said = capfd.readouterr().err
    assert said == "stopping\n" if log_format == "text" else json.loads(said)["event"] == "stopping"


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_the_first_signal_stops_and_the_second_exits_at_once(
    signum: signal.Signals,
    code: int,
    capfd: pytest.CaptureFixture[str],
) -> None:
    woken: list[str] = []
    left: list[int] = []
    with StopRequest(lambda: woken.append("once"), leave=left.append) as stop:
        assert not stop.wait(timeout=0)
        assert (stop.requested, stop.exit_code) == (False, Exit.OK)
        os.kill(os.getpid(), signum)
        assert (stop.requested, stop.exit_code) == (True, code)
        assert stop.wait()
        assert (woken, left) == (["once"], [])
        assert "exit at once" in capfd.readouterr().err
        os.kill(os.getpid(), signum)
        assert (woken, left) == (["once"], []), "an echo of the first"
        stop._echo_until = 0.0
        os.kill(os.getpid(), signum)
        assert (woken, left) == (["once"], [code])


def test_a_late_callback_is_called_at_once() -> None:
    woken: list[str] = []
    with StopRequest() as stop:
        stop.tell(lambda: woken.append("first"))
        assert woken == []
        stop.handle(signal.SIGINT)
        stop.tell(lambda: woken.append("second"))
    assert woken == ["first", "second"]


def test_a_wait_for_a_host_ends_with_the_first_signal() -> None:
    with StopRequest() as stop:
        assert stop.reaches(lambda timeout: True)
        assert not stop.reaches(lambda timeout: stop.handle(signal.SIGINT) is not None)


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_restored() -> None:
    before = [signal.getsignal(signum) for signum in StopRequest.SIGNALS]
    with StopRequest():
        assert [signal.getsignal(signum) for signum in StopRequest.SIGNALS] != before
    assert [signal.getsignal(signum) for signum in StopRequest.SIGNALS] == before


def test_a_missing_file_is_named_without_a_number() -> None:
    missing = FileNotFoundError(2, "No such file or directory", "urls.txt")
    assert why(missing) == "urls.txt: no such file or directory"
    assert why(ValueError("not a number")) == "not a number"


@pytest.mark.parametrize(
    ("choice", "environment", "terminal", "expected"),
    [
        ("auto", {}, True, True),
        ("auto", {}, False, False),
        ("auto", {"NO_COLOR": "1"}, True, False),
        ("auto", {"NO_COLOR": ""}, True, True),
        ("auto", {"TERM": "dumb"}, True, False),
        ("always", {"NO_COLOR": "1"}, False, True),
        ("never", {}, True, False),
    ],
)
def test_colors_follow_the_option_then_the_environment(
    choice: str, environment: dict[str, str], terminal: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", screen)
    assert in_color(choice) is expected


def test_warnings_and_errors_are_colored_and_escaped() -> None:
    for level, begin in ((logging.WARNING, "\x1b[33m"), (logging.ERROR, "\x1b[31m")):
        record = logging.LogRecord("x", level, "", 0, "a\x1b[2J", None, None)
        assert TextFormatter(color=True).format(record) == f"{begin}a\\x1b[2J\x1b[0m"
        assert TextFormatter().format(record) == "a\\x1b[2J"
    record = logging.LogRecord("x", logging.INFO, "", 0, "plain", None, None)
    assert TextFormatter(color=True).format(record) == "plain"


def test_a_stop_that_the_program_shows_itself_is_not_announced(capfd: pytest.CaptureFixture[str]) -> None:
    for shown in (True, False):
        with StopRequest(shows=lambda shown=shown: shown) as stop:
            stop.handle(signal.SIGINT)
        assert ("stopping" in capfd.readouterr().err) is not shown
