"""The programs on the pages for users run, and print the output that the pages show.

A block that begins with ``python NAME.py`` is a program. The next block that begins with ``$ python`` is what
is typed to run it, and what comes; where that may vary the page has ``…``.
"""

from __future__ import annotations

import ast
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.pool.pools import coordinated

DOCS = Path(__file__).parents[1] / "docs"
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUEUE, POOL = "127.0.0.1:5555", "127.0.0.1:5556"
PAGES = [page for page in sorted(DOCS.glob("*.md")) if "```python" in page.read_text(encoding="utf-8")]


LIMIT = 80.0
"""Seconds that a page's programs may take."""


class Play(NamedTuple):
    """Programs by name, the commands, and the expected output."""

    programs: dict[str, str]
    command: str
    prints: str


def plays(page: Path) -> Iterator[Play]:
    programs: dict[str, str] = {}
    for kind, body in FENCE.findall(page.read_text(encoding="utf-8")):
        if kind.startswith("python "):
            programs[kind.split()[1]] = body
        elif programs and body.startswith("$ python "):
            command, _, prints = body.removeprefix("$ ").partition("\n")
            yield Play(programs, command, prints)
            programs = {}
    assert not programs, f"{page.name} does not say what comes of {', '.join(programs)}"


ALL = [pytest.param(play, id=f"{page.stem}-{[*play.programs][-1]}") for page in PAGES for play in plays(page)]


@pytest.mark.parametrize("play", ALL)
def test_a_page_s_program_prints_what_the_page_says(play: Play, tmp_path: Path) -> None:
    used = "".join(play.programs.values())
    with ExitStack() as stack, socket.create_server(("127.0.0.1", 0)) as free:
        coordinator = stack.enter_context(coordinated(2) if POOL in used else nullcontext(""))
        places = {QUEUE: f"127.0.0.1:{free.getsockname()[1]}", POOL: coordinator.removeprefix("tcp://")}
        free.close()
        for name, text in play.programs.items():
            for said, place in places.items():
                text = text.replace(said, place)
            (tmp_path / name).write_text(text, encoding="utf-8")
        code, out, err = typed(play.command, tmp_path)
    assert re.fullmatch(as_pattern(play.prints), out), out + err
    assert (code, err) == (0, "")


def typed(command: str, folder: Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error. A command that does not end is killed with its
    children."""
    with subprocess.Popen(
        command,
        shell=True,
        cwd=folder,
        env=shell(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as process:
        try:
            out, err = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, out, err


def shell() -> dict[str, str]:
    """An environment in which ``python`` and ``nearfar`` are those that run the tests."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def as_pattern(prints: str) -> str:
    return ".*".join(re.escape(part) for part in prints.split("…"))


def test_a_page_without_expected_output_is_an_error(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python alone.py\nprint(1)\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError, match=r"does not say what comes of alone\.py"):
        list(plays(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_block_can_be_read(page: Path) -> None:
    for kind, body in FENCE.findall(page.read_text(encoding="utf-8")):
        if kind.startswith("python"):
            ast.parse(body)
