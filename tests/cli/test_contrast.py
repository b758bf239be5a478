"""``nearfar contrast`` prints, writes, and reports its result by its exit code."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from nearfar.cli import contrast
from nearfar.contrast.runner import PARTS, MeasurementGroup, MeasurementOutcome
from nearfar.contrast.settings import FULL, QUICK, Measurement, Settings
from tests.contrast.sample import outcomes
from tests.support.shell import Shell

Asked = list[tuple[set[str], Settings]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Asked:
    """The measurements that were requested; their results are invented. Signal handlers are not changed."""
    made: Asked = []

    def measure(
        groups: Sequence[MeasurementGroup], settings: Settings, told: list[MeasurementOutcome], **_: object
    ) -> None:
        assert "NEARFAR_KEYS" not in os.environ, "the user's settings are not those of what is measured"
        parts = {each.part for group in groups for each in group.measurements}
        made.append((parts, settings))
        told += outcomes([part for part in PARTS if part in parts], settings)

    monkeypatch.setattr(contrast, "measure", measure)
    monkeypatch.setattr(contrast.signal, "signal", lambda *arguments: None)
    monkeypatch.chdir(tmp_path)
    return made


def test_it_prints_tables_and_writes_a_page(
    asked: Asked, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEARFAR_KEYS", "missing")
    monkeypatch.setenv("NEARFAR_QUICK", "1")
    assert contrast.main([]) == 0
    assert os.environ["NEARFAR_KEYS"] == "missing"
    assert asked == [(set(PARTS), FULL)]
    said = capsys.readouterr().out
    assert "\nQueues: items after faults\n" in said and "When to use which" in said
    assert said.endswith("written: nearfar-contrast.html\n")
    assert Path("nearfar-contrast.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_parts_and_amounts_can_be_chosen(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--quick", "--only", "pool", "--only", "faults", "-o", "a.html", "--json", "a.json"]
    assert contrast.main(words) == 0
    assert asked == [({"pool", "faults"}, QUICK)]
    assert "written: a.html, a.json" in capsys.readouterr().out
    document = json.loads(Path("a.json").read_text(encoding="utf-8"))
    assert {each["part"] for each in document["outcomes"]} == {"pool", "faults"}
    assert document["settings"]["rounds"] == QUICK.rounds


def test_without_a_redis_server_the_page_says_that_redis_is_left_out(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert contrast.main(["--only", "pool"]) == 0
    assert "redis is left out: it needs redis-server" in Path("nearfar-contrast.html").read_text("utf-8")


def test_a_measurement_without_a_result_is_exit_code_1(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lame = MeasurementOutcome(Measurement("queue", "latency", "near", 0), trouble="stuck for 20 s")
    monkeypatch.setattr(contrast, "measure", lambda groups, settings, told, **_: told.append(lame))
    assert contrast.main([]) == 1
    assert "!  queue: latency, near: stuck for 20 s" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["jinja2", "rich"])
def test_without_the_extra_it_names_it_before_anything_is_measured(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    monkeypatch.setattr(contrast, "find_spec", lambda name: None if name == missing else name)
    assert contrast.main([]) == 2
    needed = "the report needs jinja2 and rich: pip install 'nearfar[contrast]'"
    assert capsys.readouterr() == ("", f"nearfar contrast: {needed}\n")
    assert asked == [] and list(Path().iterdir()) == []


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


@pytest.mark.parametrize("some", [0, 5])
def test_after_a_signal_it_writes_what_was_measured(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], some: int
) -> None:
    """Given an existing page, I expect it to be kept if there is nothing to write."""
    Path("page.html").write_text("old")

    def stop(
        groups: Sequence[MeasurementGroup], settings: Settings, told: list[MeasurementOutcome], **_: object
    ) -> None:
        told += outcomes()[:some]
        raise KeyboardInterrupt(signal.SIGINT)

    monkeypatch.setattr(contrast, "measure", stop)
    assert contrast.main(["-o", "page.html"]) == 130
    said = "what was measured" if some else "nothing"
    assert capsys.readouterr().err == f"\nstopped; {said} is written\n"
    page = Path("page.html").read_text(encoding="utf-8")
    assert "stopped after 5 of " in page if some else page == "old"


def test_an_unknown_part_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        contrast.main(["--only", "weather"])
    assert left.value.code == 2
    assert "'weather' is none of queue, faults, download, pool" in capsys.readouterr().err


def test_a_signal_ends_it_and_all_that_it_started(shell: Shell, tmp_path: Path) -> None:
    program = shell.start("contrast", "--quick", "--only", "pool", "-o", "page.html")
    assert program.stderr is not None
    assert program.stderr.readline() == "[1/30] pool: speed, multiprocessing.Pool\n"
    program.send_signal(signal.SIGTERM)
    out, err = program.communicate(timeout=90)
    assert program.returncode == 143
    assert err.endswith("stopped; what was measured is written\n")
    assert "!  stopped after " in out
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_device_a_pipe_and_a_symlink_are_written_to_and_stay(asked: Asked) -> None:
    os.mkfifo("pipe")
    Path("link").symlink_to("page.html")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert contrast.main(["-o", "link", "--json", "pipe", "--only", "pool"]) == 0
    assert os.read(reader, 2) == b"{\n"
    os.close(reader)
    assert Path("link").is_symlink() and "<!DOCTYPE html>" in Path("page.html").read_text()
    assert contrast.main(["-o", "/dev/null", "--json", "/dev/null", "--only", "pool"]) == 0
    assert Path("pipe").is_fifo() and stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert {path.name for path in Path().iterdir()} == {"pipe", "link", "page.html"}


def test_two_outputs_to_one_file_are_refused(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    assert contrast.main(["-o", "one", "--json", "./one"]) == 2
    assert "name one file: name two" in capsys.readouterr().err
    assert asked == [] and list(Path().iterdir()) == []
