"""A name is given in one step, and never over what is there unasked."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from nearfar.download.store import folders


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "temporary").write_bytes(b"ours")
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def no_links(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def test_a_file_that_appears_at_the_last_moment_is_not_overwritten(
    folder: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "name").write_bytes(b"theirs")
    monkeypatch.setattr(folders, "kind", lambda name, folder: None)
    with pytest.raises(FileExistsError):
        folders.place("temporary", "name", folder, replace=False)
    assert (tmp_path / "name").read_bytes() == b"theirs"


@pytest.mark.parametrize("replace", [False, True])
def test_a_file_system_without_hard_links_will_do(
    folder: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replace: bool
) -> None:
    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "taken").write_bytes(b"theirs")
    if replace:
        folders.place("temporary", "taken", folder, replace=True)
        assert (tmp_path / "taken").read_bytes() == b"ours"
    else:
        with pytest.raises(FileExistsError):
            folders.place("temporary", "taken", folder, replace=False)
        folders.place("temporary", "name", folder, replace=False)
        assert (tmp_path / "name").read_bytes() == b"ours"
    assert not (tmp_path / "temporary").exists()
