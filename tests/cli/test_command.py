"""The command ``nearfar`` finds its programs and passes the rest of the line to them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

import nearfar
from nearfar.__main__ import PROGRAMS, main

HELPERS = {
    "bars",
    "common",
    "configuration",
    "dashboard",
    "display",
    "exits",
    "options",
    "parser",
    "progress",
    "status_readers",
}


def test_help_names_every_program_with_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:-2]] == list(PROGRAMS)


def test_every_module_of_the_command_line_is_a_program_or_a_helper() -> None:
    folder = Path(nearfar.__file__).parent / "cli"
    assert {path.stem for path in folder.glob("[!_]*.py")} == PROGRAMS.keys() | HELPERS


def test_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"nearfar {nearfar.__version__}\n"


def test_a_program_gets_the_rest_of_the_line_and_gives_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[str] = []

    def run(argv: Sequence[str] | None = None) -> int:
        got.extend(argv or ())
        return 3

    program = ModuleType("nearfar.cli.producer")
    monkeypatch.setattr(program, "main", run, raising=False)
    monkeypatch.setitem(sys.modules, program.__name__, program)
    assert main(["producer", "--queue", "tcp://storage:5555", "--help"]) == 3
    assert got == ["--queue", "tcp://storage:5555", "--help"]


def test_python_m_nearfar_is_the_command() -> None:
    run = subprocess.run([sys.executable, "-m", "nearfar", "-V"], capture_output=True, text=True, check=True)
    assert run.stdout == f"nearfar {nearfar.__version__}\n"
