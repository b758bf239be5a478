"""Two commands and a queue between them: the same story as the local one, over ZeroMQ and over Redis."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from nearfar.cli.exits import Exit
from tests.download.trade.commands import ALL, FILES, Commands, ended, saved_in, serve
from tests.download.trade.gate import Gate
from tests.download.trade.saved_at_kills import SavedAtKills, saved_names
from tests.support import redis_server
from tests.support.ports import free_port
from tests.support.waiting import eventually
from tests.support.web import Web


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as web:
        serve(web)
        yield web


@pytest.fixture(params=["tcp", pytest.param("redis", marks=pytest.mark.slow)])
def commands(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Commands]:
    commands = Commands(tmp_path, redis_server.address() if request.param == "redis" else "")
    yield commands
    commands.close()


def test_two_commands_save_everything_fetch_it_once_and_export_a_list(web: Web, commands: Commands) -> None:
    host, producer = commands.host("-o", "a"), commands.produce(web)
    assert ended(producer) == (Exit.OK, "101 urls: 101 saved, 0 already there, 0 failed")
    assert ended(host)[0] == Exit.OK
    assert saved_in(commands.folder / "a") == ALL
    host, producer = commands.host("-o", "a"), commands.produce(web)
    assert ended(producer) == (Exit.OK, "101 urls: 0 saved, 101 already there, 0 failed")
    assert ended(host)[0] == Exit.OK
    assert len(web.log) == len(ALL)
    export = commands.start("consumer", "-o", "a", "--export", "jsonl", "-")
    out, _ = export.communicate(timeout=90)
    assert {json.loads(line)["name"] for line in out.splitlines()} == set(ALL)


def test_a_killed_consumer_costs_no_file(web: Web, commands: Commands) -> None:
    gate = Gate(web, after=FILES // 2)
    host, other = commands.host("-o", "a"), commands.join("-o", "a")
    producer = commands.produce(web)
    assert gate.reached.wait(30)
    other.kill()
    gate.open()
    assert ended(producer) == (Exit.OK, "101 urls: 101 saved, 0 already there, 0 failed")
    assert ended(host)[0] == Exit.OK
    assert saved_in(commands.folder / "a") == ALL


def test_a_stopped_consumer_leaves_its_work_to_another(web: Web, commands: Commands) -> None:
    gate = Gate(web, after=FILES // 2)
    host, other = commands.host("-o", "a"), commands.join("-o", "b")
    producer = commands.produce(web)
    assert gate.reached.wait(30)
    assert other.stderr is not None
    assert "saving" in other.stderr.readline(), "from now on it knows what to do about a signal"
    other.send_signal(signal.SIGTERM)
    assert ended(other)[0] == Exit.TERMINATED
    gate.open()
    assert ended(producer) == (Exit.OK, "101 urls: 101 saved, 0 already there, 0 failed")
    assert ended(host)[0] == Exit.OK
    assert saved_in(commands.folder / "a") | saved_in(commands.folder / "b") == ALL
    assert len(web.log) == len(ALL)


def test_an_interrupted_producer_goes_on_when_run_again(web: Web, commands: Commands) -> None:
    gate = Gate(web, after=FILES // 2)
    host, producer = commands.host("-o", "a", "--expected-producers", "2"), commands.produce(web)
    assert gate.reached.wait(30)
    producer.send_signal(signal.SIGINT)
    assert producer.stderr is not None
    assert "connecting" in producer.stderr.readline()
    assert "stopping" in producer.stderr.readline()
    gate.open()
    code, said = ended(producer)
    assert code == Exit.INTERRUPTED
    assert " left" in said
    assert ended(commands.produce(web))[0] == Exit.OK
    assert ended(host)[0] == Exit.OK
    assert saved_in(commands.folder / "a") == ALL
    assert len(web.log) == len(ALL)


def test_after_both_commands_were_killed_the_same_ones_go_on(web: Web, commands: Commands) -> None:
    gate = Gate(web, after=FILES // 2)
    host, producer = commands.host("-o", "a"), commands.produce(web)
    assert gate.reached.wait(30)
    assert eventually(lambda: bool(saved_names(commands.folder / "a")))
    for process in (host, producer):
        process.kill()
        process.wait()
    moments = SavedAtKills(web, commands.folder / "a")
    moments.note()
    gate.open()
    host, producer = commands.host("-o", "a"), commands.produce(web)
    code, said = ended(producer)
    assert code == Exit.OK
    assert said.startswith("101 urls: ")
    assert ended(host)[0] == Exit.OK
    assert saved_in(commands.folder / "a") == ALL
    assert moments.fetched_again() == []


def test_an_empty_list_is_an_end_for_the_consumer_too(commands: Commands) -> None:
    (commands.folder / "empty.txt").touch()
    host = commands.host("-o", "a")
    producer = commands.start("producer", "--queue", commands.address, "-i", "empty.txt")
    assert ended(producer) == (Exit.OK, "0 urls: 0 saved, 0 already there, 0 failed")
    assert ended(host)[0] == Exit.OK


def test_nobody_there_is_said_in_a_sentence(commands: Commands) -> None:
    address = re.sub(r":\d+", f":{free_port()}", commands.address)
    producer = commands.start("producer", "--queue", address, "--wait", "1", "http://127.0.0.1:9/")
    out, err = producer.communicate(timeout=90)
    assert producer.returncode == Exit.LOST
    assert f"has answered at {address} for 1 s" in err
    assert "Traceback" not in err
    assert "1 url: 0 saved, 0 already there, 0 failed, 1 left" in out
