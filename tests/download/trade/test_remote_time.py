"""``-R``: files keep the time of their last modification, near, far and by a pool."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nearfar.cli.exits import Exit
from nearfar.download.model import Body, Head, Job, Saved
from nearfar.download.store.store import Store
from tests.download.trade.commands import Commands, ended
from tests.support.routes import content
from tests.support.web import Web

DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
THEN = 784111777
SLOW = pytest.mark.slow
NOW = 1_700_000_000.0
LARGE = b"large " * 500_000


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    commands = Commands(tmp_path)
    yield commands
    commands.close()


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as web:
        web.routes["/small.png"] = content(b"small", last_modified=DATE)
        web.routes["/large.bin"] = content(LARGE, last_modified=DATE)
        web.routes["/undated.png"] = content(b"undated")
        yield web


@pytest.mark.parametrize(
    "way", ["near", "far", pytest.param("near, with queues", marks=SLOW), pytest.param("pooled", marks=SLOW)]
)
def test_files_keep_their_time_and_are_known_again(way: str, web: Web, commands: Commands) -> None:
    urls = [web.url(f"/{name}") for name in ("small.png", "large.bin", "undated.png")]
    for expected in ("3 saved, 0 already", "0 saved, 3 already"):
        if way.startswith("near"):
            queues = ["-P", "1", "-C", "1"] if "queues" in way else []
            producer = commands.start("producer", "--queue", "local", "-o", "out", "-R", *queues, *urls)
        else:
            commands.host("-o", "out", "-R")
            pool = ["--pool", "local:1"] if way == "pooled" else []
            producer = commands.start("producer", "--queue", commands.address, *pool, *urls)
        code, said = ended(producer)
        assert code == Exit.OK and expected in said
    times = {path.name: path.stat().st_mtime for path in (commands.folder / "out").glob("*.*")}
    assert times["small.png"] == times["large.bin"] == THEN
    assert abs(times["undated.png"] - time.time()) < 3600


def saved_at(folder: Path, modified: str | None, *, remote_time: bool) -> float:
    with Store(folder, remote_time=remote_time, clock=lambda: NOW) as store:
        draft = store.put(
            Job("http://h/a.png"), Head("http://h/a.png", 200, modified=modified), Body(1, None), b"a"
        )
        ((_, saved),) = store.commit([draft])
    assert isinstance(saved, Saved)
    return (folder / saved.name).stat().st_mtime


@pytest.mark.parametrize("modified", [None, "", "yesterday", "Sun, 06 Nov 2094 08:49:37 GMT", "x" * 5000])
def test_a_time_that_is_missing_wrong_or_in_the_future_is_not_used(
    modified: str | None, tmp_path: Path
) -> None:
    assert abs(saved_at(tmp_path, modified, remote_time=True) - time.time()) < 3600


def test_without_the_option_the_time_is_that_of_the_download(tmp_path: Path) -> None:
    assert abs(saved_at(tmp_path, DATE, remote_time=False) - time.time()) < 3600
    assert saved_at(tmp_path / "other", DATE, remote_time=True) == THEN


def test_the_option_belongs_to_the_side_that_saves(commands: Commands) -> None:
    process = commands.start("producer", "-R", "http://h/")
    _, err = process.communicate(timeout=90)
    assert process.returncode == Exit.USAGE
    assert "-R needs --queue local: otherwise it is an option of nearfar consumer" in err
