"""Frames in a pipe: as the standard's connections have them, and whole whatever a chunk cuts off."""

from __future__ import annotations

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

from nearfar.queues import frames

Ends = tuple[Any, Any]
"""Connections: where to read, and where to write."""
SIZES = st.lists(st.integers(4, 40) | st.integers(4, 9000), min_size=1, max_size=30)


@pytest.fixture
def ends() -> Iterator[Ends]:
    reader, writer = Pipe(duplex=False)
    with reader, writer:
        yield reader, writer


def messages_of(sizes: list[int]) -> list[bytes]:
    return [random.Random(number).randbytes(size) for number, size in enumerate(sizes)]


def test_a_connection_reads_what_was_written(ends: Ends) -> None:
    reader, writer = ends
    frames.write(writer.fileno(), [b"one", bytearray(b"two"), b"t" * 20_000])
    assert [reader.recv_bytes() for _ in range(3)] == [b"one", b"two", b"t" * 20_000]


def test_what_a_connection_wrote_is_read(ends: Ends) -> None:
    reader, writer = ends
    for message in (b"one", b"", b"t" * 20_000):
        writer.send_bytes(message)
    assert [frames.read(reader.fileno()) for _ in range(3)] == [b"one", b"", b"t" * 20_000]


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, asked=st.lists(st.integers(1, 12), min_size=1, max_size=40))
def test_every_message_comes_once_in_order_and_never_more_than_asked_for(
    sizes: list[int], asked: list[int]
) -> None:
    """Given messages of any sizes, read by so many at a time, I expect each whole, and no more at a time."""
    sent = messages_of(sizes)
    reader, writer = Pipe(duplex=False)
    with reader, writer:
        feeder = threading.Thread(target=frames.write, args=(writer.fileno(), sent))
        feeder.start()
        found: list[bytes | bytearray] = []
        turn = 0
        while len(found) < len(sent):
            most = min(asked[turn % len(asked)], len(sent) - len(found))
            turn += 1
            found.append(frames.read(reader.fileno()))
            others = frames.read_waiting(reader.fileno(), most - 1)
            assert len(others) <= most - 1
            found += others
        feeder.join()
        assert found == sent


def test_empty_messages_wake_but_are_no_items(ends: Ends) -> None:
    reader, writer = ends
    frames.write(writer.fileno(), [b"", b"item", b"", b"last"])
    assert frames.read_waiting(reader.fileno(), 9) == [b"item", b"last"]
    assert not reader.poll(0)


def test_what_does_not_fit_into_one_write_arrives(ends: Ends) -> None:
    reader, writer = ends
    sent = messages_of([5] * 1200 + [300_000])
    feeder = threading.Thread(target=frames.write, args=(writer.fileno(), sent))
    feeder.start()
    assert [frames.read(reader.fileno()) for _ in sent] == sent
    feeder.join()


def test_a_message_beyond_two_gib_says_so_as_the_standards_do() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return 1 << 31

    assert frames.frame(Huge()) == b"\xff\xff\xff\xff" + (1 << 31).to_bytes(8, "big")


def test_a_length_in_eight_bytes_is_read(ends: Ends) -> None:
    reader, writer = ends
    os.write(
        writer.fileno(), b"\xff\xff\xff\xff" + (5).to_bytes(8, "big") + b"large" + frames.frame(b"x") + b"x"
    )
    assert frames.read(reader.fileno()) == b"large"
    assert frames.read(reader.fileno()) == b"x"


def test_a_pipe_nobody_can_write_to_any_more_is_at_its_end() -> None:
    reader, writer = Pipe(duplex=False)
    with reader:
        os.write(writer.fileno(), frames.frame(b"whole")[:2])
        writer.close()
        with pytest.raises(EOFError):
            frames.read(reader.fileno())


def test_ctrl_c_waits_for_the_rest_of_a_message(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given Ctrl-C in the middle of a message whose writer goes on, I expect it behind that message."""
    reader, writer = ends
    whole = frames.frame(b"message") + b"message"
    os.write(writer.fileno(), whole[:6])

    def it_goes_on(_: int) -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        os.write(writer.fileno(), whole[6:])
        return True

    monkeypatch.setattr(frames, "_come_soon", it_goes_on)
    with pytest.raises(KeyboardInterrupt):
        frames.read_waiting(reader.fileno(), 1)
    frames.write(writer.fileno(), [b"next"])
    assert frames.read(reader.fileno()) == b"next"


def test_ctrl_c_ends_the_wait_for_a_writer_that_is_stuck(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = ends
    os.write(writer.fileno(), frames.frame(b"message")[:3])

    def nothing_comes(_: int) -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        return False

    monkeypatch.setattr(frames, "_come_soon", nothing_comes)
    with pytest.raises(KeyboardInterrupt):
        frames.read_waiting(reader.fileno(), 1)


def test_a_writer_counts_as_stuck_once_nothing_came_for_a_while(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = ends
    monkeypatch.setattr(frames, "STUCK", 0.01)
    assert not frames._come_soon(reader.fileno())
    os.write(writer.fileno(), b"x")
    assert frames._come_soon(reader.fileno())
