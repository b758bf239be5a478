"""What is planted in a directory leads nowhere: symlinks, pipes, folders and files in the way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nearfar.download.model import Reason
from nearfar.download.store import Store, StoreError
from tests.download.store.making import distinct, draft, failed, job, save, saved


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_symlink_at_the_target_is_never_written_through(tmp_path: Path, overwrite: bool) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    inside.mkdir()
    outside.write_bytes(b"precious")
    (inside / "a.png").symlink_to(outside)
    with Store(inside, overwrite=overwrite) as store:
        assert saved(save(store, job())).name == ("a.png" if overwrite else distinct("a.png"))
    assert outside.read_bytes() == b"precious"
    assert (inside / "a.png").is_symlink() is not overwrite


def test_a_symlinked_sub_directory_is_refused(
    store: Store, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (tmp_path / "sub").symlink_to(outside)
    with pytest.raises(StoreError) as caught:
        draft(store, job(name="sub/deep/a.png"))
    assert caught.value.reason is Reason.REFUSED
    assert list(outside.iterdir()) == []


def test_a_symlinked_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".nearfar.sqlite").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError) as caught:
        Store(tmp_path)
    assert caught.value.reason is Reason.REFUSED
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_fifo_or_a_directory_at_the_target_is_left_alone(tmp_path: Path, overwrite: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with Store(tmp_path, overwrite=overwrite) as store:
        assert saved(save(store, job("pipe"))).name == distinct("pipe", "pipe", "")
        assert failed(save(store, job(name="pipe"))).reason is Reason.REFUSED
        assert failed(save(store, job(name="folder"))).reason is Reason.REFUSED
    assert (tmp_path / "pipe").is_fifo()


def test_a_name_below_a_file_is_refused(store: Store) -> None:
    save(store, job())
    with pytest.raises(StoreError) as caught:
        draft(store, job("b.png", name="a.png/b.png"))
    assert caught.value.reason is Reason.REFUSED
