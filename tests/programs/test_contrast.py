"""``nearfar contrast`` prints, writes, and says in its exit code how it went."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from nearfar.contrast.jobs import PARTS, Job
from nearfar.contrast.runner import Outcome
from nearfar.contrast.settings import FULL, QUICK, Settings
from nearfar.programs import contrast
from tests.contrast.sample import outcomes
from tests.support.shell import Shell

Asked = list[tuple[Sequence[str], Settings]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Asked:
    """What would have been measured; made-up figures take its place. Signals are left as they are."""
    made: Asked = []

    def measure(parts: Sequence[str], settings: Settings, *, quiet: bool) -> list[Outcome]:
        made.append((parts, settings))
        return outcomes(parts)

    monkeypatch.setattr(contrast, "measure", measure)
    monkeypatch.setattr(contrast.signal, "signal", lambda *arguments: None)
    monkeypatch.chdir(tmp_path)
    return made


def test_it_prints_tables_and_writes_a_page(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    assert contrast.main([]) == 0
    assert asked == [(PARTS, FULL)]
    said = capsys.readouterr().out
    assert "Queues at a glance" in said
    assert said.endswith("written: nearfar-contrast.html\n")
    assert Path("nearfar-contrast.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_parts_and_amounts_may_be_chosen(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--quick", "--only", "pool", "--only", "faults", "-o", "a.html", "--json", "a.json"]
    assert contrast.main(words) == 0
    assert asked == [(["pool", "faults"], QUICK)]
    assert "written: a.html, a.json" in capsys.readouterr().out
    document = json.loads(Path("a.json").read_text(encoding="utf-8"))
    assert {each["part"] for each in document["outcomes"]} == {"pool", "faults"}
    assert document["settings"]["rounds"] == QUICK.rounds


def test_a_measurement_without_a_result_is_exit_code_1(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lame = Outcome(Job("queue", "latency", "near", 0), trouble="stuck for 20 s")
    monkeypatch.setattr(contrast, "measure", lambda parts, settings, quiet: [lame])
    assert contrast.main([]) == 1
    assert "! no result: queue: latency, near: stuck for 20 s" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["-o", "--json"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        (".", "is a directory: name a file"),
        ("nowhere/page", "no such file or directory"),
    ],
)
def test_a_place_that_cannot_be_written_is_named_before_anything_is_measured(
    asked: Asked, capsys: pytest.CaptureFixture[str], option: str, name: str, said: str
) -> None:
    assert contrast.main([option, name]) == 2
    error = capsys.readouterr().err
    assert error.startswith("nearfar contrast: ")
    assert said in error
    assert error.count("\n") == 1
    assert asked == []
    assert list(Path().iterdir()) == []


def test_a_file_that_is_there_is_kept_until_there_is_a_new_one(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("old.html").write_text("old")

    def stop(parts: Sequence[str], settings: Settings, *, quiet: bool) -> list[Outcome]:
        raise KeyboardInterrupt(signal.SIGINT)

    monkeypatch.setattr(contrast, "measure", stop)
    assert contrast.main(["-o", "old.html"]) == 130
    assert Path("old.html").read_text() == "old"
    assert capsys.readouterr().err == "\nstopped; nothing is written\n"


def test_an_unknown_part_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        contrast.main(["--only", "weather"])
    assert left.value.code == 2
    assert "invalid choice: 'weather'" in capsys.readouterr().err


def test_a_signal_ends_it_and_all_that_it_started(shell: Shell, tmp_path: Path) -> None:
    program = shell.start("contrast", "--quick", "--only", "pool", "-o", "page.html")
    assert program.stderr is not None
    assert program.stderr.readline() == "[1/35] pool: speed, multiprocessing.Pool\n"
    program.send_signal(signal.SIGTERM)
    out, err = program.communicate(timeout=20)
    assert program.returncode == 143
    assert err.endswith("stopped; nothing is written\n")
    assert out == ""
    assert list(tmp_path.iterdir()) == []
