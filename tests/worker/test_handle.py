"""The order of a worker's answers at its parent: those sent come before those in the result buffer."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator

import pytest

from nearfar.worker.channel import ChannelEnd, ResultBuffer, TaskRow, join
from nearfar.worker.handle import Answers, WorkerHandle
from nearfar.worker.main import WorkerConfig


class Worker:
    """The worker's side of a handle without a process."""

    def __init__(self, member: WorkerHandle) -> None:
        self._end = ChannelEnd(member.theirs.dup())
        hello = self._end.receive()
        assert hello is not None
        lifeline, memory = hello[2]
        os.close(lifeline)
        self._outbox = ResultBuffer(memory)
        self._sent = 0

    def keep(self, blob: bytes) -> None:
        assert self._outbox.add(self._end.pack((0, blob, ())))

    def send(self) -> None:
        count = len(self._outbox)
        head = self._end.pack((None, self._sent, 0))
        self._end.send_packed(join(head, count, self._outbox.content()))
        self._sent += count
        self._outbox.empty(self._sent)

    def close(self) -> None:
        self._outbox.close()
        self._end.close()


@pytest.fixture
def both() -> Iterator[tuple[WorkerHandle, Worker]]:
    """A handle with five tasks, and the worker's side."""
    worker_config = WorkerConfig(0, "0.0", "here", None, True)
    member = WorkerHandle("0.0", multiprocessing.get_context("fork"), worker_config, daemon=True)
    worker = Worker(member)
    member.give("client", b"module:function", 0, [TaskRow(b"module:function", 0, b"")] * 5)
    yield member, worker
    worker.close()
    member.let_go()


def blobs(found: Answers | None) -> list[bytes]:
    return [] if found is None else [blob for _, blob, _ in found.answers]


def test_the_second_reading_returns_what_the_first_counted(both: tuple[WorkerHandle, Worker]) -> None:
    member, worker = both
    worker.keep(b"one")
    assert blobs(member.look()) == []
    worker.keep(b"two")
    assert blobs(member.look()) == [b"one"]
    assert blobs(member.look()) == [b"two"]
    worker.send()
    assert blobs(member.receive()) == []


def test_no_reading_overtakes_an_answer_in_the_socket(both: tuple[WorkerHandle, Worker]) -> None:
    member, worker = both
    worker.keep(b"one")
    worker.send()
    worker.keep(b"two")
    assert blobs(member.look()) == []
    assert blobs(member.look()) == []
    assert blobs(member.receive()) == [b"one"]
    assert blobs(member.look()) == [b"two"]


def test_a_reading_may_come_long_after_the_previous_one(both: tuple[WorkerHandle, Worker]) -> None:
    member, worker = both
    worker.keep(b"one")
    assert blobs(member.look()) == []
    for blob in (b"two", b"three"):
        worker.send()
        worker.keep(blob)
    assert blobs(member.look()) == []
    assert blobs(member.receive()) == [b"one"]
    assert blobs(member.receive()) == [b"two"]
    assert blobs(member.look()) == [b"three"]
