"""The protocols of broker and clients together, over a network with delays and losses."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.queues.simulation import SimConsumer, SimProducer, SteadyProducer, World

pytestmark = pytest.mark.pure

SEEDS = [*range(2), *(pytest.param(seed, marks=pytest.mark.chaos) for seed in range(2, 8))]


class LingeringProducer(SteadyProducer):
    """Stays for two minutes, so that no consumer reaches the end before."""

    def finished(self) -> None:
        if self.world.now > 120.0:
            super().finished()


def producers(world: World, *counts: int, kind: type[SimProducer] = SimProducer) -> list[SimProducer]:
    made = []
    for index, count in enumerate(counts):
        producer = kind(world, f"producer-{index}")
        producer.count = count
        made.append(producer)
    return made


def consumers(world: World, count: int) -> list[SimConsumer]:
    return [SimConsumer(world, f"consumer-{index}") for index in range(count)]


def all_items(*made: SimProducer) -> set[tuple[str, int]]:
    return {(producer.name, n) for producer in made for n in range(1, producer.count + 1)}


def ended(*ends: SimProducer | SimConsumer) -> bool:
    return all(not end.alive or end.machine.calling.stage.name == "CLOSED" for end in ends)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("options", [{}, {"maxsize": 6}, {"maxbytes": 400}, {"maxsize": 1}], ids=str)
def test_over_a_lossy_network_no_item_is_lost_or_doubled(seed: int, options: dict[str, int]) -> None:
    """Given losses on every channel, I expect each item exactly once, in its producer's order, and the
    end."""
    world = World(seed, loss=0.05, expected=2, **options)
    made = producers(world, 120, 60)
    takers = consumers(world, 3)
    world.run(until=lambda: ended(*made, *takers))
    assert ended(*made, *takers)
    done = Counter(item for taker in takers for item in taker.done)
    assert set(done) == all_items(*made)
    assert set(done.values()) == {1}
    assert world.host.ledger.unsettled == 0
    for taker in takers:
        for producer in made:
            mine = [n for (name, n), attempt in taker.seen if name == producer.name and attempt == 1]
            assert len(takers) > 1 or mine == sorted(mine)


@pytest.mark.parametrize("seed", SEEDS)
def test_one_consumer_sees_each_producers_order(seed: int) -> None:
    world = World(seed, loss=0.03, expected=2, maxsize=10)
    made = producers(world, 150, 150)
    (taker,) = consumers(world, 1)
    world.run(until=lambda: ended(*made, taker))
    for producer in made:
        assert [n for (name, n), _ in taker.seen if name == producer.name] == list(range(1, 151))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("seen", [True, False])
def test_items_of_killed_and_frozen_consumers_reach_another(seed: int, seen: bool) -> None:
    """If two of four consumers die and one freezes for longer than its lease, nothing is missing, and only
    what those three had can have been seen twice."""
    world = World(seed, loss=0.02, expected=1)
    made = producers(world, 200)
    takers = consumers(world, 4)
    chance = random.Random(seed)
    for taker in takers[:2]:
        world.later(chance.uniform(0.1, 2.0), lambda taker=taker: taker.kill(seen=seen))
    world.later(chance.uniform(0.1, 2.0), lambda: takers[2].freeze(25.0))
    world.run(until=lambda: ended(*made, *takers))
    assert ended(*made, *takers)
    done = {item for taker in takers for item in taker.done}
    assert done == all_items(*made)
    twice = {item for item, n in Counter(i for t in takers for i in t.done).items() if n > 1}
    suspects = {item for taker in takers[:3] for item, _ in taker.seen}
    assert twice <= suspects


@pytest.mark.parametrize("seed", SEEDS)
def test_a_host_restarted_empty_loses_nothing_of_live_producers(seed: int) -> None:
    world = World(seed, loss=0.02, expected=2, maxsize=8)
    made = producers(world, 80, 80, kind=SteadyProducer)
    takers = consumers(world, 2)
    chance = random.Random(seed)
    for when in (chance.uniform(0.5, 3.0), chance.uniform(5.0, 40.0)):
        world.later(when, world.restart_host)
    world.run(until=lambda: ended(*made, *takers))
    assert {item for taker in takers for item in taker.done} == all_items(*made)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("cut", [3.0, 30.0], ids=["shorter", "longer"])
def test_a_partition_shorter_or_longer_than_the_lease(seed: int, cut: float) -> None:
    world = World(seed, expected=1)
    made = producers(world, 150, kind=SteadyProducer)
    takers = consumers(world, 2)
    victims = [made[0].name, takers[0].name]
    world.later(0.4, lambda: world.cut_off.update(victims))
    world.later(0.4 + cut, world.cut_off.clear)
    world.run(until=lambda: ended(*made, *takers))
    done = Counter(item for taker in takers for item in taker.done)
    assert set(done) == all_items(*made)
    if cut < 10.0:
        assert set(done.values()) == {1}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_killed_producer_is_named_at_the_end(seed: int) -> None:
    world = World(seed, expected=2, maxsize=10)
    made = producers(world, 100, 5000)
    takers = consumers(world, 2)
    world.later(0.6, lambda: made[1].kill(seen=True))
    world.run(until=lambda: ended(*made, *takers))
    assert all_items(made[0]) <= {item for taker in takers for item in taker.done}
    assert all(taker.machine.session.lost == (made[1].name,) for taker in takers)
    assert world.host.ledger.unsettled == 0


@pytest.mark.parametrize("seed", SEEDS[:2])
@pytest.mark.parametrize(
    ("role", "channel"),
    [
        ("producer-0", "inbox up"),
        ("producer-0", "control up"),
        ("producer-0", "control down"),
        ("consumer-0", "lane down"),
        ("consumer-0", "control up"),
        ("consumer-0", "control down"),
    ],
)
def test_a_connection_that_is_dead_while_others_live_is_replaced(seed: int, role: str, channel: str) -> None:
    """Given one connection of a session on which nothing arrives any more, I expect everything to be done."""
    world = World(seed, expected=2)
    made = producers(world, 300, 0, kind=LingeringProducer)
    takers = consumers(world, 2)
    when = 0.0 if channel == "inbox up" else 0.3
    world.later(when, lambda: world.deaf.add((f"{role}.1", channel)))
    world.run(until=lambda: ended(*made, *takers), most=300.0)
    assert ended(*made, *takers)
    assert {item for taker in takers for item in taker.done} == all_items(*made)
    assert world.ends[role].machine.session_name == f"{role}.2"
