"""A saved file that is not what it was: found, fetched again, and never thrown away."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from nearfar.download.model import Checksum, Reason
from nearfar.download.store.store import Store
from tests.download.store.making import distinct, failed, files, job, recorded, save, saved

DATA, SPOILT = b"data", b"dirt"
SHA256 = Checksum("sha256", hashlib.sha256(DATA).hexdigest())
MD5 = Checksum("md5", hashlib.md5(DATA).hexdigest())


def spoil(path: Path, *, secretly: bool) -> None:
    """Other bytes, as many; `secretly`: with the same times."""
    before = path.stat()
    path.write_bytes(SPOILT)
    if secretly:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))


@pytest.mark.parametrize("checksum", [SHA256, MD5])
@pytest.mark.parametrize("name", [None, "a.png", "sub/a.png"])
@pytest.mark.parametrize("secretly", [False, True])
def test_what_a_list_tells_is_compared_with_the_file_which_is_fetched_again(
    store: Store, tmp_path: Path, checksum: Checksum, name: str | None, secretly: bool
) -> None:
    what = job(name=name, checksum=checksum)
    first = saved(save(store, what, DATA))
    path = tmp_path / first.name
    assert store.known([what]) == [first]
    spoil(path, secretly=secretly)
    assert store.known([what]) == [None]
    again = saved(save(store, what, DATA))
    assert again.name == first.name and path.read_bytes() == DATA
    assert path.with_name("a.spoilt.png").read_bytes() == SPOILT, "what was there is set aside"
    assert store.known([what]) == [again]
    assert len(recorded(tmp_path)) == 1


def test_without_a_checksum_a_file_written_to_since_is_fetched_again_beside_it(
    store: Store, tmp_path: Path
) -> None:
    save(store, job(), DATA)
    spoil(tmp_path / "a.png", secretly=False)
    assert store.known([job()]) == [None]
    assert saved(save(store, job(), DATA)).name == distinct("a.png")
    assert files(tmp_path) == {"a.png": SPOILT, distinct("a.png"): DATA}, "it may be somebody's work"
    assert [known and known.name for known in store.known([job()])] == [distinct("a.png")]


def test_a_file_that_was_only_touched_is_there_already(store: Store, tmp_path: Path) -> None:
    first = saved(save(store, job(), DATA))
    os.utime(tmp_path / "a.png")
    assert store.known([job()]) == [first]
    assert saved(save(store, job(), DATA)) == first


def test_a_changed_file_of_a_chosen_name_is_refused_with_what_to_do(store: Store, tmp_path: Path) -> None:
    what = job(name="a.png")
    save(store, what, DATA)
    spoil(tmp_path / "a.png", secretly=False)
    failure = failed(save(store, what, DATA))
    assert failure.reason is Reason.REJECTED
    assert "`nearfar verify --repair` sets it aside, --overwrite replaces it" in failure.detail
    with Store(tmp_path, overwrite=True) as other:
        assert saved(save(other, what, DATA)).name == "a.png"
    assert files(tmp_path) == {"a.png": DATA}


def test_a_strangers_file_is_never_set_aside_for_a_checksum(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(SPOILT)
    assert failed(save(store, job(name="a.png", checksum=SHA256), DATA)).reason is Reason.REJECTED
    save(store, job("other/a.png"), DATA)
    assert saved(save(store, job(checksum=SHA256), DATA)).name == distinct("a.png")
    assert (tmp_path / "a.png").read_bytes() == SPOILT


def test_a_wrong_checksum_of_a_good_file_replaces_it_as_ever(store: Store, tmp_path: Path) -> None:
    """Given a new version at the server, and its digest in the list, I expect the new one in its place."""
    save(store, job(), b"old version")
    what = job(checksum=SHA256)
    assert store.known([what]) == [None]
    assert saved(save(store, what, DATA)).name == "a.png"
    assert files(tmp_path) == {"a.png": DATA}


def test_what_is_forgotten_is_fetched_again_under_its_name(store: Store, tmp_path: Path) -> None:
    first = saved(save(store, job(name="sub/a.png"), DATA))
    assert store.forget(first) == "sub/a.spoilt.png"
    assert store.known([job(name="sub/a.png")]) == [None]
    assert store.forget(first) is None
    assert saved(save(store, job(name="sub/a.png"), DATA)).name == "sub/a.png"
    assert len(recorded(tmp_path)) == 1
