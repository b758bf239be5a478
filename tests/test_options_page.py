"""The page of options names options that exist, and every option of the downloader."""

from __future__ import annotations

import argparse
import re
from importlib import import_module
from pathlib import Path

import pytest

from nearfar.__main__ import PROGRAMS

pytestmark = pytest.mark.pure

PAGE = (Path(__file__).parent.parent / "docs" / "options.md").read_text(encoding="utf-8")
UNTOLD = {
    "--overwrite",
    "--producers",
    "--consumers",
    "--pool",
    "--bind",
    "--queue",
    "--lanes",
    "--wait",
    "--help",
}
UNTOLD |= {"--expect", "--wait-for-host", "--no-private"}
"""Options of the producer that no other tool has."""


def options(name: str) -> set[str]:
    parser: argparse.ArgumentParser = import_module(f"nearfar.cli.{name}").make_parser()
    shown = (action for action in parser._actions if action.help is not argparse.SUPPRESS)
    return {option for action in shown for option in action.option_strings}


def first_column() -> list[str]:
    return [line.split(" | ")[0] for line in PAGE.splitlines() if line.startswith("| `")]


def test_every_option_that_it_names_exists() -> None:
    known = set().union(*(options(name) for name in PROGRAMS if name != "keys"))
    named = {word for cell in first_column() for word in re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", cell)}
    assert len(named) > 40
    assert named - known == set()


def test_it_names_every_option_of_the_producer() -> None:
    named = set(re.findall(r"--[\w-]+", " ".join(first_column())))
    long = {option for option in options("producer") if option.startswith("--")}
    assert long - named - UNTOLD == set()


def test_it_names_every_field_of_the_results() -> None:
    """Those that `tests/cli/test_json.py` compares."""
    source = (Path(__file__).parent / "cli" / "test_json.py").read_text(encoding="utf-8")
    fields = set(re.findall(r'^ +"(\w+)": ', source, re.MULTILINE)) | {"clients", "not_in_list", "repaired"}
    assert len(fields) > 10
    assert {field for field in fields if f"`{field}`" not in PAGE} == set()
