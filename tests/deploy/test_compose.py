"""``docker compose up`` for real: scaled, with containers killed in the middle; again; with a spoilt file.

And in Redis, with its server killed: ``redis:7-alpine`` is pulled, unless ``REDIS_IMAGE`` names another.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy import engine
from tests.deploy.engine import BUILD, ORDER, Tour
from tests.support.waiting import eventually

PICTURES = 900
MIDDLE = 100
"""Files that are saved when containers are killed."""
SCALED = ("--build", "--scale", "worker=3", "--scale", "consumer=3")
REDIS = os.environ.get("REDIS_IMAGE", "redis:7-alpine")
KILL_SERVER = "kill -9 $(pidof redis-server)"
SPOIL = "printf x | dd of=$(ls /downloads/*.png | head -n 1) conv=notrunc bs=1 seek=100 2>/dev/null"
IDLE = "services:\n  producer:\n    entrypoint: ['true']\n    command: []\n"
"""A producer that does nothing: the real one would find the spoilt file by its digest, and fetch it again."""

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(2 * BUILD)]


@pytest.fixture(params=engine.commands() or ("compose",), ids=" ".join)
def tour(request: pytest.FixtureRequest) -> Iterator[Tour]:
    if reason := engine.missing():
        pytest.skip(reason)
    with Tour(request.param, PICTURES=str(PICTURES), RATE="300k") as tour:
        yield tour


def saved(tour: Tour, consumer: str = "consumer") -> int:
    """The number of files with their final names."""
    return tour.within(consumer, "find", "/downloads", "-name", "*.png").count("\n")


def guarded(tour: Tour, container: str) -> dict[str, object]:
    """The kernel's restrictions of a container."""
    (found,) = json.loads(tour.docker("inspect", container))
    host = found["HostConfig"]
    keys = [mount for mount in found["Mounts"] if "/keys" in mount["Destination"]]
    return {
        "user": found["Config"]["User"],
        "read only": host["ReadonlyRootfs"],
        "dropped": host["CapDrop"],
        "may gain": "no-new-privileges:true" not in host["SecurityOpt"],
        "writes keys": any(mount["RW"] for mount in keys),
    }


def exit_code(tour: Tour, container: str) -> str:
    return tour.docker("inspect", "--format", "{{.State.ExitCode}}", container).strip()


def spoil(tour: Tour) -> None:
    """Change a byte of a file that was saved."""
    (report,) = json.loads(tour.docker("inspect", tour.containers("report")[0]))
    (volume,) = (mount["Name"] for mount in report["Mounts"] if mount["Destination"] == "/downloads")
    tour.docker("run", "--rm", "--entrypoint", "sh", "-v", f"{volume}:/downloads", "nearfar", "-c", SPOIL)


def test_the_tour_succeeds_though_containers_are_killed(tour: Tour, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    up = tour.up(log, *SCALED)
    try:
        assert eventually(lambda: saved(tour) >= MIDDLE or up.poll() is not None, BUILD), log.read_text()
        victims = [tour.containers("consumer")[0], tour.containers("worker")[0]]
        tour.docker("kill", *victims)
        assert saved(tour) < PICTURES
        for service in ("gallery", "queue", "coordinator", "worker", "consumer", "producer"):
            assert guarded(tour, tour.containers(service)[-1]) == {
                "user": "10001:10001",
                "read only": True,
                "dropped": ["ALL"],
                "may gain": False,
                "writes keys": False,
            }
        assert up.wait(BUILD) == 0, log.read_text()
    finally:
        up.kill()
        up.wait()
    assert [exit_code(tour, victim) for victim in victims] == ["137", "137"]
    assert f"{PICTURES} urls: {PICTURES} saved, 0 already there, 0 failed" in tour.said("producer")
    assert f"{PICTURES} of {PICTURES} urls saved and verified" in tour.said("report")

    again = tour.up(log)
    assert again.wait(BUILD) == 0, log.read_text()
    assert f"{PICTURES} urls: 0 saved, {PICTURES} already there, 0 failed" in tour.said("producer")

    spoil(tour)
    idle = tmp_path / "idle.yml"
    idle.write_text(IDLE, encoding="utf-8")
    spoilt = tour.up(log, files=(idle,))
    assert spoilt.wait(BUILD) == 1, log.read_text()
    assert "WRONG: " in tour.said("report")


def test_an_interrupted_tour_ends_properly_and_can_be_continued(tour: Tour, tmp_path: Path) -> None:
    """Given Ctrl-C in the middle, I expect every program to end by itself, the producer with its summary."""
    log = tmp_path / "log.txt"
    up = tour.up(log, "--build")
    try:
        assert eventually(lambda: saved(tour) >= MIDDLE or up.poll() is not None, BUILD), log.read_text()
        up.send_signal(signal.SIGINT)
        up.wait(ORDER)
    finally:
        up.kill()
        up.wait()
    services = ("gallery", "queue", "coordinator", "worker", "consumer", "producer")
    killed = [
        name
        for name in services
        for container in tour.containers(name)
        if exit_code(tour, container) == "137"
    ]
    assert killed == []
    (done,) = re.findall(
        rf"{PICTURES} urls: (\d+) saved, 0 already there, 0 failed, \d+ left", tour.said("producer")
    )

    again = tour.up(log)
    assert again.wait(BUILD) == 0, log.read_text()
    rest = PICTURES - int(done)
    assert f"{PICTURES} urls: {rest} saved, {done} already there, 0 failed" in tour.said("producer")


def test_the_tour_in_redis_succeeds_though_its_server_is_killed(tour: Tour, tmp_path: Path) -> None:
    """The engine starts the server again if its process is killed; I start it again after ``docker kill``."""
    if subprocess.run(["docker", "image", "inspect", REDIS], capture_output=True, timeout=ORDER).returncode:
        pull = subprocess.run(["docker", "pull", REDIS], capture_output=True, timeout=BUILD, text=True)
        if pull.returncode:
            pytest.skip(f"{REDIS} cannot be pulled: {pull.stderr}")
    log = tmp_path / "log.txt"
    up = tour.up(log, "--build", profile="redis")
    try:
        assert eventually(lambda: saved(tour, "redis-consumer") >= MIDDLE or up.poll() is not None, BUILD), (
            log.read_text()
        )
        (server,) = tour.containers("redis")
        assert guarded(tour, server) == {
            "user": "10001:10001",
            "read only": True,
            "dropped": ["ALL"],
            "may gain": False,
            "writes keys": False,
        }
        tour.docker("exec", server, "sh", "-c", KILL_SERVER)
        assert eventually(lambda: restarts(tour, server) == 1, ORDER), log.read_text()
        assert eventually(lambda: saved(tour, "redis-consumer") >= 2 * MIDDLE, BUILD), log.read_text()
        tour.docker("kill", server)
        assert exit_code(tour, server) == "137"
        assert saved(tour, "redis-consumer") < PICTURES
        tour.docker("start", server)
        assert up.wait(BUILD) == 0, log.read_text()
    finally:
        up.kill()
        up.wait()
    assert tour.containers("queue") == tour.containers("consumer") == []
    assert exit_code(tour, server) == "0"
    assert f"{PICTURES} urls: {PICTURES} saved, 0 already there, 0 failed" in tour.said("redis-producer")
    assert f"{PICTURES} of {PICTURES} urls saved and verified" in tour.said("redis-report")
    done = [
        re.findall(r"(?m)^(\d+) saved \(", tour.docker("logs", each))
        for each in tour.containers("redis-consumer")
    ]
    assert sum(int(count) for (count,) in done) == PICTURES

    again = tour.up(log, profile="redis")
    assert again.wait(BUILD) == 0, log.read_text()
    assert f"{PICTURES} urls: 0 saved, {PICTURES} already there, 0 failed" in tour.said("redis-producer")


def restarts(tour: Tour, container: str) -> int:
    """How often the engine has started it again by itself, where it runs now."""
    running, count = tour.docker(
        "inspect", "--format", "{{.State.Running}} {{.RestartCount}}", container
    ).split()
    return int(count) if running == "true" else -1
