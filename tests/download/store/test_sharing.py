"""Several consumer processes share a directory."""

from __future__ import annotations

import multiprocessing
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from nearfar.download.store import manifest
from nearfar.download.store.store import Store
from tests.download.store.making import draft, files, job, recorded, saved

SITES, NAMES = 4, 60


def consume(directory: Path, offset: int) -> None:
    """Save every file of every site, beginning at another place than the others do."""
    everything = [(site, number) for number in range(NAMES) for site in range(SITES)]
    everything = everything[offset:] + everything[:offset]
    with Store(directory) as store:
        store.sweep()
        for start in range(0, len(everything), 16):
            group = everything[start : start + 16]
            drafts = [draft(store, job(f"{s}/{n}.png"), f"{s} {n}".encode()) for s, n in group]
            assert all(saved(ending) for _, ending in store.commit(drafts))


def test_processes_that_save_the_same_urls_at_once_share_the_files(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    consumers = [context.Process(target=consume, args=(tmp_path, 37 * number)) for number in range(3)]
    for consumer in consumers:
        consumer.start()
    for consumer in consumers:
        consumer.join(50)
        assert consumer.exitcode == 0
        consumer.close()
    with Store(tmp_path) as store:
        rows = recorded(tmp_path)
        assert all(store.known([job(f"{s}/{n}.png") for s in range(SITES) for n in range(NAMES)]))
    found = files(tmp_path)
    assert len(rows) == len(found) == SITES * NAMES
    for row in rows:
        site, number = row.url.removesuffix(".png").split("/")[-2:]
        assert found[row.name] == f"{site} {number}".encode()


def test_a_store_waits_for_another_process_that_creates_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given one that was stopped in the middle of that."""
    with closing(sqlite3.connect(tmp_path / manifest.FILE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waits: list[float] = []

        def sleep(seconds: float) -> None:
            waits.append(seconds)
            if other.in_transaction:
                other.execute("ROLLBACK")

        monkeypatch.setattr(manifest.time, "sleep", sleep)
        with Store(tmp_path) as store:
            assert saved(store.commit([draft(store, job("1.png"), b"1")])[0][1])
    assert waits == [manifest.RETRY]


def test_a_store_waits_no_longer_than_it_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(sqlite3.connect(tmp_path / manifest.FILE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr(manifest, "BUSY", 0.05)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            manifest.Manifest(tmp_path)
