"""Workers that send unreadable messages, messages that are lost, deaths that multiprocessing cannot see."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nearfar import InitializerFailed, Pool, WorkerLost
from nearfar.serialization.shared_memory import create
from nearfar.worker import channel
from nearfar.worker.channel import LARGEST, ChannelEnd, make_pair, unread
from nearfar.worker.supervisor import PollSet
from tests.pool.state import here

resource = pytest.importorskip("resource")


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool(2, context=multiprocessing.get_context("fork")) as pool:
        yield pool
        assert pool.map_async(abs, range(-9, 0), 1).get(20) == list(range(9, 0, -1))
    pool.join()


@pytest.fixture
def no_descriptors() -> Iterator[Any]:
    """A function after whose call this process cannot open any file."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def babble(said: bytes) -> None:
    """Write into this worker's own channel to its parent."""
    for entry in Path("/proc/self/fd").iterdir():
        try:
            with socket.socket(fileno=os.dup(int(entry.name))) as line:
                if line.family == socket.AF_UNIX and line.type == socket.SOCK_SEQPACKET:
                    line.send(said)
        except OSError:
            pass
    signal.pause()


@pytest.mark.parametrize(
    "said",
    [
        b"\xc1",
        b"\x93\xc0\x00",
        b"\x90",
        b"\x95\xc0\x00\x00\x93\x00\x02\x90\xc0",
        b"x",
        b"\x92\xc0\xff",  # ready, once more
        b"\x94\xc0\x05\x00\x93\x00\xc4\x02\x80N\x90",  # an answer of later
        b"\x94\xc0\x00\x00\x07",  # an answer that is a number
        b"\x95\xc0\x00\x00\x93\x00\xc4\x02\x80N\x90\x07",  # the second one is
        b"\x94\xc0\x00\x00\x93\x09\xc4\x02\x80N\x90",  # an answer that is neither value nor error
        b"\x94\xc0\x00\x00\x93\x00\xa1x\x90",  # text for a blob
        b"\x91" * 2000,
        b"\xdd\x00\x0f\x00\x00" * 1000,
        b"\xc0" + b"\x1b[2J" * 20_000,
    ],
)
def test_a_worker_that_sends_an_unreadable_message_is_killed(pool: Pool, said: bytes) -> None:
    with pytest.raises(WorkerLost, match="sent an unreadable message"):
        pool.apply_async(babble, (said,)).get(20)


def test_a_worker_that_sends_surplus_answers_is_killed(pool: Pool) -> None:
    answers = b"\x96\xc0\x00\x00" + 3 * b"\x93\x00\xc4\x02\x80N\x90"
    result = pool.apply_async(babble, (answers,))
    with pytest.raises(WorkerLost):
        result.get(20)


def test_no_descriptor_for_a_large_result(no_descriptors: Any) -> None:
    with Pool(1, context=multiprocessing.get_context("fork")) as pool:
        assert pool.apply(abs, (-1,)) == 1
        no_descriptors()
        with pytest.raises(WorkerLost, match="sent an unreadable message"):
            pool.apply_async(bytearray, (1 << 20,)).get(20)


def test_no_descriptor_for_a_large_argument(no_descriptors: Any) -> None:
    with Pool(1, context=multiprocessing.get_context("fork")) as pool:
        assert pool.apply(abs, (-1,)) == 1
        no_descriptors()
        with pytest.raises(OSError, match="Too many open files"):
            pool.apply_async(len, (bytes(1 << 20),)).get(20)
        assert pool.apply_async(abs, (-2,)).get(20) == 2


def limited(size: int) -> bytearray:
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return bytearray(size)


def test_a_lack_of_descriptors_in_the_worker_is_the_tasks_error() -> None:
    with Pool(1, context=multiprocessing.get_context("fork")) as pool:
        before = pool.apply(os.getpid)
        with pytest.raises(OSError, match="Too many open files"):
            pool.apply_async(limited, (1 << 20,)).get(20)
        assert pool.apply(os.getpid) == before


def test_an_initializer_that_cannot_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(size: int) -> int:
        """Make room for the answers of a worker, and for no payload."""
        if size == channel.SIZE:
            return create(size)
        raise OSError("no room")

    monkeypatch.setattr("nearfar.serialization.shared_memory.create", refuse)
    with Pool(1, len, (bytes(1 << 20),), context=multiprocessing.get_context("fork")) as pool:
        for _ in range(2):
            with pytest.raises(InitializerFailed, match="cannot be sent: no room"):
                pool.apply_async(abs, (1,)).get(20)


def test_a_death_is_detected_even_if_another_process_has_the_sentinel(pool: Pool) -> None:
    """As if two threads fork at the same time."""
    worker = pool.apply(here)
    process = next(each for each in multiprocessing.active_children() if each.pid == worker.pid)
    reading, writing = os.pipe()
    process._popen.sentinel = reading  # type: ignore[attr-defined]
    began = time.monotonic()
    os.kill(worker.pid, signal.SIGKILL)
    assert pool.map_async(abs, range(-9, 0), 1).get(20) == list(range(9, 0, -1))
    while worker.pid in {each.pid for each in multiprocessing.active_children()}:
        assert time.monotonic() - began < 20
        pool.apply(abs, (1,))
    os.close(reading)
    os.close(writing)


def test_the_extra_of_a_recalled_message_is_sent_again() -> None:
    ours, theirs = make_pair()
    parent, worker = ChannelEnd(ours), ChannelEnd(theirs)
    worker.send([], [bytes(1 << 20)])
    received = parent.receive()
    assert received is not None
    del received
    extra = parent.send([1])
    assert extra == (None, [0])
    assert unread(theirs) == 1
    parent.take_back(extra)
    assert parent.send([2]) == (None, [0])
    assert parent.send([3]) is None
    parent.close()
    worker.close()


def test_a_message_that_is_too_long_is_not_sent() -> None:
    ours, theirs = make_pair()
    with pytest.raises(OSError, match="Message too long"):
        ChannelEnd(ours).send([bytes(LARGEST)])
    ours.close()
    theirs.close()


def test_an_event_of_a_number_that_is_in_use_again() -> None:
    watchers, called = PollSet(), []
    first, second = os.pipe(), os.pipe()
    os.write(first[1], b"x")
    os.write(second[1], b"x")

    def replace() -> None:
        watchers.unwatch(second[0])
        watchers.watch(second[0], lambda: called.append("another"))

    watchers.watch(first[0], replace)
    watchers.watch(second[0], lambda: called.append("the second"))
    events = watchers.poll(0)
    watchers.dispatch(sorted(events, key=lambda event: event[0] != first[0]))
    assert not called
    watchers.dispatch([event for event in watchers.poll(0) if event[0] != first[0]])
    assert called == ["another"]
    watchers.epoll.close()
    for descriptor in (*first, *second):
        os.close(descriptor)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Pool(1, len, (threading.Lock(),), address="tcp://127.0.0.1:*"),
        lambda: Pool(1, address="tcp://0.0.0.0:*"),
        lambda: Pool(1, address="nonsense"),
        lambda: Pool.connect("tcp://127.0.0.1:1", initializer=len, initargs=(threading.Lock(),)),
        lambda: Pool.connect("nonsense"),
    ],
)
def test_a_start_that_fails_leaves_nothing_open(make: Any) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises((TypeError, ValueError)):
            make()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("said", [b"\xc1", b"\x92\xc0\x05", b"\x92\x92\xc4\x03abc\x90\x00", b"\x91\x07"])
def test_unexpected_descriptors_are_closed(said: bytes) -> None:
    """Given messages with as many descriptors as possible, I expect none to stay open here."""
    ours, theirs = make_pair()
    end = ChannelEnd(ours)
    try:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(3):
            socket.send_fds(theirs, [said], [0] * 8)
            try:
                words = end.receive()
            except Exception:
                continue
            assert words is not None
            for descriptor in words[2]:
                os.close(descriptor)
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    finally:
        end.close()
        theirs.close()
