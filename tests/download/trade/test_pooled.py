"""One list of URLs, fetched by a pool's workers: near, as processes of the command, and far."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random

import pytest

from nearfar.cli.exits import Exit
from tests.download.trade.commands import ALL, FILES, Commands, ended, saved_in, serve
from tests.download.trade.gate import Gate
from tests.download.trade.saved_at_kills import SavedAtKills, saved_names
from tests.download.trade.troop import Files
from tests.support.processes import leaves
from tests.support.routes import status
from tests.support.shell import outlast_echo
from tests.support.waiting import eventually
from tests.support.web import Web

SAVED = "101 urls: 101 saved, 0 already there, 0 failed"


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as web:
        serve(web)
        yield web


class Pooled(Commands):
    """The commands, and a pool with two workers."""

    def __init__(self, folder: Path, *, far: bool) -> None:
        super().__init__(folder)
        self.pool = "local:2"
        self.supervisor: subprocess.Popen[str] | None = None
        if far:
            self.coordinator = self.start("coordinator", "--bind", "tcp://127.0.0.1:*", "--lease", "2")
            self.pool = self.told(self.coordinator, "coordinating at ")
            self.supervisor = self.work(2)

    def work(self, processes: int) -> subprocess.Popen[str]:
        """Workers of a machine, as the coordinator sees it."""
        supervisor = self.start("worker", "--connect", self.pool, "--processes", str(processes))
        self.told(supervisor, "working for ")
        return supervisor

    def told(self, process: subprocess.Popen[str], word: str) -> str:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith(word)
        return line.removeprefix(word).strip()

    def fetch(self, web: Web, *options: str) -> subprocess.Popen[str]:
        return self.produce(web, "--pool", self.pool, *options)

    def workers(self, producer: subprocess.Popen[str]) -> list[int]:
        """The process ids of the pool's two workers."""
        found = self.workers_now(producer)
        assert len(found) == 2
        return found

    def workers_now(self, producer: subprocess.Popen[str]) -> list[int]:
        """The same while some may have died, and not been replaced."""
        return leaves(producer.pid if self.supervisor is None else self.supervisor.pid)


@pytest.fixture
def near(tmp_path: Path) -> Iterator[Pooled]:
    commands = Pooled(tmp_path, far=False)
    yield commands
    commands.close()


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Pooled]:
    commands = Pooled(tmp_path, far=True)
    yield commands
    commands.close()


@pytest.fixture(params=["near", "far"])
def commands(request: pytest.FixtureRequest) -> Pooled:
    made: Pooled = request.getfixturevalue(request.param)
    return made


def note_half(moments: SavedAtKills) -> None:
    """Wait until all that passed a `Gate` at half of the files is saved, and note it."""
    assert eventually(lambda: len(saved_names(moments.folder)) == FILES // 2)
    moments.note()


def asked(web: Web, count: int) -> bool:
    """Whether so many requests have come."""
    return len(web.log) >= count


def test_everything_is_saved_and_again_nothing_is_fetched(web: Web, commands: Pooled) -> None:
    for said in (SAVED, "101 urls: 0 saved, 101 already there, 0 failed"):
        host, producer = commands.host("-o", "a"), commands.fetch(web)
        assert ended(producer) == (Exit.OK, said)
        assert ended(host)[0] == Exit.OK
        assert saved_in(commands.folder / "a") == ALL
    assert len(web.log) == len(ALL)


def test_the_producer_may_host_and_two_may_save(web: Web, near: Pooled) -> None:
    (near.folder / "urls.txt").write_text("\n".join(map(web.url, web.routes)))
    producer = near.start("producer", "--bind", near.address, "--pool", near.pool, "-i", "urls.txt")
    consumers = [near.join("-o", name) for name in "ab"]
    assert ended(producer) == (Exit.OK, SAVED)
    assert [ended(consumer)[0] for consumer in consumers] == [Exit.OK, Exit.OK]
    assert saved_in(near.folder / "a") | saved_in(near.folder / "b") == ALL
    assert len(web.log) == len(ALL)


def test_an_empty_list_is_an_end_for_all(far: Pooled) -> None:
    (far.folder / "empty.txt").touch()
    host = far.host("-o", "a")
    producer = far.start("producer", "--queue", far.address, "--pool", far.pool, "-i", "empty.txt")
    assert ended(producer) == (Exit.OK, "0 urls: 0 saved, 0 already there, 0 failed")
    assert ended(host)[0] == Exit.OK


def test_what_fails_has_its_reason(web: Web, near: Pooled) -> None:
    web.routes["/7.png"] = status(404)
    web.routes["/8.png"] = status(410)
    host, producer = near.host("-o", "a"), near.fetch(web, "--max-size", "2M", "--retries", "0")
    code, said = ended(producer)
    assert code == Exit.FAILED
    assert said == "101 urls: 98 saved, 0 already there, 3 failed (http-4xx 2, too-large 1)"
    assert ended(host)[0] == Exit.OK
    failed = (near.folder / "nearfar-failures.txt").read_text().splitlines()
    assert {line.partition("\t")[0] for line in failed} == set(
        map(web.url, ("/7.png", "/8.png", "/large.bin"))
    )


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_killed_workers_cost_nothing(web: Web, commands: Pooled, count: int) -> None:
    """Given a download that has come to its middle,

    If workers are killed,
    I expect the rest to be fetched, nothing of what was saved to be fetched again, and a good end for all.
    """
    gate = Gate(web, after=FILES // 2)
    moments = SavedAtKills(web, commands.folder / "a")
    host, producer = commands.host("-o", "a"), commands.fetch(web)
    assert gate.reached.wait(60)
    note_half(moments)
    for pid in commands.workers(producer)[:count]:
        os.kill(pid, signal.SIGKILL)
    gate.open()
    assert ended(producer) == (Exit.OK, SAVED)
    assert ended(host)[0] == Exit.OK
    assert saved_in(commands.folder / "a") == ALL
    assert moments.fetched_again() == []


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(2))
def test_workers_killed_again_and_again_cost_nothing(commands: Pooled, seed: int) -> None:
    dice = Random(seed)
    with Web() as web:
        files = Files(3000, web, seed)
        files.open()
        (commands.folder / "urls.txt").write_text(files.lists(1)[0])
        hosts = [commands.host("-o", "a"), commands.join("-o", "a")]
        producer = commands.start(
            "producer", "--queue", commands.address, "--pool", commands.pool, "-i", "urls.txt"
        )
        moments = SavedAtKills(web, commands.folder / "a")
        killed: set[int] = set()
        for moment in sorted(dice.sample(range(1, 2500), 6)):
            assert eventually(partial(asked, web, moment), 60)
            found = [pid for pid in commands.workers_now(producer) if pid not in killed]
            if found and producer.poll() is None:
                moments.note()
                with suppress(ProcessLookupError):
                    os.kill(pid := dice.choice(found), signal.SIGKILL)
                    killed.add(pid)
        assert killed
        assert ended(producer) == (Exit.OK, "3,000 urls: 3,000 saved, 0 already there, 0 failed")
        assert [ended(host)[0] for host in hosts] == [Exit.OK, Exit.OK]
        saved = saved_in(commands.folder / "a")
        assert saved == {path[1:]: files.body(path) for path in files.paths}
        assert moments.fetched_again() == []


@pytest.mark.slow
def test_a_machine_that_is_lost_costs_nothing(web: Web, far: Pooled) -> None:
    gate, moments = Gate(web, after=FILES // 2), SavedAtKills(web, far.folder / "a")
    host, producer = far.host("-o", "a"), far.fetch(web)
    assert gate.reached.wait(60)
    note_half(moments)
    assert far.supervisor is not None
    far.supervisor.kill()
    far.work(1)
    gate.open()
    assert ended(producer) == (Exit.OK, SAVED)
    assert ended(host)[0] == Exit.OK
    assert saved_in(far.folder / "a") == ALL
    assert moments.fetched_again() == []


@pytest.mark.slow
def test_a_coordinator_that_is_lost_is_said_and_the_same_command_goes_on(web: Web, far: Pooled) -> None:
    gate = Gate(web, after=FILES // 2)
    host = far.host("-o", "a", "--expected-producers", "2")
    assert host.stderr is not None and "hosting" in host.stderr.readline()
    producer = far.fetch(web, "--wait", "5")
    assert gate.reached.wait(60)
    far.coordinator.kill()
    gate.open()
    out, err = producer.communicate(timeout=60)
    assert producer.returncode == Exit.LOST
    assert "Traceback" not in err
    assert re.search(r"no coordinator has answered at \S+ for 5 s", err)
    assert " left" in out
    again = far.produce(web, "--pool", "local:2")
    assert ended(again)[0] == Exit.OK
    assert ended(host)[0] == Exit.OK
    assert saved_in(far.folder / "a") == ALL


@pytest.mark.slow
def test_a_killed_consumer_costs_no_file(web: Web, far: Pooled) -> None:
    gate = Gate(web, after=FILES // 2)
    host, other = far.host("-o", "a"), far.join("-o", "a")
    producer = far.fetch(web)
    assert gate.reached.wait(60)
    other.kill()
    gate.open()
    assert ended(producer) == (Exit.OK, SAVED)
    assert ended(host)[0] == Exit.OK
    assert saved_in(far.folder / "a") == ALL


@pytest.mark.slow
def test_an_interrupted_producer_goes_on_when_run_again(web: Web, commands: Pooled) -> None:
    gate = Gate(web, after=FILES // 8)
    host, producer = commands.host("-o", "a", "--expected-producers", "2"), commands.fetch(web)
    interrupt(producer, gate)
    gate.open()
    code, said = ended(producer)
    assert code == Exit.INTERRUPTED
    assert " left" in said or said == SAVED  # workers may have begun all before they were told
    assert ended(commands.fetch(web))[0] == Exit.OK
    assert ended(host)[0] == Exit.OK
    assert saved_in(commands.folder / "a") == ALL
    assert len(web.log) == len(ALL)


@pytest.mark.slow
def test_a_second_interrupt_ends_everything_at_once(web: Web, commands: Pooled) -> None:
    gate = Gate(web, after=FILES // 8)
    host, producer = commands.host("-o", "a"), commands.fetch(web)
    interrupt(producer, gate)
    workers = commands.workers(producer)
    outlast_echo()
    producer.send_signal(signal.SIGINT)
    assert producer.wait(60) == Exit.INTERRUPTED
    if commands.supervisor is None:
        assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert ended(host)[0] == Exit.LOST
    gate.open()


def interrupt(producer: subprocess.Popen[str], gate: Gate) -> None:
    """Interrupt it once it is in the middle, and return when it knows."""
    assert gate.reached.wait(60)
    producer.send_signal(signal.SIGINT)
    assert producer.stderr is not None
    assert "connecting" in producer.stderr.readline()
    assert "stopping" in producer.stderr.readline()


def test_nobody_at_the_queue_is_said_in_a_sentence(near: Pooled) -> None:
    producer = near.start(
        "producer", "--queue", near.address, "--pool", "local:1", "--wait", "1", "http://127.0.0.1:9/"
    )
    out, err = producer.communicate(timeout=60)
    assert producer.returncode == Exit.LOST
    assert "no host has answered" in err
    assert "Traceback" not in err
    assert "1 url: 0 saved, 0 already there, 0 failed, 1 left" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--queue", "local", "-o", "a", "--pool", "local:2"), "--queue local has processes of its own"),
        (("--pool", "local:0"), "'0' is not a whole number of at least 1"),
        (("--pool", "here"), "cannot read the address 'here'"),
        (("--pool", "tcp://127.0.0.1:*"), "it needs a port"),
        (
            ("--bind", "tcp://*:5555", "--no-keys", "--pool", "tcp://127.0.0.1:1"),
            "name an address that they",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(near: Pooled, options: tuple[str, ...], said: str) -> None:
    producer = near.start("producer", *options, "http://127.0.0.1:9/")
    _, err = producer.communicate(timeout=60)
    assert producer.returncode == Exit.USAGE
    assert said in err
    assert "Traceback" not in err
