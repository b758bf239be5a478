"""Producer and consumers together, over a transport in memory."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from nearfar.download.consumer import Consumer
from nearfar.download.messages import Files, StreamChunk, decode
from nearfar.download.model import Checksum, Job, Reason
from nearfar.download.producer import TRIES
from nearfar.download.store.draft import Draft
from tests.download.trade.world import World

Make = Callable[..., World]

SMALL = {f"http://h/{number}": f"small {number}".encode() * number for number in range(1, 200)}
LARGE = {f"http://h/large{number}": random.Random(number).randbytes(1_500_000) for number in range(4)}


def contents(directory: Path) -> set[bytes]:
    return {path.read_bytes() for path in directory.iterdir() if not path.name.startswith(".")}


def test_every_file_is_saved_and_counted(make_world: Make, tmp_path: Path) -> None:
    world = make_world(SMALL | LARGE)
    world.consumer("a", tmp_path)
    summary = world.fetch(*SMALL, *LARGE)
    assert str(summary) == "203 urls: 203 saved, 0 already there, 0 failed"
    assert contents(tmp_path) == set(SMALL.values()) | set(LARGE.values())
    assert summary.size == sum(map(len, (SMALL | LARGE).values()))
    assert world.fetcher.most_in_flight == 4


def test_small_files_share_messages(make_world: Make, tmp_path: Path) -> None:
    world = make_world(SMALL)
    world.consumer("a", tmp_path)
    world.fetch(*SMALL, at_once=64)
    assert sum(isinstance(decode(message), Files) for message in world.post.sent) <= len(SMALL) / 16


def test_the_same_command_again_fetches_nothing_though_each_consumer_has_some(
    make_world: Make, tmp_path: Path
) -> None:
    world = make_world(SMALL | LARGE)
    world.consumer("a", tmp_path / "a")
    world.consumer("b", tmp_path / "b")
    world.fetch(*SMALL, *LARGE)
    assert contents(tmp_path / "a"), "else the test shows nothing"
    assert contents(tmp_path / "b"), "else the test shows nothing"
    summary = world.fetch(*SMALL, *LARGE)
    assert str(summary) == "203 urls: 0 saved, 203 already there, 0 failed"
    assert set(world.fetcher.asked.values()) == {1}


def test_an_offer_waits_for_the_first_consumer_and_then_asks_its_neighbours(
    make_world: Make, tmp_path: Path
) -> None:
    world = make_world(SMALL | LARGE)
    world.consumer("a", tmp_path / "a")
    world.consumer("b", tmp_path / "b")
    world.fetch(*SMALL, *LARGE)
    directories = [tmp_path / "a", tmp_path / "b"]
    assert all(map(contents, directories)), "else the test shows nothing"
    world.kill("a")
    world.kill("b")
    late = iter(enumerate(directories))

    def arrive() -> bool:
        """Both arrive at once, after the first offer was sent to any consumer."""
        for number, directory in late:
            world.consumer(f"late{number}", directory)
        return True

    world.events.append(arrive)
    assert world.fetch(*SMALL, *LARGE).already == len(SMALL) + len(LARGE)
    assert set(world.fetcher.asked.values()) == {1}


def test_failures_keep_their_reasons_and_stop_nobody(make_world: Make, tmp_path: Path) -> None:
    world = make_world(SMALL)
    world.consumer("a", tmp_path)
    summary = world.fetch("http://h/none", *SMALL, Job("http://h/2", name="../escape"))
    assert summary.failed == {Reason.HTTP_4XX: 1, Reason.REJECTED: 1}
    assert summary.saved == len(SMALL)
    assert set(world.job_source.failures) == {"http://h/none", "http://h/2"}
    assert not (tmp_path.parent / "escape").exists()


def test_a_repeated_line_is_fetched_once_and_counted_as_there(make_world: Make, tmp_path: Path) -> None:
    world = make_world(SMALL)
    world.consumer("a", tmp_path)
    summary = world.fetch("http://h/1", "http://h/none", "http://h/1", "http://h/none", "http://h/2")
    assert str(summary) == "5 urls: 2 saved, 1 already there, 2 failed (http-4xx 2)"
    assert set(world.fetcher.asked.values()) == {1}


def test_a_file_that_restarts_half_way_is_saved_as_it_was_the_second_time(
    make_world: Make, tmp_path: Path
) -> None:
    world = make_world(LARGE)
    world.consumer("a", tmp_path)
    world.fetcher.hiccups = set(LARGE)
    assert world.fetch(*LARGE).saved == len(LARGE)
    assert contents(tmp_path) == set(LARGE.values())


def test_a_courier_with_little_room_delays_but_loses_nothing(make_world: Make, tmp_path: Path) -> None:
    world = make_world(SMALL | LARGE, room=1)
    world.consumer("a", tmp_path)
    assert world.fetch(*SMALL, *LARGE).saved == len(SMALL) + len(LARGE)


@pytest.mark.parametrize("at", range(2, 40, 4))
def test_a_consumer_killed_at_any_step_costs_no_file(make_world: Make, tmp_path: Path, at: int) -> None:
    """Two consumers on one directory; one dies at step `at`, with large files in the middle."""
    world = make_world(SMALL | LARGE)
    world.consumer("a", tmp_path)
    world.consumer("b", tmp_path)
    steps = iter(range(1000))

    def die() -> bool:
        if next(steps) == at:
            world.kill("a")
            return True
        return False

    world.events.append(die)
    summary = world.fetch(*LARGE, *SMALL)
    assert "a" not in world.consumers, "else the test shows nothing"
    assert (summary.urls, summary.saved, summary.left) == (203, 203, 0)
    assert contents(tmp_path) == set(SMALL.values()) | set(LARGE.values())


def test_a_large_file_that_kills_every_consumer_fails_in_the_end(make_world: Make, tmp_path: Path) -> None:
    world = make_world(LARGE)
    names = iter(f"consumer {number}" for number in range(100))
    world.consumer(next(names), tmp_path)

    def die() -> bool:
        """The consumer that has a chunk of the file dies; another takes its place."""
        (name,) = world.consumers
        if isinstance(decode(world.post.sent[-1]), StreamChunk):
            world.kill(name)
            world.consumer(next(names), tmp_path)
        return False

    world.events.append(die)
    summary = world.fetch("http://h/large1")
    assert summary.failed == {Reason.DISK: 1}
    assert world.fetcher.asked["http://h/large1"] == TRIES


def test_a_redelivered_file_is_answered_and_not_saved_twice(make_world: Make, tmp_path: Path) -> None:
    """Given a consumer that dies between its commit and its answer, another answers from the manifest."""
    world = make_world(SMALL)
    world.consumer("a", tmp_path)
    world.consumer("b", tmp_path)
    commit = world.stores["a"].commit
    written: list[str] = []
    for store in world.stores.values():
        put = store.put

        def noted(job: Job, *rest: Any, put: Callable[..., Draft] = put) -> Draft:
            written.append(job.url)
            return put(job, *rest)

        store.put = noted  # type: ignore[method-assign, assignment]

    def commit_and_die(drafts: object) -> object:
        commit(drafts)  # type: ignore[arg-type]
        world.post.kill("a")
        world.consumers.pop("a")
        raise SystemExit

    def step() -> None:
        with suppress(SystemExit):
            World.step(world)

    world.stores["a"].commit = commit_and_die  # type: ignore[method-assign, assignment]
    world.fetcher.meanwhile = step
    summary = world.fetch(*SMALL)
    assert "a" not in world.consumers, "else the test shows nothing"
    assert summary.saved == len(SMALL)
    assert len(contents(tmp_path)) == len(SMALL)
    assert sorted(written) == sorted(SMALL)


def test_a_stop_finishes_what_is_in_hand_and_counts_what_is_left(make_world: Make, tmp_path: Path) -> None:
    world = make_world(SMALL)
    world.consumer("a", tmp_path)

    def stop() -> bool:
        if world.fetcher.asked.total() < 40:
            return False
        assert world.producer is not None
        world.producer.stop()
        return True

    world.events.append(stop)
    summary = world.fetch(*SMALL)
    assert 40 <= summary.saved < len(SMALL)
    assert summary.saved + summary.left == len(SMALL)
    assert world.fetcher.asked.total() == summary.saved
    assert world.fetch(*SMALL).saved == len(SMALL) - summary.saved
    assert set(world.fetcher.asked.values()) == {1}


def test_a_stop_waits_for_no_host_that_asks_for_patience(make_world: Make, tmp_path: Path) -> None:
    """Given a host that holds two files up for minutes, one of them half-way, I expect them to be left."""
    world = make_world({f"http://h/{n}": bytes([n]) * 100 for n in range(4)})
    world.consumer("a", tmp_path)
    world.fetcher.held = {"http://h/0", "http://h/1"}

    def stop() -> bool:
        if world.fetcher.in_flight > 2 or not world.fetcher.asked:
            return False
        assert world.producer is not None
        world.producer.stop()
        return True

    world.events.append(stop)
    summary = world.fetch(*(f"http://h/{n}" for n in range(4)))
    assert str(summary) == "4 urls: 2 saved, 0 already there, 0 failed, 2 left"
    assert world.fetcher.in_flight == 0 and contents(tmp_path) == {bytes([n]) * 100 for n in (2, 3)}


def test_a_host_that_asks_for_patience_holds_up_no_other(make_world: Make, tmp_path: Path) -> None:
    """Given four places, and ten files of a host that waits, first in the list, I expect the rest first."""
    slow = [f"http://slow/{n}" for n in range(10)]
    quick = [f"http://quick/{n}" for n in range(10)]
    world = make_world({url: url.encode() for url in (*slow, *quick)})
    world.fetcher.places = 4
    world.fetcher.held = set(slow)
    world.consumer("a", tmp_path)

    def go_on() -> bool:
        if all(world.fetcher.asked[url] for url in quick) and world.fetcher.in_flight == len(slow):
            world.fetcher.held.clear()
            return True
        return False

    world.events.append(go_on)
    summary = world.fetch(*slow, *quick, at_once=4)
    assert summary.saved == 20 and summary.complete


def test_a_stopped_consumer_finishes_its_stream_and_leaves_the_rest_to_others(
    make_world: Make, tmp_path: Path
) -> None:
    world = make_world(LARGE)
    world.consumer("a", tmp_path / "a")

    def stop() -> bool:
        if not any(isinstance(decode(message), StreamChunk) for message in world.post.sent):
            return False
        leaving = world.consumers.pop("a")
        leaving.stop()
        world.consumer("b", tmp_path / "b")
        world.events.append(lambda: leave(leaving))
        return True

    def leave(consumer: Consumer) -> bool:
        if consumer.in_hand:
            consumer.turn()
            return False
        consumer.run()
        world.post.kill("a")
        return True

    world.events.append(stop)
    assert world.fetch(*LARGE, at_once=1).saved == len(LARGE)
    assert len(contents(tmp_path / "a")) == 1
    assert len(contents(tmp_path / "b")) == len(LARGE) - 1
    assert set(world.fetcher.asked.values()) == {1}


def test_a_checksum_that_was_asked_for_makes_another_version_not_there(
    make_world: Make, tmp_path: Path
) -> None:
    world = make_world(SMALL)
    world.consumer("a", tmp_path)
    world.fetch("http://h/1")
    summary = world.fetch(Job("http://h/1", checksum=Checksum("sha256", "0" * 64)))
    assert summary.already == 0
