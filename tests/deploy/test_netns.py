"""The topology of docker-compose.yml without Docker: machines in network namespaces, two of them killed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.faults import hosts
from tests.deploy.fleet import LIMIT, Fleet, Program
from tests.support.waiting import eventually

PICTURES = 300
MIDDLE = 30
"""Files that a consumer has saved when its machine is switched off."""
WORKERS = ("worker1", "worker2")
CONSUMERS = ("consumer1", "consumer2")
CLIENTS = (*WORKERS, *CONSUMERS, "producer")
MACHINES = ["gallery", "queue", "coordinator", *CLIENTS, "report", "stranger"]
FETCH = "import sys, urllib.request; urllib.request.urlretrieve(*sys.argv[1:])"

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(240)]


class Topology:
    """The machines: queue and coordinator use the same keys, like one owner's."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.queue = f"tcp://{fleet.address('queue')}:5555"
        self.pool = f"tcp://{fleet.address('coordinator')}:5556"
        self.digests = f"http://{fleet.address('gallery')}:8000/digests.txt"

    def hand_out_keys(self) -> None:
        """Each client makes its own key, and the service admits it: no secret leaves its machine."""
        keys = self.fleet.home("queue") / "keys"
        self.good("queue", "keys", "init")
        for name in (*CLIENTS, "stranger"):
            self.good(name, "keys", "init", "--server", str(keys / "server.key"))
        for name in CLIENTS:
            public = self.fleet.home(name) / "keys" / "client.key"
            self.good("queue", "keys", "add", name, "--public", str(public))
        shutil.copytree(keys, self.fleet.home("coordinator") / "keys")

    def services(self) -> list[Program]:
        guarded = ("--keys", "keys", "--lease", "3")
        orders = {
            "gallery": ("--bind", "0.0.0.0:8000", "--count", str(PICTURES)),
            "queue": ("--bind", "tcp://0.0.0.0:5555", "--maxsize", "1000", *guarded),
            "coordinator": ("--bind", "tcp://0.0.0.0:5556", *guarded),
        }
        services = [self.fleet.start(name, name, *order) for name, order in orders.items()]
        for service, words in zip(services, ("serving", "hosting", "coordinating"), strict=True):
            service.says(words)
        return services

    def consumer(self, name: str) -> Program:
        return self.fleet.start(name, "consumer", "--queue", self.queue, "--keys", "keys")

    def worker(self, name: str) -> Program:
        order = ("worker", "--connect", self.pool, "--processes", "2", "--keys", "keys")
        worker = self.fleet.start(name, *order)
        worker.says("joined the coordinator")
        return worker

    def producer(self) -> Program:
        assert self.fleet.python("producer", "-c", FETCH, self.digests, "list.txt").ended() == (0, "")
        order = ("producer", "-i", "list.txt", "--rate", "400k", "--pool", self.pool)
        return self.fleet.start("producer", *order, "--queue", self.queue, "--keys", "keys")

    def saved(self, consumer: str) -> int:
        return len([*(self.fleet.home(consumer) / "downloads").glob("*.png")])

    def good(self, name: str, *words: str) -> str:
        """Run a program, which must succeed, and return its output."""
        code, said = self.fleet.start(name, *words).ended()
        assert code == 0, said
        return said


@pytest.fixture
def topology(tmp_path: Path) -> Iterator[Topology]:
    missing = hosts.missing() or ("" if shutil.which("unshare") else "there is no unshare (util-linux)")
    if missing:
        pytest.skip(missing)
    with Fleet(MACHINES, tmp_path) as fleet:
        yield Topology(fleet)


def test_all_files_are_saved_though_machines_are_switched_off(topology: Topology) -> None:
    topology.hand_out_keys()
    services = topology.services()
    gone, worker = map(topology.worker, WORKERS)
    victim, consumer = map(topology.consumer, CONSUMERS)
    producer = topology.producer()

    assert eventually(lambda: topology.saved("consumer1") >= MIDDLE, LIMIT), producer.text()
    victim.kill()
    gone.kill()
    assert sum(map(topology.saved, CONSUMERS)) < PICTURES
    assert producer.process.poll() is None

    code, said = producer.ended()
    assert code == 0, said
    assert said.splitlines()[-1] == f"{PICTURES} urls: {PICTURES} saved, 0 already there, 0 failed"
    assert consumer.ended()[0] == 0
    folders = [str(topology.fleet.home(name) / "downloads") for name in CONSUMERS]
    report = topology.good("report", "verify", topology.digests, *folders)
    assert f"{PICTURES} of {PICTURES} urls saved and verified" in report
    assert [each.stop()[0] for each in (worker, *services)] == [0, 0, 0, 0]


def test_strangers_are_refused(topology: Topology) -> None:
    topology.hand_out_keys()
    topology.services()
    for order in (
        ("consumer", "--queue", topology.queue),
        ("worker", "--connect", topology.pool),
        ("coordinator", "--status", topology.pool),
    ):
        code, said = topology.fleet.start("stranger", *order, "--keys", "keys").ended()
        assert (code, "it does not admit the key of" in said) == (4, True), said
