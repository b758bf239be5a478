"""A disk that is full, read-only, gone or forbidden is a failure with a sentence, and harms nothing else."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nearfar.download.model import Failure, Head, Reason, Saved, StoreError
from nearfar.download.store.commit import OTHERS, Reserve
from nearfar.download.store.draft import Draft
from nearfar.download.store.listing import Listing
from nearfar.download.store.store import Store
from tests.download.store.making import SITE, draft, failed, files, job, recorded, save, saved, temporaries

SIZE = 2 << 20
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system wants root")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=755", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    if mounted.returncode:
        pytest.skip(f"no tmpfs here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], timeout=90, check=True)


def fill(place: Path) -> Path:
    """Take all the space that is left."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return ballast


@needs_root
def test_a_full_disk_fails_the_file_that_does_not_fit_and_no_other(small: Path) -> None:
    with Store(small) as store:
        fits, too_large = draft(store, job()), store.open(job("large"), Head(SITE, 200))
        with pytest.raises(StoreError, match="no space left") as caught:
            for _ in range(3):
                too_large.write(bytes(1 << 20))
        assert caught.value.reason is Reason.DISK
        assert len([name for name in temporaries(small) if name.endswith(".part")]) == 1
        [(_, ending)] = store.commit([fits])
        assert saved(ending).name == "a.png"
    assert files(small) == {"a.png": b"data"}


@needs_root
def test_complete_drafts_are_saved_though_the_disk_is_full(small: Path) -> None:
    with Store(small) as store:
        drafts = [draft(store, job(f"{number}.png")) for number in range(100)]
        ballast = fill(small)
        assert all(saved(ending) for _, ending in store.commit(drafts))
        assert len(files(small)) == 101
        later: list[Draft] = []
        with pytest.raises(StoreError, match="no space left") as caught:
            later.extend(draft(store, job(f"later-{number}.png")) for number in range(500))
        assert caught.value.reason is Reason.DISK
        assert all(saved(ending) for _, ending in store.commit(later)), "what is whole is saved again"
        ballast.unlink()
        assert saved(save(store, job())).name == "a.png"


@needs_root
def test_files_give_their_room_to_the_manifest_where_what_was_kept_for_it_is_gone(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given another program that took the last room, I expect half or so to be saved, and all known after."""
    monkeypatch.setattr(Reserve, "keep", lambda self: None)
    jobs = [job(f"{number}.png") for number in range(100)]
    with Store(small) as store:
        drafts = [draft(store, one) for one in jobs]
        ballast = fill(small)
        endings = [ending for _, ending in store.commit(drafts)]
        there = [ending for ending in endings if isinstance(ending, Saved)]
        assert {failed(ending).reason for ending in endings if ending not in there} == {Reason.DISK}
        assert len(there) >= 25
        assert set(files(small)) == {ending.name for ending in there} | {"ballast"}
        ballast.unlink()
        assert [saved for saved in store.known(jobs) if saved] == there
        assert all(saved(ending) for _, ending in store.commit([draft(store, one) for one in jobs]))
        assert len(files(small)) == 100


@needs_root
def test_a_batch_larger_than_the_disk_saves_what_fits(small: Path) -> None:
    """Given 4 MiB for 201 files of 30 kB, I expect about as many as there is room for, in any grouping."""
    subprocess.run(["mount", "-o", "remount,size=4m", str(small)], timeout=90, check=True)
    group: list[Draft] = []
    endings: list[Saved | Failure] = []
    with Store(small) as store:
        for number in range(201):
            try:
                group.append(draft(store, job(f"{number}.bin"), bytes(30_000)))
            except StoreError as error:
                endings.append(error.failure)
            if len(group) == 60 or number == 200:
                endings += [ending for _, ending in store.commit(group)]
                group.clear()
        there = [ending for ending in endings if isinstance(ending, Saved)]
        assert len(endings) == 201 and len(there) >= 70
        assert {ending.reason for ending in endings if isinstance(ending, Failure)} == {Reason.DISK}
        assert set(files(small)) == {ending.name for ending in there}
        assert len([name for name in temporaries(small) if name.endswith(".part")]) == 0
    with Listing(small) as listing:
        assert {row.name for row in listing.rows()} == {ending.name for ending in there}


@needs_root
@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("reserve", [False, True])
def test_what_was_named_before_the_manifest_filled_up_is_known_afterwards(
    small: Path, restart: bool, reserve: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not reserve:
        monkeypatch.setattr(Reserve, "keep", lambda self: None)
    count = 200

    def step(name: str) -> None:
        if name == "intended" and not ballast:
            ballast.append(fill(small))

    ballast: list[Path] = []
    jobs = [job(f"{number}.png") for number in range(count)]
    store = Store(small, step=step)
    try:
        endings = store.commit([draft(store, one) for one in jobs])
        if reserve:
            assert all(saved(ending) for _, ending in endings)
        ballast[0].unlink()
        named = len(files(small))
        if restart:
            store.close()
            store = Store(small)
            store.sweep()
            assert sum(known is not None for known in store.known(jobs)) == named
        subprocess.run(["mount", "-o", "remount,size=6m", str(small)], timeout=90, check=True)
        assert all(saved(ending) for _, ending in store.commit([draft(store, one) for one in jobs]))
        assert len(recorded(small)) == len(files(small)) == count
    finally:
        store.close()


@needs_root
def test_a_store_on_a_full_or_read_only_disk_says_so(small: Path) -> None:
    ballast = fill(small)
    with pytest.raises(StoreError) as caught:
        Store(small)
    assert caught.value.reason is Reason.DISK
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(small)], timeout=90, check=True)
    for place in (small, small / "new"):
        with pytest.raises(StoreError) as caught:
            Store(place)
        assert caught.value.detail.endswith("the file system is read-only")


@needs_root
def test_a_forbidden_directory_is_a_failure_of_the_disk(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        os.seteuid(65534)
        try:
            with pytest.raises(StoreError, match="no permission"):
                draft(store, job())
        finally:
            os.seteuid(0)


def test_a_directory_that_vanished_is_a_failure_of_the_disk(tmp_path: Path) -> None:
    with Store(tmp_path / "here") as store:
        started = draft(store, job("b.png"))
        shutil.rmtree(tmp_path / "here")
        with pytest.raises(StoreError, match="gone"):
            draft(store, job())
        [(_, ending)] = store.commit([started])
        assert failed(ending).reason is Reason.DISK


def test_a_sub_directory_that_vanished_is_made_again(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        lost, kept = draft(store, job("b.png", "sub/b.png")), draft(store, job("c.png"))
        shutil.rmtree(tmp_path / "sub")
        (_, first), (_, second) = store.commit([lost, kept])
        assert failed(first).reason is Reason.DISK
        assert saved(second).name == "c.png"
        assert saved(save(store, job("b.png", "sub/b.png"))).name == "sub/b.png"


@pytest.mark.parametrize("limit", [60_000, 300_000, 2_000_000])
def test_a_limit_of_file_sizes_fails_what_is_larger(tmp_path: Path, limit: int) -> None:
    """``ulimit -f`` stops the manifest's log, too, which is then begun anew."""
    count = 300
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Store(tmp_path) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with pytest.raises(StoreError, match="too large for this file system"):
                draft(store, job("large.bin"), bytes(limit + 1))
            endings = []
            for start in range(0, count, 20):
                drafts = [draft(store, job(f"{number}.bin")) for number in range(start, start + 20)]
                endings += [ending for _, ending in store.commit(drafts)]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        there = [ending for ending in endings if isinstance(ending, Saved)]
        assert {failed(ending).reason for ending in endings if ending not in there} <= {Reason.DISK}
        assert len(there) > (0 if limit == 60_000 else count // 2)
        assert {ending.name for ending in there} <= set(files(tmp_path))
        for number in range(count):
            saved(save(store, job(f"{number}.bin")))
    assert len(files(tmp_path)) == count


def test_a_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError) as caught:
        Store(tmp_path / "file")
    assert caught.value.reason is Reason.DISK


def test_too_many_open_files_fail_one_draft(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        ready = draft(store, job())
        assert ready.descriptor is not None
        resource.setrlimit(resource.RLIMIT_NOFILE, (ready.descriptor + 1, hard))
        try:
            with pytest.raises(StoreError, match="too many open files"):
                for number in range(10):
                    draft(store, job(f"{number}.png"))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        [(_, ending)] = store.commit([ready])
        assert saved(ending).name == "a.png"


def test_a_group_larger_than_the_limit_of_open_files_is_saved(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken + OTHERS + 10, hard))
    try:
        with Store(tmp_path) as store:
            drafts = [draft(store, job(f"{number}.png")) for number in range(100)]
            assert sum(each.descriptor is not None for each in drafts) <= 10
            assert all(saved(ending) for _, ending in store.commit(drafts))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(files(tmp_path)) == 100


def test_a_manifest_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    with Store(tmp_path):
        pass
    manifest = sqlite3.connect(tmp_path / ".nearfar.sqlite")
    manifest.execute("PRAGMA user_version = 99")
    manifest.close()
    with pytest.raises(StoreError, match="version 99"):
        Store(tmp_path)


def test_a_manifest_that_is_none_is_a_failure_of_the_disk(tmp_path: Path) -> None:
    (tmp_path / ".nearfar.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="not a database") as caught:
        Store(tmp_path)
    assert caught.value.reason is Reason.DISK
