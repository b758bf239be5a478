"""Commands that may open few files, map little memory or write small files: they work, or give the reason."""

from __future__ import annotations

import signal

import pytest

from nearfar.cli.exits import Exit
from tests.chaos.download.scene import Scene

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]
PROGRAMS = ("queue", "coordinator", "worker", "consumer", "producer", "local", "direct")
MiB = 1 << 20


def limit(scene: Scene, program: str, name: str, value: int) -> str:
    """Limit one program of a download; returns which command that is."""
    scene.serve([f"{number}.bin" for number in range(120)], 5000)
    who = "producer" if program in ("local", "direct") else program
    scene.limits[who] = {name: value}
    if program in ("local", "direct"):
        scene.start_download(program)
    else:
        scene.start_all()
    return who


def without_limits(scene: Scene) -> None:
    """The same, unlimited: whatever was lost is saved now."""
    scene.kill_all()
    scene.limits.clear()
    assert scene.download("far").code == Exit.OK
    assert scene.there() == scene.bodies


@pytest.mark.parametrize("program", PROGRAMS)
def test_with_too_few_files_it_says_so_at_once(scene: Scene, program: str) -> None:
    who = limit(scene, program, "RLIMIT_NOFILE", 24)
    ended = scene.ended(who)
    assert ended.code == Exit.USAGE
    said = "only 24 files may be open at a time, and it takes 64: raise the limit (ulimit -n)"
    assert ended.err == f"nearfar {who}: {said}\n"
    without_limits(scene)


@pytest.mark.parametrize("files", [64, 256])
@pytest.mark.parametrize("program", PROGRAMS)
def test_with_few_files_it_works(scene: Scene, program: str, files: int) -> None:
    limit(scene, program, "RLIMIT_NOFILE", files)
    producer = scene.ended("producer")
    assert producer.code == Exit.OK, producer.err[-1000:]
    assert scene.there() == scene.bodies
    scene.kill_all()


@pytest.mark.parametrize("size", [60 * MiB, 110 * MiB, 200 * MiB, 300 * MiB])
@pytest.mark.parametrize("program", PROGRAMS)
def test_with_little_memory_it_works_or_ends_with_a_sentence(scene: Scene, program: str, size: int) -> None:
    """ZeroMQ aborts where it gets no thread: a sentence of its own, and a signal instead of a code."""
    who = limit(scene, program, "RLIMIT_AS", size)
    first = scene.first_ended(who, "producer")
    ended = scene.ended(first)
    if ended.code == Exit.OK:
        assert scene.there() == scene.bodies
        scene.kill_all()
        return
    assert ended.code in (Exit.FAILED, Exit.LOST, -signal.SIGABRT), ended.err
    assert ended.err.strip()
    without_limits(scene)


@pytest.mark.parametrize("shape", ["far", "local", "direct"])
def test_a_file_larger_than_allowed_fails_alone(scene: Scene, shape: str) -> None:
    scene.serve([f"{number}.bin" for number in range(20)], 1000)
    scene.serve(["large.bin", "larger.bin"], 900_000)
    who = "consumer" if shape == "far" else "producer"
    scene.limits[who] = {"RLIMIT_FSIZE": 800_000}
    producer = scene.download(shape)
    assert producer.code == Exit.FAILED
    assert "20 saved, 0 already there, 2 failed (disk 2)" in producer.out
    assert {detail.partition(": ")[2] for _, detail in scene.failures()} == {
        "the file is too large for this file system"
    }
    scene.limits.clear()
    assert "2 saved, 20 already there, 0 failed" in scene.download(shape).out
    assert scene.there() == scene.bodies
