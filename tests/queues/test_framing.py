"""Frames in a pipe: compatible with `multiprocessing.connection`, and complete wherever a chunk ends."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import signal
import threading
from collections.abc import Iterator
from multiprocessing import Pipe
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.queues import framing
from nearfar.queues.framing import Message, Raw

Ends = tuple[Any, Any]
"""Connections: where to read, and where to write."""
SIZES = st.lists(
    st.tuples(st.booleans(), st.integers(4, 40) | st.integers(4, 9000) | st.integers(30_000, 140_000)),
    min_size=1,
    max_size=30,
)
"""Of each message, whether it is raw, and its bytes."""


@pytest.fixture
def ends() -> Iterator[Ends]:
    reader, writer = Pipe(duplex=False)
    with reader, writer:
        yield reader, writer


def messages_of(sizes: list[tuple[bool, int]]) -> list[Message]:
    bodies = [random.Random(number).randbytes(size) for number, (_, size) in enumerate(sizes)]
    return [Raw(body) if raw else body for body, (raw, _) in zip(bodies, sizes, strict=True)]


def test_a_connection_reads_what_was_written(ends: Ends) -> None:
    reader, writer = ends
    framing.write(writer.fileno(), [b"one", b"two", b"t" * 20_000])
    assert [reader.recv_bytes() for _ in range(3)] == [b"one", b"two", b"t" * 20_000]


def test_what_a_connection_wrote_is_read(ends: Ends) -> None:
    reader, writer = ends
    for message in (b"one", b"", b"t" * 20_000):
        writer.send_bytes(message)
    assert [framing.read(reader.fileno()) for _ in range(3)] == [b"one", b"", b"t" * 20_000]


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, asked=st.lists(st.integers(1, 12), min_size=1, max_size=40))
def test_every_message_arrives_once_in_order_and_never_more_than_requested(
    sizes: list[tuple[bool, int]], asked: list[int]
) -> None:
    """Given messages of any sizes, read up to so many at a time, I expect each complete, and no more at a
    time."""
    sent = messages_of(sizes)
    reader, writer = Pipe(duplex=False)
    with reader, writer:
        feeder = threading.Thread(target=framing.write, args=(writer.fileno(), sent))
        feeder.start()
        found: list[Message] = []
        turn = 0
        while len(found) < len(sent):
            most = min(asked[turn % len(asked)], len(sent) - len(found))
            turn += 1
            found.append(framing.read(reader.fileno()))
            others = framing.read_waiting(reader.fileno(), most - 1)
            assert len(others) <= most - 1
            found += others
        feeder.join()
        assert found == sent


def test_empty_messages_wake_readers_but_are_not_items(ends: Ends) -> None:
    reader, writer = ends
    framing.write(writer.fileno(), [b"", b"item", b"", b"last"])
    assert framing.read_waiting(reader.fileno(), 9) == [b"item", b"last"]
    assert not reader.poll(0)


def test_messages_that_need_several_writes_arrive(ends: Ends) -> None:
    reader, writer = ends
    sent = messages_of([(False, 5)] * 1200 + [(False, 300_000), (True, 300_000)])
    feeder = threading.Thread(target=framing.write, args=(writer.fileno(), sent))
    feeder.start()
    assert [framing.read(reader.fileno()) for _ in sent] == sent
    feeder.join()


def test_the_length_of_a_message_beyond_two_gib_is_in_eight_bytes() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return 1 << 31

    assert framing.frame(Huge()) == b"\x7f\xff\xff\xff" + (1 << 31).to_bytes(8, "big")
    assert framing.frame(Raw(Huge())) == b"\xff\xff\xff\xff" + (1 << 31).to_bytes(8, "big")


@pytest.mark.parametrize("one_by_one", [True, False])
def test_a_length_in_eight_bytes_is_read(ends: Ends, one_by_one: bool) -> None:
    reader, writer = ends
    for word in (b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff"):
        os.write(writer.fileno(), word + (5).to_bytes(8, "big") + b"large")
    os.write(writer.fileno(), framing.frame(b"last") + b"last")
    if one_by_one:
        found = [framing.read(reader.fileno()) for _ in range(3)]
    else:
        found = framing.read_waiting(reader.fileno(), 9)
    assert found == [b"large", Raw(b"large"), b"last"]


def test_a_pipe_that_cannot_grow_stays_unchanged(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    _, writer = ends
    before = fcntl.fcntl(writer.fileno(), fcntl.F_GETPIPE_SZ)
    ask = fcntl.fcntl

    def refuse(descriptor: int, what: int, argument: int = 0) -> int:
        if what == fcntl.F_SETPIPE_SZ:
            raise PermissionError(errno.EPERM, "too many pages")
        return ask(descriptor, what, argument)

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    assert framing.capacity(writer.fileno()) == before


def test_a_pipe_without_writers_is_at_its_end() -> None:
    reader, writer = Pipe(duplex=False)
    with reader:
        os.write(writer.fileno(), framing.frame(b"whole")[:2])
        writer.close()
        with pytest.raises(EOFError):
            framing.read(reader.fileno())


def test_ctrl_c_waits_for_the_rest_of_a_message(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given Ctrl-C in the middle of a message whose writer continues, I expect it after that message."""
    reader, writer = ends
    whole = framing.frame(b"message") + b"message"
    os.write(writer.fileno(), whole[:6])

    def it_goes_on(_: int) -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        os.write(writer.fileno(), whole[6:])
        return True

    monkeypatch.setattr(framing, "_come_soon", it_goes_on)
    with pytest.raises(KeyboardInterrupt):
        framing.read_waiting(reader.fileno(), 1)
    framing.write(writer.fileno(), [b"next"])
    assert framing.read(reader.fileno()) == b"next"


def test_ctrl_c_ends_the_wait_for_a_writer_that_is_stuck(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = ends
    os.write(writer.fileno(), framing.frame(b"message")[:3])

    def nothing_comes(_: int) -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        return False

    monkeypatch.setattr(framing, "_come_soon", nothing_comes)
    with pytest.raises(KeyboardInterrupt):
        framing.read_waiting(reader.fileno(), 1)


def test_a_writer_counts_as_stuck_after_a_pause(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = ends
    monkeypatch.setattr(framing, "STUCK", 0.01)
    assert not framing._come_soon(reader.fileno())
    os.write(writer.fileno(), b"x")
    assert framing._come_soon(reader.fileno())
