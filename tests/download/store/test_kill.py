"""Whatever moment a consumer is killed at: no partial file, nothing fetched twice, nothing left over."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nearfar.download.model import Job, Reason, Saved
from nearfar.download.store.store import Store
from tests.download.store.dying import CONTENT, NEW, OLD
from tests.download.store.making import draft, failed, files, job, recorded, save, saved, temporaries

STEPS = [("written", 1), ("synced", 1), ("intended", 1), ("placed", 1), ("placed", 2), ("placed", 3)]
STEPS += [("renamed", 1), ("recorded", 1), ("done", 1)]
NAMED = {"written": 0, "synced": 0, "intended": 0, "renamed": 3, "recorded": 3, "done": 3}
JOBS: dict[str, Job] = {name: job(Path(name).name, name) for name in CONTENT}


def die(directory: Path, step: str, times: int) -> None:
    command = [sys.executable, "-m", "tests.download.store.dying", str(directory), step, str(times)]
    ended = subprocess.run(command, timeout=90, check=False)
    assert ended.returncode == -signal.SIGKILL


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """A directory with an old version of a.png and someone else's file."""
    with Store(tmp_path) as store:
        saved(save(store, JOBS["a.png"], OLD))
    (tmp_path / "theirs.png").write_bytes(b"theirs")
    return tmp_path


@pytest.mark.parametrize(("step", "times"), STEPS)
def test_a_killed_consumer_leaves_whole_files_and_the_next_one_knows_them(
    before: Path, step: str, times: int
) -> None:
    die(before, step, times)
    found = files(before)
    assert found.pop("theirs.png") == b"theirs"
    assert found.pop("a.png") in (OLD, NEW)
    assert all(CONTENT[name] == data for name, data in found.items())

    with Store(before) as store:
        store.sweep()
        assert [name for name in temporaries(before) if name.endswith(".part")] == []
        found = files(before)
        for name in CONTENT:
            [row] = store.known([JOBS[name]])
            assert (row is not None) == (name in found)
            assert row is None or row.size == len(found[name])
        fresh = [name for name, data in CONTENT.items() if found.get(name) == data]
        assert len(fresh) == NAMED.get(step, times)
        endings = store.commit([draft(store, JOBS[name], data) for name, data in CONTENT.items()])
        assert [saved(ending).name for _, ending in endings] == list(CONTENT)
        assert len(recorded(before)) == len(CONTENT)
    assert files(before) == {**CONTENT, "theirs.png": b"theirs"}
    assert temporaries(before) == []


@pytest.mark.parametrize(("step", "times"), STEPS)
def test_a_redelivery_to_a_living_consumer_needs_no_sweep(tmp_path: Path, step: str, times: int) -> None:
    with Store(tmp_path) as living:
        saved(save(living, JOBS["a.png"], OLD))
        die(tmp_path, step, times)
        endings = living.commit([draft(living, JOBS[name], data) for name, data in CONTENT.items()])
        assert [saved(ending).name for _, ending in endings] == list(CONTENT)
        assert files(tmp_path) == CONTENT
        living.sweep()
        assert len(recorded(tmp_path)) == len(CONTENT)


def test_a_sweep_leaves_the_living_alone(tmp_path: Path) -> None:
    with Store(tmp_path) as one, Store(tmp_path) as other:
        started = draft(one, job(name="sub/a.png"))
        assert other.sweep() == 0
        [(_, ending)] = one.commit([started])
        assert saved(ending).name == "sub/a.png"


def test_a_sweep_touches_only_what_is_the_stores(tmp_path: Path) -> None:
    names = [".nearfar-notes", ".nearfar-0123-1.part", "x.nearfar-0123456789abcdef-1.part", ".hidden"]
    for name in names:
        (tmp_path / name).write_bytes(b"theirs")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / ".nearfar-0123456789abcdef-1.part").write_bytes(b"theirs")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / ".nearfar-0123456789abcdef-1.part").write_bytes(b"left over")
    (inside / ".nearfar-0123456789abcdef.owner").write_text("../outside\nlink\n")
    (inside / "link").symlink_to(outside)
    with Store(tmp_path) as store, Store(inside) as below:
        assert (store.sweep(), below.sweep()) == (0, 1)
    assert all((tmp_path / name).exists() for name in names)
    assert len(list(outside.iterdir())) == 1


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("theirs", [b"data", b"other"])
def test_a_frozen_consumer_finds_its_item_saved_by_another(
    tmp_path: Path, theirs: bytes, old: bytes | None
) -> None:
    """Given a consumer that stops after its intent, if another saves its item, I expect one file."""
    saw: list[Saved] = []

    def frozen(step: str) -> None:
        if step == "intended" and not saw:
            saw.append(saved(save(other, job(), theirs)))

    with Store(tmp_path) as other, Store(tmp_path, step=frozen) as slow:
        if old is not None:
            saved(save(other, job(), old))
        ending = saved(save(slow, job()))
        assert (ending.name, saw[0].name) == ("a.png", "a.png")
        assert recorded(tmp_path) == [ending]
    assert files(tmp_path) == {"a.png": b"data"}


def test_an_intent_that_came_to_nothing_is_never_taken_for_a_file(tmp_path: Path) -> None:
    def broken(step: str) -> None:
        if step == "intended" and not told:
            told.append(step)
            raise OSError(errno.EIO, "the disk stumbles once")

    told: list[str] = []
    with Store(tmp_path, step=broken) as store:
        assert failed(save(store, job())).reason is Reason.DISK
        assert saved(save(store, job("b.png"))).name == "b.png"
        assert [row.name for row in recorded(tmp_path)] == ["b.png"]
