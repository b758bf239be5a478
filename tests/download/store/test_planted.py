"""What is planted in a directory leads nowhere: symlinks, pipes, folders and files in the way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nearfar.download.model import Reason, StoreError
from nearfar.download.store import owners
from nearfar.download.store.store import Store
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
    assert caught.value.reason is Reason.REJECTED
    assert list(outside.iterdir()) == []


def test_a_symlinked_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".nearfar.sqlite").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError) as caught:
        Store(tmp_path)
    assert caught.value.reason is Reason.REJECTED
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_fifo_or_a_directory_at_the_target_is_left_alone(tmp_path: Path, overwrite: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with Store(tmp_path, overwrite=overwrite) as store:
        assert saved(save(store, job("pipe"))).name == distinct("pipe", "pipe", "")
        assert failed(save(store, job(name="pipe"))).reason is Reason.REJECTED
        assert failed(save(store, job(name="folder"))).reason is Reason.REJECTED
    assert (tmp_path / "pipe").is_fifo()


def test_a_name_below_a_file_is_refused(store: Store) -> None:
    save(store, job())
    with pytest.raises(StoreError) as caught:
        draft(store, job("b.png", name="a.png/b.png"))
    assert caught.value.reason is Reason.REJECTED


@pytest.mark.parametrize("plant", ["fifo", "link", "folder"])
def test_what_is_planted_as_an_owners_file_holds_nobody_up_and_stays(tmp_path: Path, plant: str) -> None:
    """Given a pipe where a dead store's lock would lie, I expect stores to open, sweep and save."""
    token = "0123456789abcdef"
    place = tmp_path / f".nearfar-{token}.owner"
    (tmp_path / f".nearfar-{token}-1.part").write_text("of a killed one")
    (tmp_path / f".nearfar-{token}-2.part").mkdir()
    if plant == "fifo":
        os.mkfifo(place)
    elif plant == "link":
        place.symlink_to(tmp_path / "outside")
    else:
        place.mkdir()
    before = place.lstat().st_ino
    with Store(tmp_path) as store:
        store.sweep()
        assert not (tmp_path / f".nearfar-{token}-1.part").exists()
        assert not owners.alive(token, store._folders.root)
        assert saved(save(store, job())).name == "a.png"
    assert place.lstat().st_ino == before and not (tmp_path / "outside").exists()


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_a_pipe_in_the_place_of_the_manifest_is_refused(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f".nearfar.sqlite{suffix}")
    with pytest.raises(StoreError, match="not a regular file"):
        Store(tmp_path)


def test_a_pipe_in_the_place_of_a_saved_file_is_not_read(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        save(store, job())
        (tmp_path / "a.png").unlink()
        os.mkfifo(tmp_path / "a.png")
        assert store.known([job()]) == [None]
        assert saved(save(store, job())).name == distinct("a.png")
