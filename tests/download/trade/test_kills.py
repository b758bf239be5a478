"""Two consumers, a producer and the host are killed in the midst of a download; the same commands go on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from random import Random

import msgpack
import pytest

from nearfar.cli.exits import Exit
from nearfar.queues.far import FarQueue
from nearfar.queues.redis.address import RedisAddress
from nearfar.queues.redis.client import ask
from tests.chaos.faults.faults import chosen_seeds
from tests.download.trade.troop import Ended, Files, Troop
from tests.support.redis_server import needed
from tests.support.waiting import eventually
from tests.support.web import Web

Maker = Callable[..., Troop]
LEASE = 10.0
"""Seconds of silence after which a command that hosts takes another for dead, and the other it."""
LIMIT = 60.0
REDIS = pytest.param("redis", marks=needed)


@pytest.fixture
def make_troop(tmp_path: Path) -> Iterator[Maker]:
    made = []
    with Web() as web:

        def make(count: int, seed: int, transport: str, *, alone: bool, wait: float) -> Troop:
            print(f"seed {seed}")
            made.append(Troop(tmp_path, Files(count, web, seed), transport, alone, wait))
            return made[0]

        yield make
        for troop in made:
            troop.close()


def kills(troop: Troop, seed: int) -> Iterator[str]:
    """Start everything, and kill two consumers, a producer and the host, in any order at any moment.

    A moment is a number of files saved; or the next, when no more can be saved. Yields who was killed.
    """
    dice = Random(seed)
    consumers = [name for name in troop.commands if name.startswith("consumer") and name != troop.host]
    victims = [troop.host, dice.choice(["producer 1", "producer 2"]), *dice.sample(consumers, 2)]
    dice.shuffle(victims)
    moments = sorted(dice.sample(range(1, len(troop.files.paths) * 7 // 10), len(victims)))
    troop.start_all()
    for moment, victim in zip(moments, victims, strict=True):
        if troop.host in troop.running:
            assert eventually(
                lambda moment=moment: troop.saved() >= moment or troop.files.waited_for.is_set(), LIMIT
            ), f"only {troop.saved()} of {moment} saved"
        troop.kill(victim)
        print(f"{troop.saved()} saved, killed {victim}")
        yield victim


def end_all(troop: Troop, within: float) -> dict[str, Ended]:
    """How every command ended, but for a host that hosts for ever."""
    names = sorted(troop.running, reverse=True)
    return {name: troop.ended(name, within) for name in names if name != "host"}


def verify(troop: Troop, endings: dict[str, Ended]) -> None:
    """Each command ended well, and what the producers say they did adds up.

    All files are there, whole, in the manifest, and nothing else; none was asked for after it was saved.
    """
    files, count = troop.files, len(troop.files.paths)
    assert {name: ended.code for name, ended in endings.items()} == dict.fromkeys(endings, Exit.OK), endings
    urls, saved, already, failed = zip(*(endings[f"producer {n}"].counts for n in (1, 2)), strict=True)
    assert (sum(urls), sum(saved) + sum(already), sum(failed)) == (count, count, 0)
    manifest = {".nearfar.sqlite", ".nearfar.sqlite-wal", ".nearfar.sqlite-shm"}
    assert {each.name for each in troop.saved_in.iterdir()} - manifest == {path[1:] for path in files.paths}
    rows = troop.rows()
    assert set(rows) == set(files.paths)
    for path, (size, digest) in rows.items():
        body = (troop.saved_in / path[1:]).read_bytes()
        assert body == files.body(path)
        assert (len(body), hashlib.sha256(body).hexdigest()) == (size, digest)
    assert troop.moments.fetched_again() == []


def the_rest_gives_up_and_the_same_commands_finish(troop: Troop, seed: int) -> None:
    for _ in kills(troop, seed):
        pass
    troop.files.open()
    for name, ended in end_all(troop, LEASE + troop.wait + LIMIT).items():
        assert (name, ended.code) == (name, Exit.LOST)
        assert f"has answered at {troop.address} for {troop.wait:g} s" in ended.err
    had = troop.there()
    troop.start_all()
    endings = end_all(troop, LIMIT + LEASE)
    verify(troop, endings)
    saved = [endings[name].counts[0] for name in endings if name.startswith("consumer")]
    assert sum(saved) == len(troop.files.paths) - had


def the_rest_goes_on_with_those_that_are_started_again(troop: Troop, seed: int) -> None:
    for victim in kills(troop, seed):
        troop.start(victim)
    with ExitStack() as stack:
        here = here_in_redis if troop.transport == "redis" else here_at_host(troop, stack)
        assert eventually(lambda: here(troop) == (3, 2), LIMIT), here(troop)
    troop.files.open()
    verify(troop, end_all(troop, LIMIT + LEASE))


def here_at_host(troop: Troop, stack: ExitStack) -> Callable[[Troop], tuple[int, int]]:
    """How many consumers and producers the host knows of."""
    queue = stack.enter_context(closing(FarQueue.connect(troop.address, wait=LIMIT)))

    def here(_: Troop) -> tuple[int, int]:
        counts = queue.counts()
        return counts["consumers"], counts["producers"]

    return here


def here_in_redis(troop: Troop) -> tuple[int, int]:
    """How many consumers and producers the server knows of."""
    place = RedisAddress.parse(troop.address)
    packed = ask(place, "HVALS", f"nearfar:{{{place.name}}}:members")
    members = [msgpack.unpackb(each) for each in packed]
    return sum("store" in each for each in members), sum("id" in each for each in members)


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["tcp", REDIS])
def test_the_same_commands_finish_what_killed_ones_began(make_troop: Maker, transport: str) -> None:
    the_rest_gives_up_and_the_same_commands_finish(make_troop(400, 1, transport, alone=True, wait=3.0), 1)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("transport", "alone"), [("tcp", False), ("ipc", True), pytest.param("redis", True, marks=needed)]
)
def test_killed_commands_join_in_again(make_troop: Maker, transport: str, alone: bool) -> None:
    troop = make_troop(400, 2, transport, alone=alone, wait=20.0)
    the_rest_goes_on_with_those_that_are_started_again(troop, 2)


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("transport", "alone"), [("tcp", True), ("ipc", False)])
@pytest.mark.parametrize("seed", [0])
def test_5000_files_survive_kills(make_troop: Maker, seed: int, transport: str, alone: bool) -> None:
    troop = make_troop(5000, seed, transport, alone=alone, wait=3.0)
    the_rest_gives_up_and_the_same_commands_finish(troop, seed)


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("seed", "transport", "alone"),
    [(seed, "ipc" if seed % 2 else "tcp", seed % 4 < 2) for seed in chosen_seeds("0-7")],
)
def test_killed_commands_join_in_again_whenever(
    make_troop: Maker, seed: int, transport: str, alone: bool
) -> None:
    troop = make_troop(1000, seed, transport, alone=alone, wait=20.0)
    the_rest_goes_on_with_those_that_are_started_again(troop, seed)
