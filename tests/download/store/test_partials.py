"""Partial files: what is durable of a large file is continued, by whichever store of the folder; else not."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from nearfar.download.model import Body, Head, Job, Partial, Reason, StoreError, source_of
from nearfar.download.store import draft as draft_module
from nearfar.download.store import partials
from nearfar.download.store.draft import Draft
from nearfar.download.store.listing import Listing
from nearfar.download.store.store import Store
from tests.download.store.making import SITE, files, job, recorded, save, saved, temporaries
from tests.support.waiting import eventually

DATA = bytes(range(256)) * 400
HALF = len(DATA) // 2
TAG = '"1"'
LIMIT = 60.0


def head(url: str = SITE + "a.png", validator: str | None = TAG) -> Head:
    return Head(url, 200, "image/png", len(DATA), TAG, validator=validator)


def rows(directory: Path) -> list[str]:
    with closing(sqlite3.connect(directory / ".nearfar.sqlite")) as db:
        return [file for (file,) in db.execute("SELECT file FROM partials")]


def begin(directory: Path, what: Job | None = None, data: bytes = DATA[:HALF]) -> Path:
    """Begin a file, and leave it as a store that closes does; returns its temporary."""
    with Store(directory) as store:
        store.open(what or job(), head()).write(data)
    [file] = rows(directory)
    return directory / file


def offered(store: Store, what: Job | None = None) -> Partial | None:
    [found], busy = store.unfinished([what or job()])
    assert busy == []
    return found


def resume(store: Store, partial: Partial, what: Job | None = None) -> Draft | None:
    """Take a partial file over, and wait until it was read again."""
    done = threading.Event()
    resumption = store.resume(what or job(), partial.file, done.set)
    if resumption is None:
        return None
    assert done.wait(LIMIT) and resumption.done
    return store.resumed(what or job(), resumption)


def finish(store: Store, draft: Draft, data: bytes = DATA, checks: str | None = None) -> None:
    draft.write(data[draft.size :])
    draft.finish(Body(len(data), None, 1, checks))
    [(_, ending)] = store.commit([draft])
    row = saved(ending)
    assert (row.size, row.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_what_a_closed_store_had_is_continued_by_the_next_one(tmp_path: Path) -> None:
    file = begin(tmp_path)
    assert file.read_bytes() == DATA[:HALF]
    with Store(tmp_path) as store:
        assert store.sweep() == 0 and file.exists()
        partial = offered(store)
        assert partial is not None
        assert (partial.size, partial.length, partial.validator) == (HALF, len(DATA), TAG)
        assert (partial.first, partial.last) == (DATA[:512], DATA[HALF - 512 : HALF])
        assert partial.comes_from(SITE + "a.png") and not partial.comes_from(SITE + "b.png")
        draft = resume(store, partial)
        assert draft is not None and draft.size == HALF
        assert offered_to_nobody(store), "it is being written"
        finish(store, draft)
    assert files(tmp_path) == {"a.png": DATA}
    assert (rows(tmp_path), temporaries(tmp_path)) == ([], [])


def offered_to_nobody(store: Store) -> bool:
    [found], busy = store.unfinished([job()])
    return found is None and len(busy) == 1


def test_a_continued_file_gets_the_time_that_the_server_named_first(tmp_path: Path) -> None:
    named = head()._replace(modified="Tue, 15 Nov 1994 12:45:26 GMT")
    with Store(tmp_path) as store:
        store.open(job(), named).write(DATA[:HALF])
    with Store(tmp_path, remote_time=True) as store:
        partial = offered(store)
        assert partial is not None
        draft = resume(store, partial)
        assert draft is not None
        finish(store, draft)
    assert (tmp_path / "a.png").stat().st_mtime == 784903526


DYING = """
import os, signal, sys, time
from pathlib import Path
from nearfar.download.store import draft
from nearfar.download.store.store import Store
from tests.download.store.test_partials import DATA, HALF, head, job, rows
draft.FIRST, draft.EVERY = 0.0, 1000.0
with Store(Path(sys.argv[1])) as store:
    started = store.open(job(name=sys.argv[2]), head())
    started.write(DATA[:HALF])
    while not rows(Path(sys.argv[1])):
        time.sleep(0.01)
    started.write(b"bytes that were never synced")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("name", ["a.png", "sub/folder/a.png"])
def test_what_was_durable_at_a_kill_is_continued(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-c", DYING, str(tmp_path), name]
    assert subprocess.run(command, timeout=60, check=False).returncode == -signal.SIGKILL
    what = job(name=name)
    with Store(tmp_path) as store:
        assert store.sweep() == 0
        partial = offered(store, what)
        assert partial is not None and partial.size == HALF
        assert offered(store, job()) is None, "another name is asked for"
        draft = resume(store, partial, what)
        assert draft is not None
        finish(store, draft)
    assert files(tmp_path) == {name: DATA}
    assert (rows(tmp_path), temporaries(tmp_path)) == ([], [])


def listed(directory: Path) -> tuple[tuple[int, str], tuple[int, str]]:
    """How much of the one partial file is there, and how much is synced."""
    with Listing(directory) as listing:
        [row] = listing.partials()
    return (row.size, row.sha256), (row.synced, row.synced_sha256)


def test_after_a_power_cut_what_was_synced_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = begin(tmp_path)
    synced = HALF - 10_000
    with closing(sqlite3.connect(tmp_path / ".nearfar.sqlite")) as db, db:
        where = (synced, hashlib.sha256(DATA[:synced]).hexdigest())
        db.execute("UPDATE partials SET synced = ?, synced_sha256 = ?", where)
    with file.open("r+b") as lost:
        lost.seek(synced)
        lost.write(bytes(HALF - synced))
    monkeypatch.setattr(partials, "boot_id", lambda: "another boot")
    with Store(tmp_path) as store:
        assert store.sweep() == 0
        partial = offered(store)
        assert partial is not None and partial.size == synced
        assert partial.last == DATA[synced - 512 : synced]
        draft = resume(store, partial)
        assert draft is not None and draft.size == synced
        finish(store, draft)
    assert files(tmp_path) == {"a.png": DATA}


def test_progress_is_recorded_while_a_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    recorded = threading.Event()
    monkeypatch.setattr(draft_module, "EVERY", 0.0)
    monkeypatch.setattr(draft_module, "FIRST", 0.0)
    fsync, note = os.fsync, Draft._has_recorded

    def noted(self: Draft, succeeded: bool) -> None:
        note(self, succeeded)
        recorded.set()

    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.fstat(file).st_size), fsync(file)))
    monkeypatch.setattr(Draft, "_has_recorded", noted)
    piece = 1 << 20
    with Store(tmp_path) as store:
        started = store.open(job(), head())
        for number in range(1, 4):
            recorded.clear()
            started.write(bytes(piece))
            assert recorded.wait(LIMIT)
            digest = hashlib.sha256(bytes(number * piece)).hexdigest()
            assert listed(tmp_path)[0] == (number * piece, digest)
            assert eventually(lambda digest=digest: listed(tmp_path)[1][1] == digest, LIMIT)
            assert listed(tmp_path)[1][0] == number * piece <= synced[-1]
        started.discard()
    assert rows(tmp_path) == []


def test_a_file_without_a_strong_validator_is_not_kept(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.open(job(), head(validator=None)).write(DATA)
    assert (rows(tmp_path), temporaries(tmp_path)) == ([], [])


def altered(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[1000] ^= 1
    file.write_bytes(data)


def symlink(file: Path) -> None:
    file.rename(file.with_name("theirs"))
    file.symlink_to("theirs")


def fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def given_away(file: Path) -> None:
    if os.geteuid():
        pytest.skip("giving a file away wants root")
    os.chown(file, 12345, -1)


@pytest.mark.parametrize(
    "change",
    [
        altered,
        lambda file: os.truncate(file, HALF - 1),
        lambda file: os.truncate(file, 0),
        symlink,
        fifo,
        folder,
        given_away,
        lambda file: file.with_name("theirs").hardlink_to(file),
        lambda file: file.unlink(),
    ],
    ids=["altered", "shorter", "empty", "symlink", "fifo", "folder", "owner", "hard link", "gone"],
)
@pytest.mark.parametrize("late", [False, True], ids=["before it is offered", "after it was offered"])
def test_a_partial_file_that_was_changed_is_never_continued(
    tmp_path: Path, change: Callable[[Path], object], late: bool
) -> None:
    file = begin(tmp_path)
    with Store(tmp_path) as store:
        if not late:
            change(file)
        partial = offered(store)
        if late:
            change(file)
        if partial is not None:
            assert resume(store, partial) is None
        theirs = tmp_path / "theirs"
        assert not theirs.exists() or theirs.read_bytes() == DATA[:HALF], "what is theirs is not touched"
        assert saved(save(store, job(), DATA)).name == "a.png"
    with Store(tmp_path) as store:
        store.sweep()
    assert rows(tmp_path) == []


def test_what_follows_the_recorded_bytes_is_cut_off(tmp_path: Path) -> None:
    file = begin(tmp_path)
    with file.open("ab") as more:
        more.write(b"not recorded")
    with Store(tmp_path) as store:
        partial = offered(store)
        assert partial is not None and partial.size == HALF
        draft = resume(store, partial)
        assert draft is not None
        finish(store, draft)
    assert files(tmp_path) == {"a.png": DATA}


def test_a_folder_that_was_moved_is_continued(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    with Store(old) as store:
        store.open(job(), head()).write(DATA[:HALF])
        old.rename(new)
    with Store(new) as store:
        partial = offered(store)
        assert partial is not None
        draft = resume(store, partial)
        assert draft is not None
        finish(store, draft)
    assert files(new) == {"a.png": DATA}


def test_a_sub_folder_in_whose_place_is_a_symlink_is_not_followed(tmp_path: Path) -> None:
    what = job(name="sub/a.png")
    begin(tmp_path / "files", what)
    (tmp_path / "files/sub").rename(tmp_path / "elsewhere")
    (tmp_path / "files/sub").symlink_to(tmp_path / "elsewhere")
    with Store(tmp_path / "files") as store:
        assert offered(store, what) is None


def test_one_of_two_stores_gets_a_partial_file(tmp_path: Path) -> None:
    begin(tmp_path)
    with Store(tmp_path) as one, Store(tmp_path) as other:
        partial = offered(one)
        assert partial is not None and offered(other) == partial
        assert resume(one, partial) is not None
        assert resume(other, partial) is None and offered_to_nobody(other)


def test_a_living_store_lets_a_file_go_if_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draft_module, "FIRST", 0.0)
    recorded = threading.Event()
    note = Draft._has_recorded
    monkeypatch.setattr(
        Draft, "_has_recorded", lambda self, succeeded: (note(self, succeeded), recorded.set())
    )
    with Store(tmp_path) as one, Store(tmp_path) as other:
        started = one.open(job(), head())
        started.write(DATA[:HALF])
        assert recorded.wait(LIMIT)
        [_], busy = other.unfinished([job()])
        assert busy == [started.recorded] and one.wanted() == set()
        other.want(busy)
        assert one.wanted() == {started.recorded}
        started.release()
        one.close()
        partial = offered(other)
        assert partial is not None and partial.size == HALF
        assert resume(other, partial) is not None


def test_a_sweep_removes_what_no_transfer_will_continue(tmp_path: Path) -> None:
    file = begin(tmp_path)
    with Store(tmp_path) as store:
        assert saved(save(store, job(), DATA)).name == "a.png"
        store.sweep()
    assert (rows(tmp_path), file.exists()) == ([], False)
    file = begin(tmp_path, job("b.png", name="sub/b.png"))
    now = file.stat().st_mtime
    with Store(tmp_path, clock=lambda: now + partials.KEPT - 60) as store:
        store.sweep()
    assert file.exists()
    with Store(tmp_path, clock=lambda: now + partials.KEPT + 60) as store:
        store.sweep()
    assert (rows(tmp_path), file.exists()) == ([], False)


@pytest.mark.parametrize("algorithm", ["sha256", "md5", "sha512"])
def test_digests_are_checked_where_the_beginning_is(tmp_path: Path, algorithm: str) -> None:
    for number, right in enumerate((True, False)):
        what = job(f"{number}.png")
        begin(tmp_path, what)
        digest = hashlib.new(algorithm, DATA if right else DATA[1:]).hexdigest()
        with Store(tmp_path) as store:
            partial = offered(store, what)
            assert partial is not None
            draft = resume(store, partial, what)
            assert draft is not None
            if right:
                finish(store, draft, checks=f"{algorithm}={digest}")
            else:
                draft.write(DATA[HALF:])
                with pytest.raises(StoreError) as caught:
                    draft.finish(Body(len(DATA), None, 1, f"{algorithm}={digest}"))
                assert caught.value.reason is Reason.CHECKSUM
    assert (rows(tmp_path), temporaries(tmp_path)) == ([], [])


def test_a_full_disk_leaves_nothing_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room is for files that fit; the file that did not is fetched again."""
    begin(tmp_path)
    with Store(tmp_path) as store:
        partial = offered(store)
        assert partial is not None
        draft = resume(store, partial)
        assert draft is not None

        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch, pytest.raises(StoreError, match="no space left"):
            patch.setattr(os, "write", full)
            draft.write(b"more")
    assert (rows(tmp_path), temporaries(tmp_path), files(tmp_path)) == ([], [], {})


def test_a_row_that_cannot_be_written_costs_the_progress_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(partials.Partials, "_connect", full)
    with Store(tmp_path) as store:
        started = store.open(job(), head())
        started.write(DATA)
        started.release()
        assert saved(save(store, job(), DATA)).size == len(DATA)
    with Store(tmp_path) as store:
        assert store.sweep() == 1
    assert (rows(tmp_path), temporaries(tmp_path)) == ([], [])


def test_no_secret_of_a_url_is_written(tmp_path: Path) -> None:
    secret = "Zx9Kq2mPvB7nLw4sTy8RaJ3f"
    what = Job(f"http://me:password@h/a.png?token={secret}")
    final = f"http://cdn/a.png?signature={secret}"
    with Store(tmp_path) as store:
        store.open(what, head(final)).write(DATA)
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert secret.encode() not in written and b"password" not in written
    with Store(tmp_path) as store:
        partial = offered(store, what)
        assert partial is not None and partial.comes_from(final)


def test_a_manifest_of_an_earlier_version_gets_the_table(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        first = saved(save(store, job("b.png")))
    with closing(sqlite3.connect(tmp_path / ".nearfar.sqlite")) as db:
        db.execute("DROP TABLE partials")
    with Listing(tmp_path) as listing:
        assert listing.partials() == []
    begin(tmp_path)
    with Store(tmp_path) as store:
        assert recorded(tmp_path) == [first] and offered(store) is not None


def test_a_source_is_salted() -> None:
    assert source_of("http://h/a", "0" * 16) != source_of("http://h/a", "1" * 16)
