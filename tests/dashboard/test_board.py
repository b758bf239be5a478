"""The board: what a loop publishes, and what is derived from it."""

from __future__ import annotations

import json
import logging
import threading
from typing import Any

import pytest

from nearfar.dashboard import board as boards
from nearfar.dashboard.board import EVERY, HISTORY, Board
from nearfar.dashboard.figures import Histogram
from nearfar.dashboard.model import Status


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of snapshots, which a test sets."""
    now = [1000.0]
    monkeypatch.setattr(boards.time, "time", lambda: now[0])
    return now


def publish(board: Board, clock: list[float], **found: Any) -> None:
    board.publish(found, clock[0])  # type: ignore[arg-type]
    clock[0] += 1.0


def test_nothing_is_published_before_it_is_due() -> None:
    board, made = Board("pool"), list[float]()

    def make() -> Status:
        made.append(now)
        return {"counts": {}}

    for now in (10.0, 10.5, 10.9, 11.0, 11.5, 14.0):
        board.look(make, now)
    assert made == [10.0, 11.0, 14.0]
    assert board.due == 14.0 + EVERY


def test_rates_are_those_of_the_last_seconds(clock: list[float]) -> None:
    board = Board("pool")
    for done in [0] * 30 + [100 * n for n in range(11)]:
        publish(board, clock, counts={"done": done, "waiting": 7}, workers=[{"name": "a", "tasks": done}])
    latest = board.latest()
    assert latest is not None
    assert latest.status["rates"] == {"done": 100.0}, "waiting is no counter"
    assert latest.status["workers"][0]["rate"] == 100.0


def test_rates_of_a_queue_and_of_new_rows(clock: list[float]) -> None:
    board = Board("queue")
    publish(board, clock, counts={}, queue={"counts": {"stored": 5}}, hosts=[])
    publish(board, clock, counts={}, queue={"counts": {"stored": 25}}, hosts=[{"host": "a", "bytes": 30}])
    latest = board.latest()
    assert latest is not None
    assert latest.status["queue"]["rates"] == {"stored": 20.0}
    assert latest.status["hosts"][0]["rate"] == 30.0


def test_percentiles_are_those_of_the_last_minute(clock: list[float]) -> None:
    board, found = Board("pool"), Histogram()
    for second in range(100):
        found.add(10.0 if second < 20 else 0.001, 10)
        publish(board, clock, counts={}, task_seconds=found.status())
    latest = board.latest()
    assert latest is not None
    took = latest.status["task_seconds"]
    assert took["p99"] < 0.0015
    assert took["window"] == 60.0
    past = json.loads(latest.history())["live"]["p50"]
    assert past[1] > 5 > past[-1]


def test_without_tasks_lately_the_percentiles_are_of_all(clock: list[float]) -> None:
    board, found = Board("pool"), Histogram()
    found.add(10.0, 5)
    for _ in range(100):
        publish(board, clock, counts={}, task_seconds=found.status())
    latest = board.latest()
    assert latest is not None and latest.status["task_seconds"]["p50"] > 5


def test_the_history_has_the_age_of_the_oldest_item(clock: list[float]) -> None:
    board = Board("queue")
    for oldest in (0.0, 1.5):
        publish(board, clock, counts={}, queue={"counts": {}, "oldest": oldest})
    latest = board.latest()
    assert latest is not None
    assert json.loads(latest.history())["live"] == {"oldest": [0.0, 1.5]}


def test_the_history_is_bounded_and_names_unknown_values(clock: list[float]) -> None:
    board = Board("producer")
    for number in range(HISTORY + 50):
        publish(board, clock, counts={"saved": number} | ({"total": 9} if number > 340 else {}))
    latest = board.latest()
    assert latest is not None
    past = json.loads(latest.history())
    assert len(past["time"]) == len(past["counts"]["saved"]) == HISTORY
    assert past["counts"]["saved"][-1] == HISTORY + 49
    assert (past["counts"]["total"][0], past["counts"]["total"][-1]) == (None, 9)


def test_a_snapshot_that_was_read_does_not_change(clock: list[float]) -> None:
    board = Board("pool")
    publish(board, clock, counts={"done": 1})
    before = board.latest()
    assert before is not None
    said = before.json
    publish(board, clock, counts={"done": 2})
    after = board.latest()
    assert after is not None
    assert (before.json, before.status["counts"]) == (said, {"done": 1})
    assert after.number == before.number + 1


def test_a_status_that_cannot_be_made_does_not_end_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    board = Board("pool")

    def fail() -> Status:
        raise KeyError("a bug")

    with caplog.at_level(logging.ERROR):
        board.look(fail, 1.0)
        board.look(fail, 3.0)
    assert board.latest() is None
    assert len(caplog.records) == 1, "it is logged once"


def test_waiting_ends_with_news_with_time_and_with_the_board(clock: list[float]) -> None:
    board = Board("pool")
    assert board.wait(0, 0.01) is None
    publish(board, clock, counts={})
    found = board.wait(0, 10.0)
    assert found is not None and found.number == 1
    seen: list[object] = []
    thread = threading.Thread(target=lambda: seen.append(board.wait(1, 30.0)))
    thread.start()
    board.close()
    thread.join(10.0)
    assert seen == [None]
