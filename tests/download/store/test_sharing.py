"""Several consumer processes share a directory."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

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
