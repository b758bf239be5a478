"""Which messages a put to a near queue writes itself, and which the feeder thread writes."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.queues import framing
from nearfar.queues import pipe as outbox
from nearfar.queues.framing import PAGE
from nearfar.queues.pipe import FEW, MUCH, QUIET, Bell, Outbox
from tests.queues.contract import LIMIT, MOMENT
from tests.support.waiting import eventually


class Pipe:
    """A pipe, and an outbox to it whose feeder thread does nothing but what a test has it do."""

    def __init__(self) -> None:
        self.reader, self.writer = multiprocessing.Pipe(duplex=False)
        self.wlock: Any = multiprocessing.get_context("fork").Lock()
        self.tokens: deque[None] = deque()
        self.bell = Bell()
        self.outbox = Outbox(self.tokens, self.bell, self.writer.fileno, self.wlock)

    def arrived(self) -> list[framing.Message]:
        found = []
        while self.reader.poll(0):
            found.append(framing.read(self.reader.fileno()))
        return found

    def feed(self) -> None:
        """Do what the feeder thread does for each token."""
        self.tokens.popleft()
        with self.wlock:
            self.outbox.feed()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    with pipe.reader, pipe.writer:
        yield pipe


def messages(count: int, size: int = 20) -> list[bytes]:
    return [str(number).encode().rjust(size, b".") for number in range(count)]


def test_a_put_after_a_pause_is_written_by_the_putting_thread(pipe: Pipe) -> None:
    pipe.outbox.add([b"alone"])
    assert pipe.arrived() == [b"alone"]
    assert not pipe.tokens


def test_only_a_few_of_many_puts_wait_for_the_feeder(pipe: Pipe, monkeypatch: Any) -> None:
    """Given puts at any speed, I expect all but a few in the pipe at any time."""
    monkeypatch.setattr(outbox, "QUIET", 1e9)
    sent = messages(10 * FEW + 5)
    for number, message in enumerate(sent, 1):
        pipe.outbox.add([message])
        assert number - pipe.outbox._sent < FEW
    assert pipe.arrived() == sent[:-5]
    assert len(pipe.tokens) == 1
    pipe.feed()
    assert pipe.arrived() == sent[-5:]


def test_the_putting_thread_never_waits_for_a_full_pipe(pipe: Pipe) -> None:
    sent = messages(200, size=1000)
    for message in sent:
        pipe.outbox.add([message])
    assert 0 < pipe.outbox._sent < len(sent)
    assert 1 <= len(pipe.tokens) <= 2
    received = pipe.arrived()
    while pipe.tokens:
        pipe.feed()
        received += pipe.arrived()
    assert received == sent


def test_only_some_bytes_of_many_puts_wait_for_the_feeder(pipe: Pipe, monkeypatch: Any) -> None:
    monkeypatch.setattr(outbox, "QUIET", 1e9)
    sent = messages(20, size=10_000)
    for number, message in enumerate(sent, 1):
        pipe.outbox.add([message])
        assert (number - pipe.outbox._sent) * len(message) < MUCH
    while pipe.tokens:
        pipe.feed()
    assert pipe.arrived() == sent


def test_messages_without_sure_room_in_the_pipe_and_all_later_ones_are_left_to_the_feeder(
    pipe: Pipe, monkeypatch: Any
) -> None:
    monkeypatch.setattr(framing, "WIDE", 0)
    sent = [b"small", b"x" * (60 * 1024), b"after"]
    for message in sent:
        pipe.outbox.add([message])
    assert pipe.arrived() == [b"small"]
    while pipe.tokens:  # one or two: a put that comes fast calls the feeder, too
        pipe.feed()
    assert pipe.arrived() == [b"x" * (60 * 1024), b"after"]
    assert eventually(lambda: time.monotonic() - pipe.bell.wrote > QUIET)
    pipe.outbox.add([b"again by itself"])
    assert not pipe.tokens


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.booleans(), st.integers(1, 3 * PAGE) | st.integers(1, 300) | st.sampled_from([PAGE, 8192])
        ),
        max_size=40,
    ),
    capacity=st.sampled_from([1, 2, 4, 16, 64]),
)
def test_the_computed_room_of_a_pipe_is_correct(steps: list[tuple[bool, int]], capacity: int) -> None:
    """Given writes and reads of any sizes, I expect a nonblocking pipe to accept as much at once."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    with reader, writer:
        outbox = Outbox(deque(), Bell(), writer.fileno, multiprocessing.get_context("fork").Lock())
        os.set_blocking(writer.fileno(), False)
        outbox._capacity = fcntl.fcntl(writer.fileno(), fcntl.F_SETPIPE_SZ, capacity * PAGE)
        outbox._messages.append(b"x" * PAGE)
        for is_write, size in steps:
            if is_write:
                with suppress(BlockingIOError):
                    os.write(writer.fileno(), b"x" * size)
            elif framing.unread(reader.fileno()):
                os.read(reader.fileno(), size)
        if room := outbox._room():
            assert os.write(writer.fileno(), b"x" * room) == room


def test_the_putting_thread_does_not_wait_for_other_writers(pipe: Pipe) -> None:
    with pipe.wlock:
        pipe.outbox.add([b"later"])
    assert pipe.arrived() == []
    pipe.feed()
    assert pipe.arrived() == [b"later"]


def test_a_put_in_the_middle_of_a_put_keeps_its_place(pipe: Pipe, monkeypatch: Any) -> None:
    """Given a put by a signal handler during another put's write, I expect both items, in their order."""
    write = outbox.write

    def interrupted(descriptor: int, parts: Any) -> None:
        monkeypatch.setattr(outbox, "write", write)
        pipe.outbox.add([b"handler"])
        write(descriptor, parts)

    monkeypatch.setattr(outbox, "write", interrupted)
    pipe.outbox.add([b"interrupted"])
    while pipe.tokens:
        pipe.feed()
    assert pipe.arrived() == [b"interrupted", b"handler"]


def test_flush_returns_how_many_messages_are_not_in_the_pipe(pipe: Pipe, monkeypatch: Any) -> None:
    monkeypatch.setattr(framing, "WIDE", 0)
    sent = messages(100, size=PAGE)
    pipe.outbox.add(sent)
    assert 0 < (missing := pipe.outbox.flush(0.0)) < 100
    assert missing == 100 - pipe.outbox._sent
    fed = threading.Thread(target=lambda: [pipe.feed() for _ in iter(lambda: len(pipe.tokens), 0)])
    fed.start()
    flushed: list[int] = []
    flushing = threading.Thread(target=lambda: flushed.append(pipe.outbox.flush(None)))
    flushing.start()
    received: list[framing.Message] = []
    while len(received) < len(sent):
        received.append(framing.read(pipe.reader.fileno()))
    for thread in (fed, flushing):
        thread.join(LIMIT)
        assert not thread.is_alive()
    assert (flushed, received) == ([0], sent)


def test_a_patient_bell_waits_for_more_and_an_urgent_one_does_not(monkeypatch: Any) -> None:
    monkeypatch.setattr(outbox, "GATHER", 1000.0)
    bell = Bell()
    bell.writing = True
    woken = threading.Thread(target=bell.wait)
    woken.start()
    bell.notify(patiently=True)
    woken.join(MOMENT)
    assert woken.is_alive()
    bell.notify()
    woken.join(LIMIT)
    assert not woken.is_alive()
