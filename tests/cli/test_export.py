"""``consumer --export`` lists the saved files, and neither makes nor changes any file."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import sqlite3
from pathlib import Path

import pytest

from nearfar.cli.consumer import main
from nearfar.download.model import Body, Head, Job, Saved, StoreError
from nearfar.download.store.listing import Listing
from nearfar.download.store.store import Store


def save(folder: Path, *names: str) -> None:
    with Store(folder) as store:
        put(store, *names)


def put(store: Store, *names: str) -> None:
    for name in names:
        data = name.encode()
        head = Head(f"http://h/{name}", 200, "image/png\x1b[31m")
        body = Body(len(data), hashlib.sha256(data).hexdigest())
        store.commit([store.put(Job(f"http://h/{name}"), head, body, data)])


def looks(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file of a folder, with its size and time."""
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()}


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_it_lists_every_file_and_leaves_the_folder_unchanged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    save(tmp_path / "files", "a.png", "b.png")
    before = looks(tmp_path / "files")
    assert main(["-o", str(tmp_path / "files"), "--export", form, "-"]) == 0
    out = capsys.readouterr().out
    assert main(["-o", str(tmp_path / "files"), "--export", form, str(tmp_path / "rows")]) == 0
    with (tmp_path / "rows").open(newline="") as file:
        assert file.read().replace("\r\n", "\n") == out.replace("\r\n", "\n")
    rows = (
        list(csv.DictReader(io.StringIO(out))) if form == "csv" else list(map(json.loads, out.splitlines()))
    )
    assert [row["name"] for row in rows] == ["a.png", "b.png"]
    assert set(rows[0]) == set(Saved._fields)
    assert "\x1b" not in out
    assert looks(tmp_path / "files") == before


def test_a_folder_that_is_not_there_is_an_error_and_is_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name, said in (
        ("typo", "there is no such folder"),
        ("file", "there is no such folder"),
        ("empty", "nothing was saved in this folder"),
    ):
        assert main(["-o", str(tmp_path / name), "--export", "csv", str(tmp_path / "rows.csv")]) == 2
        assert f"{name}: {said}" in capsys.readouterr().err
    assert {path.name for path in tmp_path.rglob("*")} == {"empty", "file"}


def test_it_lists_the_files_of_a_running_consumer(tmp_path: Path) -> None:
    with Store(tmp_path) as store, Listing(tmp_path) as early:
        put(store, "a.png")
        with Listing(tmp_path) as listing:
            assert [row.name for row in listing.rows()] == ["a.png"]
        put(store, "b.png")
        assert [row.name for row in early.rows()] == ["a.png", "b.png"]


def test_it_lists_the_files_that_a_killed_consumer_left_in_the_log(tmp_path: Path) -> None:
    folder, copy = tmp_path / "files", tmp_path / "copy"
    with Store(folder) as store:
        put(store, "a.png")
        copy.mkdir()
        for path in folder.glob(".nearfar.sqlite*"):
            (copy / path.name).write_bytes(path.read_bytes())
    before = set(looks(copy))
    with Listing(copy) as listing:
        assert [row.name for row in listing.rows()] == ["a.png"]
    assert set(looks(copy)) == before


def test_a_read_only_folder_can_be_exported(tmp_path: Path) -> None:
    save(tmp_path / "files", "a.png")
    (tmp_path / "files").chmod(0o555)
    with Listing(tmp_path / "files") as listing:
        assert [row.name for row in listing.rows()] == ["a.png"]


def test_the_manifest_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, "a.png")
    assert main(["-o", str(tmp_path), "--export", "csv", str(tmp_path / ".nearfar.sqlite")]) == 2
    assert "is the manifest itself" in capsys.readouterr().err
    save(tmp_path, "b.png")


def test_a_manifest_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / ".nearfar.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="not a database"):
        Listing(tmp_path)
    (tmp_path / ".nearfar.sqlite").unlink()
    later = sqlite3.connect(tmp_path / ".nearfar.sqlite")
    later.execute("PRAGMA user_version = 99")
    later.close()
    with pytest.raises(StoreError, match="version 99"):
        Listing(tmp_path)
    (tmp_path / ".nearfar.sqlite").unlink()
    os.mkfifo(tmp_path / ".nearfar.sqlite")
    with pytest.raises(StoreError, match="not a regular file"):
        Listing(tmp_path)
