"""Result buffers: the parent can read the answers that a killed worker left in shared memory."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from nearfar.worker import channel
from nearfar.worker.channel import ResultBuffer


@pytest.fixture
def both() -> Iterator[tuple[ResultBuffer, ResultBuffer]]:
    """The worker's view, and the parent's."""
    descriptor = channel.create()
    theirs, ours = ResultBuffer(os.dup(descriptor)), ResultBuffer(descriptor)
    yield theirs, ours
    theirs.close()
    ours.close()


def test_the_parent_sees_what_was_added(both: tuple[ResultBuffer, ResultBuffer]) -> None:
    worker, parent = both
    assert parent.look() == (0, 0, b"")
    assert worker.add(b"one")
    assert worker.add(b"second")
    assert len(worker) == 2
    assert parent.look() == (0, 2, b"onesecond")
    assert worker.content() == b"onesecond"


def test_sent_answers_are_not_read_again(both: tuple[ResultBuffer, ResultBuffer]) -> None:
    worker, parent = both
    worker.add(b"one")
    worker.empty(1)
    assert parent.look() == (1, 0, b"")
    worker.add(b"two")
    assert parent.look() == (1, 1, b"two")


def test_it_is_bounded(both: tuple[ResultBuffer, ResultBuffer]) -> None:
    worker, parent = both
    answer = b"x" * 1000
    added = 0
    while worker.add(answer):
        added += 1
    assert added == (channel.SIZE - 24) // 1000
    assert parent.look() == (0, added, answer * added)
    assert not worker.add(answer)
    worker.empty(added)
    assert worker.add(answer)


def test_it_survives_its_worker(both: tuple[ResultBuffer, ResultBuffer]) -> None:
    worker, parent = both
    pid = os.fork()
    if pid == 0:
        worker.add(b"last words")
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    assert parent.look() == (0, 1, b"last words")
