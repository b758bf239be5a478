"""Full or read-only disks under real commands: each file fails with the reason; with room, the same commands
continue."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest

from nearfar.cli.exits import Exit
from tests.chaos.download.commands import Ended
from tests.chaos.download.conftest import Mount
from tests.chaos.download.scene import Scene
from tests.support.exchange import Handler
from tests.support.routes import gated, status
from tests.support.waiting import eventually

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]
SHAPES = pytest.mark.parametrize("shape", ["far", "local", "direct", "pool"])


def fill(place: Path, *, leave: int = 0) -> Path:
    """Take all the space that is left but for `leave` bytes."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - leave))
    return ballast


def told(ended: Ended) -> str:
    return ended.out + ended.err[-1000:]


def partly(scene: Scene, shape: str, said: str) -> int:
    """A download of which some fails, for the disk alone; returns how much was saved."""
    producer = scene.download(shape)
    there, failures = scene.there(), scene.failures()
    assert producer.code == Exit.FAILED, told(producer)
    assert len(there) + len(failures) == len(scene.bodies)
    assert (
        f"{len(there)} saved, 0 already there, {len(failures)} failed (disk {len(failures)})" in producer.out
    )
    assert {reason for reason, _ in failures} == {"disk"}
    assert all(said in detail for _, detail in failures), failures
    return len(there)


def goes_on(scene: Scene, shape: str, had: int) -> None:
    """The same commands, with room: the rest comes, and only the rest is fetched."""
    asked = len(scene.web.log)
    producer = scene.download(shape)
    assert producer.code == Exit.OK, told(producer)
    assert f"{len(scene.bodies) - had} saved, {had} already there, 0 failed" in producer.out
    assert scene.there() == scene.bodies
    assert len(scene.web.log) - asked == len(scene.bodies) - had
    assert not (scene.folder / "nearfar-failures.txt").exists()


@SHAPES
def test_what_does_not_fit_fails_and_comes_when_there_is_room(scene: Scene, mount: Mount, shape: str) -> None:
    mount("saved", size="3m")
    scene.serve([f"{number}.bin" for number in range(25)], 200_000)
    scene.serve(["large.bin"], 900_000)
    had = partly(scene, shape, "no space left on the disk")
    assert 5 < had < 26
    mount("saved", size="20m")
    goes_on(scene, shape, had)


@SHAPES
def test_a_file_system_without_inodes_is_a_full_one(scene: Scene, mount: Mount, shape: str) -> None:
    mount("saved", size="20m", nr_inodes=24)
    scene.serve([f"{number}.bin" for number in range(60)], 100)
    had = partly(scene, shape, "no space left on the disk")
    assert 0 < had < 24
    mount("saved", size="20m", nr_inodes=1000)
    goes_on(scene, shape, had)


@SHAPES
@pytest.mark.parametrize("leave", [100_000, 300_000])
def test_a_manifest_that_cannot_grow_names_no_file_that_it_forgets(
    scene: Scene, mount: Mount, shape: str, leave: int
) -> None:
    """Given room for the manifest to be made, but not for all its rows: what is named is known afterwards."""
    place = mount("saved", size="12m")
    scene.serve(["first.bin"], 100)
    assert scene.download(shape).code == Exit.OK
    scene.serve([f"{number:03}.bin" for number in range(600)], 10)
    ballast = fill(place, leave=leave)
    producer = scene.download(shape)
    assert producer.code == Exit.FAILED, told(producer)
    assert {reason for reason, _ in scene.failures()} == {"disk"}
    there = scene.there()
    ballast.unlink()
    asked = len(scene.web.log)
    again = scene.download(shape)
    assert again.code == Exit.OK, told(again)
    assert scene.there() == scene.bodies
    fetched = {request.path[1:] for request in scene.web.log[asked:]}
    assert fetched == scene.bodies.keys() - there.keys(), "what bore its name was fetched again"


@SHAPES
def test_a_disk_that_becomes_read_only_in_the_middle(scene: Scene, mount: Mount, shape: str) -> None:
    """One part of the output is on a file system of its own, which fails while the rest goes on."""
    mount("saved/a", size="5m")
    gate = threading.Event()
    first = [f"a/{number}.bin" for number in range(5)]
    scene.serve([*first, *(f"{part}/{number}.bin" for number in range(5, 25) for part in "ab")], 3000)
    late = {f"/{name}" for name in scene.bodies} - {f"/{name}" for name in first}
    for path in late:
        handler: Handler = scene.web.routes[path]
        scene.web.routes[path] = gated(gate, handler)
    scene.start_download(shape)
    assert eventually(lambda: len(list((scene.output / "a").glob("*.bin"))) == 5, 20)
    assert eventually(lambda: _remounted(scene.output / "a", "ro"), 10)
    gate.set()
    producer = scene.endings(shape)
    assert producer.code == Exit.FAILED, told(producer)
    assert {detail.rpartition(": ")[2] for _, detail in scene.failures()} == {"the file system is read-only"}
    assert scene.there().keys() == {*first, *(name for name in scene.bodies if name.startswith("b/"))}
    assert _remounted(scene.output / "a", "rw")
    goes_on(scene, shape, 25)


def _remounted(place: Path, how: str) -> bool:
    """False while a file there is open for writing."""
    command = ["mount", "-o", f"remount,{how}", str(place)]
    return not subprocess.run(command, timeout=10, capture_output=True, check=False).returncode


@SHAPES
@pytest.mark.parametrize("state", ["full", "read-only"])
def test_a_disk_that_takes_nothing_from_the_start_ends_the_commands_with_a_sentence(
    scene: Scene, mount: Mount, shape: str, state: str
) -> None:
    place = mount("saved", size="1m")
    fill(place)
    if state == "read-only":
        mount("saved", ro=True)
    scene.serve(["first.bin"], 100)
    scene.start_download(shape)
    who = "producer" if shape in ("local", "direct") else "consumer"
    ended = scene.ended(who)
    assert ended.code == Exit.USAGE
    assert any(sentence in ended.err for sentence in ("no space left", "disk is full", "read-only")), (
        ended.err
    )
    assert len(ended.err.splitlines()) == 1
    if who == "consumer":
        assert scene.ended("producer").code == Exit.LOST
    assert scene.there() == {}
    mount("saved", rw=True)
    (place / "ballast").unlink()
    goes_on(scene, shape, 0)


@SHAPES
def test_failures_that_cannot_be_written_down_are_said(scene: Scene, mount: Mount, shape: str) -> None:
    """Given a full disk for the failures file alone, I expect the account, what failed, and why no file."""
    full = mount("full", size="16k")
    before = full / "failures.txt"
    before.write_text("of an earlier run\n")
    fill(full)
    scene.serve([f"{number}.bin" for number in range(300)], 100)
    missing = [f"/{number}.bin" for number in range(200)]
    for path in missing:
        scene.web.routes[path] = status(404)
    scene.start_download(shape, "--failures", str(before))
    producer = scene.endings(shape)
    assert producer.code == Exit.FAILED, told(producer)
    assert "300 urls: 100 saved, 0 already there, 200 failed (http-4xx 200)" in producer.out
    assert f"failures: {before} could not be written (no space left on device)" in producer.out
    assert all(scene.web.url(path) in producer.err for path in missing)
    assert before.read_text() == "of an earlier run\n"
    assert sorted(path.name for path in full.iterdir()) == ["ballast", "failures.txt"]


@SHAPES
def test_a_full_temporary_folder_hinders_nobody(scene: Scene, mount: Mount, shape: str) -> None:
    full = mount("temporary", size="4k", nr_inodes=2)
    fill(full)
    scene.environment["TMPDIR"] = str(full)
    scene.serve([f"{number}.bin" for number in range(30)], 1000)
    assert scene.download(shape).code == Exit.OK
    assert scene.there() == scene.bodies
