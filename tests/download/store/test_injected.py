"""Each system call and each statement of a store fails once, as disks make them fail; nothing is lost."""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nearfar.download.model import Failure, Job, Reason, Saved, StoreError
from nearfar.download.store import folders
from nearfar.download.store.draft import Draft
from nearfar.download.store.store import Store
from tests.download.store.making import draft, files, job, temporaries

ERRORS = [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS]
CALLS = ["write", "fsync", "rename", "link", "unlink", "open", "posix_fallocate", "ftruncate", "mkdir"]
JOBS = [job("a.png"), job("b.png"), job("sub/c.png", "sub/c.png"), job("d.png"), job("again/a.png")]
OLD = b"there before"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is one: some hundred stores are synced here."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="nearfar-test-") as folder:
        yield Path(folder)


class Fault:
    """Lets the call that is so-and-so many calls away fail, once."""

    def __init__(self, wait: int, error: Callable[[], Exception]) -> None:
        self.wait = wait
        self._error = error
        self.hit = False

    def pass_by(self) -> None:
        self.wait -= 1
        if self.wait == 0:
            self.hit = True
            raise self._error()


class Statements:
    """A connection whose statements may fail."""

    def __init__(self, db: sqlite3.Connection, fault: Fault) -> None:
        self._db = db
        self._fault = fault

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        self._fault.pass_by()
        return self._db.execute(*arguments)

    def executemany(self, *arguments: Any) -> sqlite3.Cursor:
        self._fault.pass_by()
        return self._db.executemany(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


def work(store: Store) -> dict[Job, Saved | Failure]:
    """Two groups: how each file ended."""
    endings: dict[Job, Saved | Failure] = {}
    for group in (JOBS[:3], JOBS[3:]):
        drafts: list[Draft] = []
        for one in group:
            try:
                drafts.append(draft(store, one, one.url.encode()))
            except StoreError as error:
                endings[one] = error.failure
        endings |= {each.job: ending for each, ending in store.commit(drafts)}
    return endings


def prepare(folder: Path) -> None:
    """A foreign file has the wanted name."""
    folder.mkdir()
    (folder / "b.png").write_bytes(OLD)


def judge(folder: Path, endings: dict[Job, Saved | Failure]) -> None:
    """What was said is true, each file is whole, and the same again saves the rest."""
    assert endings.keys() == set(JOBS), "each has an ending"
    by_content = {one.url.encode() for one in JOBS} | {OLD}
    assert set(files(folder).values()) <= by_content, "whole, or not at all"
    assert (folder / "b.png").read_bytes() == OLD
    for one, ending in endings.items():
        if isinstance(ending, Saved):
            assert (folder / ending.name).read_bytes() == one.url.encode()
        else:
            assert ending.reason is Reason.DISK, ending
    with Store(folder) as store:
        store.sweep()
        known = dict(zip(JOBS, store.known(JOBS), strict=True))
        assert all(known[one] == ending for one, ending in endings.items() if isinstance(ending, Saved))
        again = work(store)
    assert all(isinstance(ending, Saved) for ending in again.values()), again
    assert len(files(folder)) == len(JOBS) + 1, "nothing is there twice"
    assert temporaries(folder) == []


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("number", ERRORS)
def test_a_system_call_that_fails_once(
    place: Path, call: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(os, call)
    fault = Fault(0, lambda: OSError(number, os.strerror(number)))

    def failing(*arguments: Any, **named: Any) -> Any:
        fault.pass_by()
        return real(*arguments, **named)

    if call in ("rename", "link"):  # what is done where the kernel knows no better way
        monkeypatch.setattr(folders, "rename_new", lambda *_: False)
    monkeypatch.setattr(os, call, failing)
    turn = 0
    while turn == 0 or fault.hit:
        turn += 1
        folder = place / str(turn)
        prepare(folder)
        fault.wait, fault.hit = 0, False
        with Store(folder) as store:
            fault.wait = turn
            endings = work(store)
            fault.wait = 0
        judge(folder, endings)
    assert turn > (2 if call in ("write", "fsync", "open") else 0)


@pytest.mark.parametrize("code", ["FULL", "IOERR", "READONLY", "BUSY"])
def test_a_statement_that_fails_once(place: Path, code: str) -> None:
    def error() -> Exception:
        made = sqlite3.OperationalError(f"injected: {code}")
        made.sqlite_errorcode = getattr(sqlite3, f"SQLITE_{code}")
        return made

    turn, hit = 0, True
    while hit:
        turn += 1
        folder = place / str(turn)
        prepare(folder)
        fault = Fault(turn, error)
        with Store(folder) as store:
            manifest: Any = store._manifest
            manifest.db = Statements(manifest.db, fault)
            endings = work(store)
            fault.wait = 0
        judge(folder, endings)
        hit = fault.hit
    assert turn > 10
