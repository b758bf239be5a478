"""``--no-private`` travels to wherever the fetching is done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nearfar.cli.exits import Exit
from tests.download.trade.commands import Commands, ended
from tests.support.routes import content
from tests.support.web import Web

REFUSED = (Exit.FAILED, "1 url: 0 saved, 0 already there, 1 failed (rejected 1)")


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    commands = Commands(tmp_path)
    yield commands
    commands.close()


@pytest.mark.parametrize("where", ["here", "local", "pool"])
def test_it_holds_in_every_process_that_fetches(commands: Commands, where: str) -> None:
    with Web() as web:
        web.routes["*"] = content(b"inside")
        options = ["--no-private", web.url("/a")]
        if where == "local":
            options += ["--queue", "local", "-o", "files"]
        else:
            commands.host("-o", "files")
            options += ["--queue", commands.address, *(["--pool", "local:1"] if where == "pool" else [])]
        assert ended(commands.start("producer", *options)) == REFUSED
        assert web.connections == 0
    assert "127.0.0.1 is no public address" in (commands.folder / "nearfar-failures.txt").read_text()
