"""A file gets its name in one step, and replaces no other file unless told to."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from nearfar.download.store import folders
from nearfar.download.store.folders import rename_new


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "temporary").write_bytes(b"ours")
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def no_links(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def test_a_name_is_given_in_one_step_unless_it_is_taken(folder: int, tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"theirs")
    with pytest.raises(FileExistsError):
        rename_new(b"temporary", "taken", folder)
    with pytest.raises(FileNotFoundError):
        rename_new(b"nothing", "name", folder)
    assert (tmp_path / "taken").read_bytes() == b"theirs"
    if rename_new(b"temporary", "name", folder):
        assert (tmp_path / "name").read_bytes() == b"ours"
        assert not (tmp_path / "temporary").exists()


@pytest.fixture(params=[True, False], ids=["renameat2", "without"])
def renames(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the system's rename that replaces nothing, and where there is none."""
    if not request.param:
        monkeypatch.setattr(folders, "rename_new", lambda old, new, folder: False)


@pytest.mark.usefixtures("renames")
def test_a_file_that_appears_at_the_last_moment_is_not_overwritten(
    folder: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "name").write_bytes(b"theirs")
    monkeypatch.setattr(folders, "kind", lambda name, folder: None)
    with pytest.raises(FileExistsError):
        folders.place(b"temporary", "name", folder, replace=False)
    assert (tmp_path / "name").read_bytes() == b"theirs"


@pytest.mark.usefixtures("renames")
@pytest.mark.parametrize("replace", [False, True])
def test_a_file_system_without_hard_links_will_do(
    folder: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replace: bool
) -> None:
    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "taken").write_bytes(b"theirs")
    if replace:
        folders.place(b"temporary", "taken", folder, replace=True)
        assert (tmp_path / "taken").read_bytes() == b"ours"
    else:
        with pytest.raises(FileExistsError):
            folders.place(b"temporary", "taken", folder, replace=False)
        folders.place(b"temporary", "name", folder, replace=False)
        assert (tmp_path / "name").read_bytes() == b"ours"
    assert not (tmp_path / "temporary").exists()
