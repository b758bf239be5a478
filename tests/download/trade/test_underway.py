"""What is on its way counts for the progress: bytes and parts of files that have no ending yet."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nearfar.cli.exits import Exit
from nearfar.download.model import Job, Underway
from nearfar.download.producer import Producer
from nearfar.download.remote_stores import RemoteStores
from tests.download.trade.commands import Commands
from tests.download.trade.world import ListDesk, World
from tests.support import transport
from tests.support.exchange import Reply, Request
from tests.support.fetcher import PIECE, FakeFetcher
from tests.support.web import Web

HALF = 1_000_000
WATCHER = """
import json, sys
from nearfar.cli import producer

class Told:
    live = False
    def show(self, counts, now):
        print(json.dumps([counts.saved, counts.bytes, counts.underway, counts.waits_for]), file=sys.stderr)
        sys.stderr.flush()
    def close(self, counts, now):
        pass

if __name__ == "__main__":
    producer.progress_of = lambda options: Told()
    sys.exit(producer.main(sys.argv[1:]))
"""
"""A producer whose progress is written down, a line for each time that it would be shown."""


@pytest.fixture
def halved() -> Iterator[tuple[Web, threading.Event]]:
    """A server of one file, of which the second half comes once the event is set."""
    go_on = threading.Event()

    def handle(request: Request, reply: Reply) -> None:
        reply.head(200, {"Content-Length": str(2 * HALF)})
        reply.data(bytes(HALF))
        go_on.wait(30)
        reply.data(bytes(HALF))
        reply.end()

    with Web() as web:
        web.routes["/large.bin"] = handle
        web.at_close.append(go_on.set)
        yield web, go_on


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    commands = Commands(tmp_path)
    yield commands
    commands.close()


@pytest.mark.parametrize("way", ["local", "far", "pooled"])
def test_bytes_in_flight_are_counted_before_their_file_is_saved(
    halved: tuple[Web, threading.Event], commands: Commands, way: str
) -> None:
    """Given half of the only file, I expect its bytes, half a file, and to hear that a host is waited for."""
    web, go_on = halved
    options = ["--queue", "local", "-o", "files"] if way == "local" else ["--queue", commands.address]
    if way != "local":
        commands.host("-o", "files")
    if way == "pooled":
        options += ["--pool", "local:1"]
    watcher = commands.folder / "watcher.py"
    watcher.write_text(WATCHER)
    producer = subprocess.Popen(
        [sys.executable, str(watcher), *options, "--wait", "20", web.url("/large.bin")],
        cwd=commands.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    commands.running.append(producer)
    assert producer.stderr is not None
    told = None
    for line in producer.stderr:
        if line.startswith("["):
            told = json.loads(line)
            if told[1] >= HALF:
                break
    assert told is not None
    assert told[:2] == [0, HALF] and told[2] == pytest.approx(0.5) and told[3] == "host"
    go_on.set()
    out, err = producer.communicate(timeout=90)
    assert producer.returncode == Exit.OK, err
    assert out.startswith("1 url: 1 saved")


def test_a_consumer_counts_the_files_that_come_in(make_world: Callable[..., World], tmp_path: Path) -> None:
    body = b"x" * (40 * PIECE)
    world = make_world({"http://h/a": body})
    world.consumer("a", tmp_path / "a")
    seen: list[Underway] = []

    def look() -> bool:
        seen.append(world.consumers["a"].underway)
        return False

    world.events.append(look)
    world.fetch("http://h/a")
    sizes = [each.size for each in seen]
    assert 0 < max(sizes) <= len(body)
    middle = seen[sizes.index(next(size for size in sizes if size))]
    assert middle.files == pytest.approx(middle.size / len(body))
    assert middle.waits_for == "producer"
    assert world.consumers["a"].underway == Underway(0, 0.0, "")


def test_a_producer_says_who_is_waited_for() -> None:
    job_source = ListDesk([])
    fetcher = FakeFetcher({}, meanwhile=lambda: None)
    Producer(job_source, fetcher, RemoteStores(transport.Outbox(transport.Post())))
    assert job_source.underway() == Underway(0, 0.0, "")
    job_source = ListDesk([Job("http://h/a")])
    producer = Producer(job_source, fetcher, RemoteStores(transport.Outbox(transport.Post())))
    producer.turn()
    assert job_source.underway().waits_for == "consumer", "nobody has said what it has already"


def test_what_came_of_a_voided_attempt_counts_no_more(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    body = b"x" * (10 * PIECE)
    world = make_world({"http://h/a": body})
    world.fetcher.hiccups.add("http://h/a")
    world.consumer("a", tmp_path / "a")
    sizes: list[int] = []
    world.events.append(lambda: bool(world.producer and sizes.append(world.producer.underway().size)))
    world.fetch("http://h/a")
    assert max(sizes) <= len(body), "not the bytes of both attempts"
    assert any(later < earlier for earlier, later in itertools.pairwise(sizes))
    assert world.producer is not None and world.producer.underway() == Underway(0, 0.0, "")
