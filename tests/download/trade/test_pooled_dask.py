"""One list of URLs, fetched by the workers of a Dask cluster."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from nearfar.cli.exits import Exit
from tests.download.trade.commands import ALL, Commands, ended, saved_in, serve
from tests.download.trade.gate import Gate
from tests.download.trade.saved_at_kills import SavedAtKills
from tests.support import dask_cluster
from tests.support.ports import free_address
from tests.support.web import Web

pytestmark = [dask_cluster.needed, pytest.mark.slow, pytest.mark.timeout(180)]

SAVED = "101 urls: 101 saved, 0 already there, 0 failed"


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as web:
        serve(web)
        yield web


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    commands = Commands(tmp_path)
    yield commands
    commands.close()


@pytest.fixture
def cluster() -> Iterator[dask_cluster.Cluster]:
    with dask_cluster.running(2) as cluster:
        yield cluster


def test_everything_is_saved_and_again_nothing_is_fetched(
    web: Web, commands: Commands, cluster: dask_cluster.Cluster
) -> None:
    for said in (SAVED, "101 urls: 0 saved, 101 already there, 0 failed"):
        host, producer = commands.host("-o", "a"), commands.produce(web, "--pool", cluster.address)
        assert ended(producer) == (Exit.OK, said)
        assert ended(host)[0] == Exit.OK
        assert saved_in(commands.folder / "a") == ALL
    assert len(web.log) == len(ALL)


@pytest.mark.parametrize("after", [3, 40])
def test_what_a_killed_worker_had_saved_counts_as_saved(
    web: Web, commands: Commands, cluster: dask_cluster.Cluster, after: int
) -> None:
    """Files of its share are there when the share runs again, but this run has saved them."""
    gate = Gate(web, after)
    moments = SavedAtKills(web, commands.folder / "a")
    host, producer = commands.host("-o", "a"), commands.produce(web, "--pool", cluster.address)
    assert gate.reached.wait(60)
    moments.note()
    cluster.kill_worker("w0")
    cluster.kill_worker("w1")
    gate.open()
    cluster.start_worker("w2")
    assert ended(producer) == (Exit.OK, SAVED)
    assert ended(host)[0] == Exit.OK
    assert saved_in(commands.folder / "a") == ALL
    assert moments.fetched_again() == []


def test_an_interrupted_producer_goes_on_when_run_again(
    web: Web, commands: Commands, cluster: dask_cluster.Cluster
) -> None:
    gate = Gate(web, 20)
    moments = SavedAtKills(web, commands.folder / "a")
    host = commands.host("-o", "a", "--expected-producers", "2")
    producer = commands.produce(web, "--pool", cluster.address)
    assert gate.reached.wait(60)
    producer.send_signal(signal.SIGINT)
    gate.open()
    code, said = ended(producer)
    assert (code, " left" in said) == (Exit.INTERRUPTED, True)
    moments.note()
    assert ended(commands.produce(web, "--pool", cluster.address))[0] == Exit.OK
    assert ended(host)[0] == Exit.OK
    assert saved_in(commands.folder / "a") == ALL
    assert moments.fetched_again() == []


def test_a_scheduler_that_is_away_is_said_in_a_sentence(web: Web, commands: Commands) -> None:
    producer = commands.produce(web, "--pool", free_address().replace("tcp", "dask"), "--wait", "1")
    _, err = producer.communicate(timeout=40)
    assert (producer.returncode, "Traceback" in err) == (Exit.LOST, False)
    assert "no Dask scheduler answers at dask://127.0.0.1:" in err
