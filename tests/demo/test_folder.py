"""The demo removes only files that a demo made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nearfar.demo.tour import MARK, FolderUnusable, output_folder

pytestmark = pytest.mark.pure

NAMES = ("near", "far")


def fill(root: Path) -> None:
    """Make the files that a demo leaves."""
    with output_folder(root, NAMES):
        for name in NAMES:
            (root / name).mkdir()
            for file in ("0001.png", "0001-ee3537af.png", ".nearfar.sqlite", ".nearfar-1.part"):
                (root / name / file).touch()
        for file in ("urls.txt", "near-failures.txt", ".far-failures.txt.77"):
            (root / file).touch()


def left(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def test_an_earlier_demo_is_removed(tmp_path: Path) -> None:
    root = tmp_path / "new" / "output"
    fill(root)
    with output_folder(root, NAMES):
        assert left(root) == {MARK}


def test_a_folder_that_is_not_a_demos_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "0001.png").touch()
    with pytest.raises(FolderUnusable, match="not from a demo"), output_folder(tmp_path, NAMES):
        pass
    assert left(tmp_path) == {"near", "near/0001.png"}


def test_a_file_that_no_demo_makes_stays_and_is_named(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "far" / "notes.txt").touch()
    with pytest.raises(FolderUnusable, match=r"holds 'notes\.txt'"), output_folder(tmp_path, NAMES):
        pass
    assert (tmp_path / "far" / "notes.txt").exists()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "output", tmp_path / "elsewhere"
    fill(root)
    elsewhere.mkdir()
    (elsewhere / "0001.png").touch()
    (root / "near" / ".nearfar.sqlite").unlink()
    (root / "near").rename(root / "near-before")
    (root / "near").symlink_to(elsewhere)
    with pytest.raises(FolderUnusable, match="is a link"), output_folder(root, NAMES):
        pass
    assert (elsewhere / "0001.png").exists()


def test_two_demos_cannot_use_one_folder(tmp_path: Path) -> None:
    with (
        output_folder(tmp_path, NAMES),
        pytest.raises(FolderUnusable, match="another demo"),
        output_folder(tmp_path, NAMES),
    ):
        pass


def test_an_unusable_folder_is_a_short_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FolderUnusable, match=r"cannot use .*file"), output_folder(tmp_path / "file", NAMES):
        pass


@pytest.mark.parametrize("plant", ["fifo", "link"])
def test_a_mark_that_is_not_a_regular_file_is_refused(tmp_path: Path, plant: str) -> None:
    root, outside = tmp_path / "output", tmp_path / "outside"
    root.mkdir()
    outside.write_text("precious")
    if plant == "fifo":
        os.mkfifo(root / MARK)
    else:
        (root / MARK).symlink_to(outside)
    with pytest.raises(FolderUnusable), output_folder(root, NAMES):
        pass
    assert outside.read_text() == "precious"
