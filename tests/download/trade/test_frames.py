"""Messages of a far queue arrive as they were sent, with their long bodies beside them; malformed ones do
not."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.download.far_transport import HEAD, framed, unframed
from nearfar.download.messages import LONG, Abandon, File, Files, StreamChunk, decode, encode
from nearfar.download.model import Body, Head, Job
from nearfar.errors import ProtocolError
from nearfar.serialization import item_codec

pytestmark = pytest.mark.pure

URL = "http://h/1"
SIZES = st.sampled_from([0, 1, LONG - 1, LONG, LONG + 1, 3 * LONG])


def sent(message: list[Any]) -> Any:
    """What the other side gets: the item crosses the queue."""
    item = framed(deepcopy(message))
    body = item_codec.joined(item_codec.encode_parts(item, trusted=False))
    return unframed(item_codec.decode(body, 1, trusted=False)[0])


@given(st.lists(SIZES, max_size=5), st.booleans())
def test_files_arrive_as_they_were_sent(sizes: list[int], last: bool) -> None:
    files = tuple(
        File(Job(URL), Head(URL, 200), Body(size, None), bytes([number]) * size)
        for number, size in enumerate(sizes)
    )
    assert decode(sent(encode(Files(files, last)))) == Files(files, last)


@pytest.mark.parametrize("size", [0, LONG - 1, LONG, 1 << 20])
def test_a_chunk_arrives_as_it_was_sent(size: int) -> None:
    chunk = StreamChunk("s", 7, b"x" * size)
    assert decode(sent(encode(chunk))) == chunk


def test_long_bodies_are_not_copied_until_they_leave() -> None:
    body = b"x" * LONG
    item = framed(encode(StreamChunk("s", 0, body)))
    assert any(piece is body for piece in item.pieces)


def test_a_message_without_a_long_body_and_a_url_that_is_not_unicode_are_left_as_they_are() -> None:
    short = encode(Abandon("s", True))
    assert framed(short) is short
    url = "http://h/\udc80"
    message = encode(Files((File(Job(url), Head(url, 200), Body(LONG, None), b"x" * LONG),)))
    assert framed(deepcopy(message)) == message


HOSTILE = st.recursive(
    st.none() | st.integers(-(2**40), 2**40) | st.text(max_size=4) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)


@given(
    HOSTILE,
    st.lists(st.lists(st.integers(-9, 2**40), max_size=3) | HOSTILE, max_size=4),
    st.binary(max_size=40),
)
def test_a_malformed_frame_is_refused_or_read_but_breaks_nothing(
    message: Any, places: Any, rest: bytes
) -> None:
    head = item_codec.encode([message, places], trusted=False)
    for item in (len(head).to_bytes(HEAD) + head + rest, head + rest, rest):
        try:
            decode(unframed(item))
        except ProtocolError as error:
            assert str(error)
