"""Two connections to one host are two connections, however many processes download: counted by a server."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from nearfar.cli.exits import Exit
from tests.download.trade.commands import Commands, ended
from tests.support import redis_server
from tests.support.counting import Counting
from tests.support.processes import leaves
from tests.support.waiting import eventually

FILES = 90
PATIENCE = 3
"""Seconds for which a host asks for no requests."""


def too_early(web: Counting) -> list[float]:
    """The requests that came while none was wanted, except those that were under way when that was said."""
    return [
        when for when in web.times if web.refused_at + PATIENCE / 2 < when < web.refused_at + PATIENCE - 0.1
    ]


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    commands = Commands(tmp_path)
    yield commands
    commands.close()


def listed(commands: Commands, *servers: Counting, name: str = "urls.txt", first: int = 0) -> str:
    """A file with the URLs of `FILES` files of each server, in turn."""
    urls = [server.url(f"/{number}.txt") for number in range(first, first + FILES) for server in servers]
    (commands.folder / name).write_text("\n".join(urls))
    return name


def hosting(commands: Commands, *, program: str, producers: int) -> list[subprocess.Popen[str]]:
    """The host of the queue, and a consumer: in one process, or apart. A Redis server needs no host."""
    if program == "redis":
        commands.address = redis_server.address()
    if program in ("consumer", "redis"):
        return [commands.host("-o", "a", "--expected-producers", str(producers))]
    host = commands.start("queue", "--bind", commands.address, "--expected-producers", str(producers))
    return [host, commands.join("-o", "a")]


def far(commands: Commands, urls: str, *options: str) -> subprocess.Popen[str]:
    return commands.start("producer", "--queue", commands.address, "-i", urls, *options)


def local(commands: Commands, urls: str, *options: str) -> subprocess.Popen[str]:
    return commands.start("producer", "--queue", "local", "-o", "a", "-i", urls, *options)


REDIS = pytest.param("redis", marks=pytest.mark.slow)
NEAR = {
    "downloaders": ("--jobs", "32", "--per-host", "9"),
    "queues": ("-P", "3", "-C", "2", "--per-host", "2"),
}


@pytest.mark.parametrize("how", NEAR)
def test_the_processes_of_one_command_share_the_connections(commands: Commands, how: str) -> None:
    most = int(NEAR[how][-1])
    with Counting(delay=0.003, together=most) as web:
        process = local(commands, listed(commands, web), *NEAR[how])
        assert ended(process) == (Exit.OK, f"{FILES} urls: {FILES} saved, 0 already there, 0 failed")
        assert web.most_open <= most
        assert web.most_at_once == most, "the limit is used"


@pytest.mark.parametrize("how", NEAR)
def test_a_host_that_asks_one_process_for_patience_gets_it_from_all(commands: Commands, how: str) -> None:
    with Counting(
        delay=0.1, patience=PATIENCE
    ) as web:  # so that the others have work for longer than a moment
        process = local(commands, listed(commands, web), *NEAR[how][:-1], "9")
        assert ended(process)[0] == Exit.OK
        assert web.refused_at
        assert too_early(web) == []


def test_the_rate_of_requests_is_that_of_all_processes(commands: Commands) -> None:
    with Counting() as web:
        process = local(commands, listed(commands, web), "-P", "3", "-C", "1", "--host-rate", "50")
        assert ended(process)[0] == Exit.OK
        assert web.most_within(1.0) <= 50 * 2 + 5
        assert web.times[-1] - web.times[0] > (FILES - 50) / 50


def test_one_process_keeps_the_rate_too(commands: Commands) -> None:
    with Counting() as web:
        (commands.folder / "few.txt").write_text("\n".join(web.url(f"/{n}") for n in range(7)))
        assert ended(local(commands, "few.txt", "--host-rate", "5"))[0] == Exit.OK
        assert 0.9 < web.times[-1] - web.times[0] < 5


def test_killed_processes_give_their_connections_to_others(commands: Commands) -> None:
    random = Random(5)
    with Counting(delay=0.02) as web:
        process = local(commands, listed(commands, web), "--jobs", "32", "--per-host", "8")
        for share in (15, 35, 55):
            assert eventually(lambda share=share: len(web.times) >= share)
            if children := leaves(process.pid):
                subprocess.run(["kill", "-9", str(random.choice(children))], check=False)
        code, said = ended(process)
        assert (code, said) == (Exit.OK, f"{FILES} urls: {FILES} saved, 0 already there, 0 failed")
        assert web.most_open <= 8


def test_hosts_do_not_starve_each_other(commands: Commands) -> None:
    with Counting(delay=0.1) as slow, Counting() as fast:
        process = local(commands, listed(commands, slow, fast), "-P", "2", "-C", "1", "--per-host", "2")
        assert eventually(lambda: len(fast.times) == FILES)
        assert len(slow.times) < FILES
        process.send_signal(signal.SIGINT)
        ended(process)
        assert slow.most_open <= 2 and fast.most_open <= 2


@pytest.mark.parametrize("program", ["consumer", pytest.param("queue", marks=pytest.mark.slow), REDIS])
def test_the_producers_of_a_queue_share_the_connections(commands: Commands, program: str) -> None:
    with Counting(delay=0.003, together=2) as web:
        lists = [listed(commands, web, name=f"{n}.txt", first=n * FILES) for n in range(3)]
        hosting(commands, program=program, producers=3)
        producers = [far(commands, urls, "--per-host", "2") for urls in lists]
        for producer in producers:
            assert ended(producer) == (Exit.OK, f"{FILES} urls: {FILES} saved, 0 already there, 0 failed")
        assert web.most_open <= 2
        assert web.most_at_once == 2, "the limit is used"


@pytest.mark.parametrize("program", ["consumer", REDIS])
def test_a_host_that_asks_one_producer_for_patience_gets_it_from_all(
    commands: Commands, program: str
) -> None:
    with Counting(delay=0.003, patience=PATIENCE, before=100) as web:
        lists = [listed(commands, web, name=f"{n}.txt", first=n * FILES) for n in range(3)]
        hosting(commands, program=program, producers=3)
        producers = [far(commands, urls) for urls in lists]
        for producer in producers:
            assert ended(producer)[0] == Exit.OK
        assert web.refused_at
        assert too_early(web) == []


@pytest.mark.parametrize("program", ["consumer", REDIS])
def test_the_rate_is_that_of_all_producers_of_a_queue(commands: Commands, program: str) -> None:
    with Counting() as web:
        lists = [listed(commands, web, name=f"{n}.txt", first=n * FILES) for n in range(2)]
        hosting(commands, program=program, producers=2)
        producers = [far(commands, urls, "--host-rate", "100") for urls in lists]
        for producer in producers:
            assert ended(producer)[0] == Exit.OK
        assert web.most_within(1.0) <= 100 * 2 + 10
        assert web.times[-1] - web.times[0] > (2 * FILES - 100) / 100


@pytest.mark.parametrize("program", ["consumer", REDIS])
def test_a_killed_producer_gives_its_connections_to_another(commands: Commands, program: str) -> None:
    with Counting(delay=0.05) as web:
        lists = [listed(commands, web, name=f"{n}.txt", first=n * FILES) for n in range(2)]
        if program == "redis":  # only the producer's lease tells that it is dead
            longer = [web.url(f"/{number}.txt") for number in range(FILES, 5 * FILES)]
            (commands.folder / lists[1]).write_text("\n".join(longer))
        hosting(commands, program=program, producers=2)
        first, second = [far(commands, urls, "--per-host", "2") for urls in lists]
        assert eventually(lambda: len(web.times) > 40)
        first.kill()
        first.wait()
        came = len(web.times)
        assert eventually(lambda: len(web.times) > came + 10)  # the last requests of the killed one are over
        web.most_at_once = 0
        assert ended(second)[0] == Exit.OK
        assert web.most_open <= 2
        assert web.most_at_once == 2, "it has both"


def test_a_restarted_host_does_not_exceed_the_limit(commands: Commands) -> None:
    with Counting(delay=0.05) as web:
        lists = [listed(commands, web, name=f"{n}.txt", first=n * FILES) for n in range(2)]
        host, _ = hosting(commands, program="queue", producers=2)
        producers = [far(commands, urls, "--per-host", "3") for urls in lists]
        assert eventually(lambda: len(web.times) > 40)
        host.kill()
        host.wait()
        commands.start("queue", "--bind", commands.address, "--expected-producers", "2")
        for producer in producers:
            assert ended(producer)[0] == Exit.OK
        assert web.most_open <= 3


@pytest.mark.parametrize(
    ("where", "program"),
    [
        ("near", "consumer"),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("far", "consumer"), ("near", "redis"))),
    ],
)
def test_the_workers_of_a_pool_share_the_connections(commands: Commands, where: str, program: str) -> None:
    with Counting(delay=0.02, patience=PATIENCE) as web:
        pool = "local:4"
        if where == "far":
            coordinator = commands.start("coordinator", "--bind", "tcp://127.0.0.1:*")
            assert coordinator.stdout is not None
            pool = coordinator.stdout.readline().removeprefix("coordinating at ").strip()
            for _ in range(2):
                commands.start("worker", "--connect", pool, "--processes", "2")
        lists = [listed(commands, web, name=f"{n}.txt", first=n * FILES) for n in range(2)]
        hosting(commands, program=program, producers=2)
        options = ("--pool", pool, "--per-host", "2")
        producers = [far(commands, urls, *options) for urls in lists]
        for producer in producers:
            assert ended(producer) == (Exit.OK, f"{FILES} urls: {FILES} saved, 0 already there, 0 failed")
        assert web.most_open <= 2
        assert too_early(web) == []
