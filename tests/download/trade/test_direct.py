"""``producer --queue local`` by default: each process fetches and saves, and is killed at each step."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nearfar.cli.exits import Exit
from nearfar.download.local import FRUITLESS
from tests.download.trade.commands import ALL, LARGE, SMALL, ended, saved_in, serve
from tests.support.programs import starter
from tests.support.waiting import eventually
from tests.support.web import Web

COUNT = len(ALL)
CHILD = (
    *("asked what is known", "draft open", "draft written", "draft finished", "file whole", "before fsync"),
    *("synced", "intended", "placed", "renamed", "recorded", "done", "committed", "file ended"),
)
PARENT = ("near starts", "near feeds", "near hears")


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as web:
        serve(web)
        yield web


def start(web: Web, folder: Path, *prefix: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    (folder / "urls.txt").write_text("\n".join(map(web.url, ["/large.bin", *SMALL])))
    arguments = ["producer", "-i", str(folder / "urls.txt"), "--queue", "local", "-o", str(folder / "files")]
    command = [sys.executable, "-m", *(prefix or ["nearfar"]), *arguments, *options]
    return starter(command)(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def struck(web: Web, folder: Path, point: str, nth: int) -> subprocess.Popen[str]:
    return start(web, folder, "tests.download.trade.struck", str(folder), point, str(nth))


def verify(folder: Path) -> None:
    """Every file is there, whole, and nothing but the manifest beside them."""
    assert saved_in(folder / "files") == ALL
    manifest = {".nearfar.sqlite", ".nearfar.sqlite-wal", ".nearfar.sqlite-shm"}
    assert {path.name for path in (folder / "files").glob(".*")} <= manifest


@pytest.mark.parametrize("nth", [1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("point", CHILD)
def test_a_process_that_is_killed_costs_what_it_had_in_hand(
    web: Web, tmp_path: Path, point: str, nth: int
) -> None:
    process = struck(web, tmp_path, point, nth)
    out, err = process.communicate(timeout=90)
    assert (process.returncode, out) == (Exit.OK, f"{COUNT} urls: {COUNT} saved, 0 already there, 0 failed\n")
    assert "Traceback" not in err
    assert err.count("lost a download process") == len(list((tmp_path / "struck").iterdir())) <= 1
    assert nth > 1 or "lost a download process" in err
    verify(tmp_path)


@pytest.mark.parametrize("point", PARENT)
def test_no_process_outlives_a_command_that_is_killed_and_the_same_command_goes_on(
    web: Web, tmp_path: Path, point: str
) -> None:
    process = struck(web, tmp_path, point, 2 if point != "near starts" else 1)
    process.communicate(timeout=90)
    assert process.returncode < 0
    assert eventually(lambda: not _writers(tmp_path / "files"), within=10)
    there = saved_in(tmp_path / "files").keys()
    saved, before = len(there), len(web.log)
    assert ended(start(web, tmp_path)) == (
        Exit.OK,
        f"{COUNT} urls: {COUNT - saved} saved, {saved} already there, 0 failed",
    )
    # The server may log requests of the killed command late: for files that were not saved.
    assert not there & {request.path[1:] for request in web.log[before:]}
    verify(tmp_path)


def test_processes_that_die_again_and_again_are_given_up(web: Web, tmp_path: Path) -> None:
    script = (
        "import os, sys; from nearfar.download.local_store import LocalStore\n"
        "LocalStore.add = lambda self, draft, settle: os.kill(os.getpid(), 9)\n"
        "from nearfar.__main__ import main\n"
        "if __name__ == '__main__': sys.exit(main(sys.argv[1:]))\n"
    )
    (tmp_path / "deadly.py").write_text(script)
    run = subprocess.run(
        [sys.executable, "deadly.py", "producer", web.url("/1.png"), "--queue", "local", "-o", "files"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert run.returncode == Exit.LOST
    assert f"the processes died {FRUITLESS} times without getting anything done" in run.stderr
    assert run.stdout.startswith("1 url: 0 saved, 0 already there, 0 failed, 1 left")


def test_the_transfers_that_a_user_allows_are_those_of_all_processes(web: Web, tmp_path: Path) -> None:
    assert ended(start(web, tmp_path, options=("--jobs", "10", "--per-host", "9")))[0] == Exit.OK
    assert web.most_at_once <= 9


def test_a_large_file_is_hashed_and_whole(web: Web, tmp_path: Path) -> None:
    assert ended(start(web, tmp_path))[0] == Exit.OK
    assert saved_in(tmp_path / "files")["large.bin"] == LARGE


def _writers(folder: Path) -> list[str]:
    """The processes that have the manifest open."""
    manifest, found = str(folder / ".nearfar.sqlite"), []
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(descriptor.readlink()) == manifest:
                found.append(descriptor.parts[2])
        except OSError:
            continue
    return found
