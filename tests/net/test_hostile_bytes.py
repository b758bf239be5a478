"""Hostile bytes cost their reader little: in memory, in time, and in the log."""

from __future__ import annotations

import contextlib
import logging
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.coordinator import large_parts
from nearfar.coordinator import messages as pool_wire
from nearfar.coordinator.messages import PoolMessage, PoolMessageType
from nearfar.errors import ItemError, ProtocolError, Untrusted
from nearfar.net.validation import LONGEST_SHOWN, MOST_LINES, PERIOD, ProtocolErrors, shown
from nearfar.queues import messages as queue_wire
from nearfar.serialization import item_codec

pytestmark = pytest.mark.pure

MIB = 1 << 20


def lists(levels: int, each: int, size: int) -> bytes:
    """Lists in each other that announce `each` members, and have one; with a tail, `size` bytes."""
    return (b"\xdd" + each.to_bytes(4, "big")) * levels + bytes(size - 5 * levels)


def cost(
    call: Callable[[], Any], refusal: tuple[type[Exception], ...] | type[Exception]
) -> tuple[int, float]:
    """The most bytes that a call asked for at a time, and its seconds; it must end in `refusal`."""
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(refusal):
            call()
        return tracemalloc.get_traced_memory()[1], time.process_time() - began
    finally:
        tracemalloc.stop()


ANNOUNCED = [
    pytest.param(lists(1000, 4 * MIB, 4 * MIB), id="lists in each other"),
    pytest.param(lists(1, (1 << 32) - 1, 4 * MIB), id="a list of four billions"),
    pytest.param(b"\xdf\xff\xff\xff\xff" + bytes(4 * MIB), id="a table of four billions"),
    pytest.param(b"\xc6\xff\xff\xff\xff" + bytes(4 * MIB), id="four billion bytes"),
    pytest.param(b"\xc9\xff\xff\xff\xff\x11" + bytes(4 * MIB), id="an extension of four billions"),
]


@pytest.mark.parametrize("first", [b"", b"\x92\x00"])
@pytest.mark.parametrize("body", ANNOUNCED)
def test_no_memory_is_allocated_for_what_an_item_announces(body: bytes, first: bytes) -> None:
    """Without a check in advance, the first of these would allocate 32 GB."""
    room, seconds = cost(lambda: item_codec.decode(first + body, 1, trusted=False), ProtocolError)
    assert room < 3 * len(body)
    assert seconds < 2


@pytest.mark.parametrize("body", ANNOUNCED)
def test_no_memory_is_allocated_for_what_rows_announce(body: bytes) -> None:
    start = bytes((0x96, PoolMessageType.SUBMIT, 1, 0, 0x90))  # number, ack, no large parts
    for frame in (start + body, start + body[: MIB // 2]):
        room, seconds = cost(lambda frame=frame: pool_wire.unpack([frame]), ProtocolError)
        assert room < 3 * len(body)
        assert seconds < 2


def test_a_short_message_allocates_little() -> None:
    body = lists(1000, item_codec.HARMLESS, item_codec.HARMLESS)
    room, seconds = cost(lambda: item_codec.decode(body, 1, trusted=False), (ProtocolError, ValueError))
    assert room < 200 * MIB
    assert seconds < 2


def test_a_long_message_of_empty_lists_is_refused_at_the_first_of_them() -> None:
    start = bytes((0x97, PoolMessageType.WORK, 1, 0, 0x90, 0x91))  # number, ack, no large parts, one row
    row = b"\x95\x00\x00" + b"\xc4\x00" * 2 + b"\xdd\x00\x0f\xff\xff"
    frame = start + row + b"\x90" * (4 * MIB)
    room, _ = cost(lambda: pool_wire.unpack([frame]), ProtocolError)
    assert room < 4 * len(frame)


def test_long_rows_are_decoded_like_short_ones() -> None:
    row = (7, 0, b"m:f", b"x" * large_parts.LARGE, (b"y" * 100,) * 30_000, None, 3)
    for rows in ([row], [row, (8, 1, b"", b"", (), 1.5, 0)]):
        frames = pool_wire.pack(1, 0, PoolMessage(PoolMessageType.SUBMIT, (False,), rows))
        assert len(frames[0]) > 2 * MIB
        assert pool_wire.unpack(frames).message.rows == rows


@pytest.mark.parametrize("levels", [1_000, 100_000])
@pytest.mark.parametrize("code", [b"\x91", b"\x81\x00", b"\x81"])
def test_deep_nesting_is_refused_without_a_crash(levels: int, code: bytes) -> None:
    body = code * levels + b"\xc0"
    for read in (
        lambda: item_codec.decode(body, 1, trusted=False),
        lambda: item_codec.cut(body, 1),
        lambda: list(item_codec.split(body)),
        lambda: queue_wire.unpack([body]),
    ):
        with contextlib.suppress(ProtocolError, ItemError):
            read()


@settings(max_examples=200)
@given(st.binary(max_size=200) | st.lists(st.binary(max_size=9)).map(lambda each: b"\xdc\xff\xff".join(each)))
def test_any_bytes_are_items_or_a_nearfar_error(body: bytes) -> None:
    for count in (1, 2, 1 << 40):
        with contextlib.suppress(ProtocolError, ItemError, Untrusted):
            item_codec.decode(body, count, trusted=False)
        with contextlib.suppress(ProtocolError):
            assert item_codec.cut(body, min(count, 4096)) <= len(body)
    with contextlib.suppress(ProtocolError):
        assert b"".join(item_codec.split(body)) == body


# -- what is shown of it -------------------------------------------------------------------------------


@given(st.text(st.characters(), max_size=300))
def test_shown_text_is_printable_and_short(words: str) -> None:
    said = shown(words)
    assert said.isprintable()
    assert len(said) <= 10 * LONGEST_SHOWN + 1
    if words.isprintable() and len(words) <= LONGEST_SHOWN:
        assert said == words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("two\nlines", "two\\nlines"),
        ("\x1b[2J\x9b0m", "\\x1b[2J\\x9b0m"),
        ("a\u202eb\ud800", "a\\u202eb\\ud800"),
        ("Grüße, 你好", "Grüße, 你好"),
        ("x" * 201, "x" * 200 + "…"),
    ],
)
def test_unprintable_characters_are_escaped(words: str, said: str) -> None:
    assert shown(words) == said


def test_errors_are_counted_and_a_bounded_number_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    complaints = ProtocolErrors(logging.getLogger("test"))
    for number in range(1000):
        complaints.note("bad: %s", f"{number}\n", now=5.0)
    assert complaints.count == 1000
    assert [record.getMessage() for record in caplog.records] == [f"bad: {n}\\n" for n in range(MOST_LINES)]
    caplog.clear()
    complaints.note("bad: %s", "again", now=5.0 + PERIOD)
    assert [record.getMessage() for record in caplog.records] == [
        f"{1000 - MOST_LINES} more such faults were not logged",
        "bad: again",
    ]


def test_keys_that_can_be_chosen_to_collide_are_refused_in_control_frames() -> None:
    frame = msgpack.packb(
        [int(queue_wire.QueueMessageType.ANSWER), 1, 0, 1, {number << 61: 0 for number in range(5)}]
    )
    with pytest.raises(ProtocolError):
        queue_wire.unpack([frame])
