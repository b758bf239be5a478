"""``nearfar demo`` succeeds, reports errors, and leaves no process running."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from nearfar.cli import demo
from nearfar.cli.exits import Exit
from nearfar.demo.gallery import Gallery
from nearfar.demo.tour import FOLDERS, CheckedFiles, DemoRun, tell
from tests.support.waiting import eventually

DEMO = [sys.executable, "-m", "nearfar", "demo"]
SMALL = Gallery(count=120, large=1, seed="demo")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "PICTURES", SMALL)
    monkeypatch.setattr(demo.StopRequest, "SIGNALS", ())


@pytest.mark.parametrize("color", ["auto", "always", "never"])
def test_the_demo_takes_no_settings_and_colors_as_it_is_told(
    color: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None
) -> None:
    seen: list[object] = []

    def tour(root: Path, gallery: Gallery, console: Console) -> list[str]:
        seen.extend((root, console.color_system, os.environ.get("NEARFAR_KEYS")))
        return []

    monkeypatch.setattr(demo, "give_tour", tour)
    monkeypatch.setenv("NEARFAR_KEYS", "missing")
    monkeypatch.setenv("NEARFAR_OUTPUT", "elsewhere")
    assert demo.main(["--output", str(tmp_path), "--color", color]) == Exit.OK
    assert seen == [tmp_path, "standard" if color == "always" else None, None]
    assert os.environ["NEARFAR_KEYS"] == "missing"


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_the_demo_runs_near_and_far_and_survives_a_kill(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main(["--output", str(tmp_path / "out")]) == Exit.OK
    out = capsys.readouterr().out
    assert out.count("Checked: 121 files, equal byte for byte") == 4
    assert "kill -9" in out
    assert re.search(r"far, one killed +3 - 1 +121 +1 ", out)
    assert re.search(r"far, by a pool +3 \+ 4 +121 +1 ", out)
    assert re.search(r"Your turn.*\n.*consumer -o downloads\n.*\n.*producer http", out)
    for name in FOLDERS[:2]:
        saved = {path.name: path.read_bytes() for path in (tmp_path / "out" / name).glob("????.png")}
        assert saved == {name: SMALL.picture(name) for name in SMALL.names()}


def test_an_error_fails_the_demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, small: None
) -> None:
    run = DemoRun("near", "3", 1.0, [], CheckedFiles())

    def tour(root: Path, gallery: Gallery, console: Console) -> list[str]:
        tell(run, ["a is not b"], lambda checked: "")
        return ["a is not b"]

    monkeypatch.setattr(demo, "give_tour", tour)
    assert demo.main(["--output", str(tmp_path)]) == Exit.FAILED
    assert capsys.readouterr() == (
        "   WRONG: a is not b\n",
        "nearfar demo: 1 check failed: see WRONG above\n",
    )


@pytest.mark.parametrize("missing", ["pycurl", "rich"])
def test_without_the_extra_it_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name == missing else name)
    assert demo.main(["--output", str(tmp_path / "out")]) == Exit.USAGE
    needed = "downloading needs pycurl and rich: pip install 'nearfar[download]'"
    assert capsys.readouterr() == ("", f"nearfar demo: {needed}\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_demo_and_all_it_started(tmp_path: Path, signum: signal.Signals, code: int) -> None:
    with subprocess.Popen(
        [*DEMO, "-o", tmp_path / "out"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        while "hosting the queue" not in (line := program.stdout.readline()):
            assert line
        program.send_signal(signum)
        _, err = program.communicate(timeout=90)
    assert program.returncode == code
    assert err == "\nstopped; the next demo removes what this one saved\n"
    assert eventually(lambda: not running(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGQUIT])
def test_what_it_started_ends_with_it_however_it_is_killed(tmp_path: Path, signum: signal.Signals) -> None:
    with subprocess.Popen([*DEMO, "-o", tmp_path / "out"], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        while "hosting the queue" not in (line := program.stdout.readline()):
            assert line
        assert len(running(tmp_path)) > 1
        program.send_signal(signum)
        program.wait(20)
    assert eventually(lambda: not running(tmp_path))


def running(folder: Path) -> list[bytes]:
    """The command lines of the processes with `folder` among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes())
    return [line for line in found if os.fsencode(folder) in line]


def test_a_folder_that_cannot_be_used_is_a_short_error(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    run = subprocess.run([*DEMO, "-o", tmp_path], capture_output=True, text=True, timeout=90)
    assert (run.returncode, run.stdout) == (Exit.USAGE, "")
    assert run.stderr.startswith(f"nearfar demo: {tmp_path} is not empty")
    assert run.stderr.count("\n") == 1


def test_a_closed_output_ends_the_demo_silently(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*DEMO, "-o", tmp_path / "out"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdout.readline()
        program.stdout.close()
        assert program.stderr.read() == b""
    assert program.returncode == 128 + signal.SIGPIPE
