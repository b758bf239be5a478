"""``--dry-run`` says what would happen, and that is what happens then; nothing is fetched or written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nearfar.cli.exits import Exit
from tests.support import programs
from tests.support.routes import content
from tests.support.web import Web


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as web:
        web.routes["*"] = content(b"x")
        yield web


def producer(folder: Path, *words: str, stdin: str = "") -> tuple[int, str, str]:
    run = programs.run("producer", *words, cwd=folder, text=stdin)
    assert "Traceback" not in run.stderr
    return run.returncode, run.stdout, run.stderr


def forecast(folder: Path, *words: str, stdin: str = "") -> dict[str, Any]:
    code, out, err = producer(folder, "--dry-run", "--json", *words, stdin=stdin)
    found: dict[str, Any] = json.loads(out)
    assert found["exit_code"] == code, err
    return found


LOCAL = ("--queue", "local", "-o", "out")


def test_what_it_says_is_what_happens(web: Web, tmp_path: Path) -> None:
    """Given names, one of them twice, and wrong lines, I expect these names, and then these files."""
    (tmp_path / "list").write_text(
        "\n".join(
            [
                web.url("/a/1.png"),
                web.url("/b/1.png"),
                f"{web.url('/c.png')}\tname=sub/c.png",
                web.url("/d.png?page=1"),
                web.url("/a/1.png"),
                f"{web.url('/e.png')}\tname=../e.png",
                "nonsense",
            ]
        )
    )
    said = forecast(tmp_path, *LOCAL, "-i", "list")
    assert (said["to_fetch"], said["already_there"], said["rejected"]) == (4, 1, 2)
    assert web.log == [] and sorted(path.name for path in tmp_path.iterdir()) == ["list"]
    # One transfer at a time: of two files with one name, the first that is complete gets it.
    code, out, _ = producer(tmp_path, *LOCAL, "-j", "1", "-i", "list")
    assert (code, out.splitlines()[0]) == (
        Exit.FAILED,
        "7 urls: 4 saved, 1 already there, 2 failed (rejected 2)",
    )
    files = {
        str(path.relative_to(tmp_path / "out"))
        for path in (tmp_path / "out").rglob("[!.]*")
        if path.is_file()
    }
    assert {each["name"] for each in said["dry_run"]} - {None} == files
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = forecast(tmp_path, *LOCAL, "-i", "list")
    assert (again["to_fetch"], again["already_there"], again["rejected"]) == (0, 5, 2)
    assert {each["name"] for each in again["dry_run"]} - {None} == files
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_a_file_that_is_gone_or_changed_would_be_fetched_again(web: Web, tmp_path: Path) -> None:
    producer(tmp_path, *LOCAL, web.url("/[1-3].png"))
    (tmp_path / "out" / "1.png").unlink()
    (tmp_path / "out" / "2.png").write_bytes(b"longer")
    code, out, _ = producer(tmp_path, "--dry-run", *LOCAL, web.url("/[1-3].png"))
    assert code == Exit.OK
    assert [line.partition(": ")[0] for line in out.splitlines()[:3]] == [
        "to fetch",
        "to fetch",
        "already there",
    ]
    assert out.splitlines()[3] == "3 urls: 2 to fetch, 1 already there, 0 rejected"


def test_without_a_folder_it_names_what_would_be_fetched(web: Web, tmp_path: Path) -> None:
    code, out, _ = producer(tmp_path, "--dry-run", "-i", "-", stdin=f"{web.url('/a.png?token=hush')}\n")
    assert code == Exit.OK
    first, counts, last = out.splitlines()
    assert first == f"to fetch: {web.url('/a.png?token=***')} -> a.png"
    assert counts == "1 url: 1 to fetch, 0 already there, 0 rejected"
    assert "the consumers at the queue know what is saved already" in last
    assert web.log == []


def test_globs_are_expanded_in_arguments_and_not_in_lists(web: Web, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(web.url("/[1-2].png"))
    assert forecast(tmp_path, web.url("/{a,b}[01-02].png"))["to_fetch"] == 4
    assert forecast(tmp_path, "-g", web.url("/{a,b}[01-02].png"))["to_fetch"] == 1
    assert forecast(tmp_path, "-i", "list")["to_fetch"] == 1
    code, _, err = producer(tmp_path, "--dry-run", web.url("/[2-1].png?sig=hush"))
    assert code == Exit.USAGE and err.count("\n") == 1
    assert "is no range" in err and "--globoff" in err and "hush" not in err


def test_a_glob_is_downloaded(web: Web, tmp_path: Path) -> None:
    code, out, err = producer(tmp_path, *LOCAL, web.url("/{a,b}-[001-600:2].png"))
    assert (code, out.splitlines()[0]) == (Exit.OK, "600 urls: 600 saved, 0 already there, 0 failed"), err
    names = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert names == {f"{letter}-{number:03}.png" for letter in "ab" for number in range(1, 601, 2)}
