"""The limits of a host over machines with networks of their own: producers, workers, and one switched off."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from nearfar.cli.exits import Exit
from tests.chaos.faults import hosts
from tests.deploy.fleet import Fleet
from tests.support.waiting import eventually

FILES = 120
PRODUCERS = ("one", "two", "three")
WORKERS = ("worker1", "worker2")
MACHINES = ["web", "queue", "coordinator", "consumer", *PRODUCERS, *WORKERS]

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(240)]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    missing = hosts.missing() or ("" if shutil.which("unshare") else "there is no unshare (util-linux)")
    if missing:
        pytest.skip(missing)
    with Fleet(MACHINES, tmp_path) as fleet:
        yield fleet


@pytest.mark.parametrize("pooled", [False, True])
def test_machines_share_two_connections_to_one_host(fleet: Fleet, pooled: bool) -> None:
    web = fleet.python("web", "-m", "tests.support.counting", "0.0.0.0", "8000", "0.01")
    web.says("serving")
    queue = f"tcp://{fleet.address('queue')}:5555"
    order = ("--bind", "tcp://0.0.0.0:5555", "--no-keys", "--lease", "2")
    fleet.start("queue", "queue", *order).says("hosting")
    fleet.start("consumer", "consumer", "--queue", queue, "--no-keys", "-o", "saved")
    options = ["-i", "list.txt", "--queue", queue, "--no-keys", "--per-host", "2"]
    if pooled:
        pool = f"tcp://{fleet.address('coordinator')}:5556"
        order = ("--bind", "tcp://0.0.0.0:5556", "--no-keys")
        fleet.start("coordinator", "coordinator", *order).says("coordinating")
        for name in WORKERS:
            worker = fleet.start(name, "worker", "--connect", pool, "--processes", "2", "--no-keys")
            worker.says("joined the coordinator")
        options += ["--pool", pool]
    producers = []
    for name in PRODUCERS:
        urls = [f"http://{fleet.address('web')}:8000/{name}-{number}.txt" for number in range(FILES)]
        (fleet.home(name) / "list.txt").write_text("\n".join(urls))
        producers.append(fleet.start(name, "producer", *options))
    *others, third = producers
    saved = fleet.home("consumer") / "saved"
    assert eventually(lambda: len([*saved.glob("*.txt")]) > FILES // 2, 60)
    third.kill()
    for producer in others:
        code, said = producer.ended()
        assert code == Exit.OK, said
    code, said = web.stop()
    most, at_once, requests = map(int, said.splitlines()[-1].split())
    assert code == 0 and requests >= 2 * FILES
    assert most <= 2
    assert at_once == 2, "the limit is used"
