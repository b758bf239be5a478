"""A saved file is not fetched again, though the consumer that should have reported it is gone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.download.trade.world import World

Make = Callable[..., World]
URL = "http://h/large"
FILES = {f"http://h/{number}": f"file {number}".encode() for number in range(20)}


def test_a_large_file_whose_consumer_died_after_its_commit_is_not_fetched_again(
    make_world: Make, tmp_path: Path
) -> None:
    world = make_world({URL: b"large " * 200_000})
    world.consumer("a", tmp_path)
    commit = world.stores["a"].commit

    def commit_and_die(drafts: object) -> None:
        commit(drafts)  # type: ignore[arg-type]
        world.consumers.pop("a")
        world.post.kill("a")
        raise SystemExit

    def step() -> None:
        with suppress(SystemExit):
            World.step(world)
        if not world.consumers:
            world.consumer("b", tmp_path)

    world.stores["a"].commit = commit_and_die  # type: ignore[method-assign, assignment]
    world.fetcher.meanwhile = step
    summary = world.fetch(URL)
    assert "b" in world.consumers, "else the test shows nothing"
    assert str(summary) == "1 url: 1 saved, 0 already there, 0 failed"
    assert world.fetcher.asked[URL] == 1


def test_an_offer_that_no_consumer_heard_is_made_again(make_world: Make, tmp_path: Path) -> None:
    """Given a store whose only consumer leaves with the offer, the next one is asked before a fetch."""
    world = make_world(FILES)
    world.consumer("a", tmp_path)
    world.fetch(*FILES)

    def die() -> bool:
        if not world.post.waiting:
            return False
        world.stores.pop("a").close()
        world.post.kill("a")
        world.events.append(arrive)
        return True

    def arrive() -> bool:
        world.consumer("b", tmp_path)
        return True

    del world.consumers["a"]  # it is there, and reads nothing
    world.events.append(die)
    summary = world.fetch(*FILES)
    assert str(summary) == "20 urls: 0 saved, 20 already there, 0 failed"
    assert set(world.fetcher.asked.values()) == {1}
