"""Every message arrives as it was sent; nothing else is accepted as one."""

from __future__ import annotations

import contextlib
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.errors import ProtocolError
from nearfar.net.frames import LONGEST_CONTROL
from nearfar.net.reliable import Frame
from nearfar.queues import messages
from nearfar.queues.messages import QueueFrame, QueueMessage, QueueMessageType
from nearfar.serialization.shared_ring import REFERENCE, Place

pytestmark = pytest.mark.pure

naturals = st.integers(0, (1 << 63) - 1)
positives = st.integers(1, (1 << 63) - 1)
firsts = st.integers(1, (1 << 63) - messages.MOST_ITEMS)
flags = st.booleans()
names = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=20)
name_lists = st.lists(names, max_size=4)
ranges = st.lists(st.tuples(positives, positives).map(sorted).map(tuple), max_size=4)
answers = st.lists(st.tuples(positives, st.binary(max_size=9)), max_size=4)
values = st.recursive(
    st.none() | flags | naturals | st.text(max_size=9) | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
process = st.fixed_dictionaries(
    {}, optional={"pid": naturals, "machine": st.text(max_size=9), "epoch": st.text(max_size=9)}
)
letters = st.tuples(positives, st.binary(max_size=9), names, naturals, st.tuples(st.text(max_size=9)))
told = st.none() | flags | naturals | st.just(".lane") | st.dictionaries(names, naturals) | st.lists(letters)
facts = st.fixed_dictionaries(
    {
        "epoch": names,
        "inbox": st.integers(1, 65535) | st.just(".inbox"),
        "lease": st.floats(0.1, 1e6) | st.integers(1, 1000),
        "machine": st.text(max_size=20),
        "maxbytes": naturals,
        "maxsize": naturals,
        "shut": flags,
        "stored": naturals,
        "ticket": names,
        "trusted": flags,
    }
)
firsts = st.integers(1, (1 << 63) - messages.MOST_ITEMS)
"""Numbers of items that a whole batch may follow."""
rows = st.lists(st.tuples(positives, positives, naturals, st.none() | st.binary()), max_size=4)

references = st.binary(min_size=REFERENCE, max_size=REFERENCE)
places = st.builds(Place, st.integers(0, 1 << 60), st.integers(20, 30), st.integers(0, 9))

few = st.integers(0, messages.MOST_PERMITS)
seconds = st.floats(0, 1e9)
claims = st.lists(st.tuples(names, few, seconds, few, few, few, few, seconds, flags), max_size=3)
grants = st.lists(
    st.tuples(names, st.integers(-messages.MOST_PERMITS, messages.MOST_PERMITS), few, few, seconds),
    max_size=3,
)

FIELDS: dict[QueueMessageType, tuple[st.SearchStrategy[Any], ...]] = {
    QueueMessageType.HEARTBEAT: (),
    QueueMessageType.HELLO: (naturals, names, process),
    QueueMessageType.QUERY: (),
    QueueMessageType.WELCOME: (names, facts),
    QueueMessageType.STRANGER: (),
    QueueMessageType.REFUSED: (st.text(max_size=20),),
    QueueMessageType.JOIN: (flags, flags, name_lists, flags),
    QueueMessageType.PUT: (firsts, st.integers(1, 20), st.none() | names),
    QueueMessageType.NEED: (naturals,) * 6,
    QueueMessageType.REPORT: (
        naturals,
        naturals,
        naturals,
        naturals,
        ranges,
        ranges,
        ranges,
        ranges,
        answers,
    ),
    QueueMessageType.ASK: (positives, names, st.none() | flags | naturals | references),
    QueueMessageType.SYNCED: (positives, naturals, naturals),
    QueueMessageType.BYE: (),
    QueueMessageType.LEND: (firsts, st.integers(1, messages.MOST_ITEMS), positives),
    QueueMessageType.ROOM: (naturals, naturals),
    QueueMessageType.SETTLED: (rows,),
    QueueMessageType.SYNC: (positives, flags),
    QueueMessageType.ANSWER: (positives, told),
    QueueMessageType.OVER: (flags, name_lists),
    QueueMessageType.SHUT: (flags,),
    QueueMessageType.PART: (),
    QueueMessageType.TAGS: (name_lists,),
    QueueMessageType.RING: (positives, st.none() | references),
    QueueMessageType.CLAIM: (flags, claims),
    QueueMessageType.GRANT: (grants,),
}


def messages_of(kind: QueueMessageType) -> st.SearchStrategy[QueueMessage]:
    body = (
        st.binary(min_size=20, max_size=30) | places
        if kind in (QueueMessageType.PUT, QueueMessageType.LEND)
        else st.none()
    )
    return st.builds(QueueMessage, st.just(kind), st.tuples(*FIELDS[kind]), body)


any_message = st.sampled_from(QueueMessageType).flatmap(messages_of)


def frames_of(
    kind: Any, *fields: Any, number: Any = 1, ack: Any = 0, body: bytes | None = None
) -> list[bytes]:
    header = msgpack.packb([kind, number, ack, *fields])
    return [header] if body is None else [header, body]


@pytest.mark.parametrize("kind", QueueMessageType)
@settings(max_examples=15)
@given(data=st.data())
def test_every_kind_of_message_is_decoded_as_it_was_encoded(
    kind: QueueMessageType, data: st.DataObject
) -> None:
    envelope = QueueFrame(data.draw(naturals), data.draw(naturals), data.draw(messages_of(kind)))
    back = messages.unpack(messages.pack(*envelope))
    assert back == envelope
    assert type(back.message.kind) is QueueMessageType


@settings(max_examples=100)
@given(st.lists(st.binary(max_size=40), max_size=3))
def test_random_bytes_are_a_message_or_a_protocol_error(frames: list[bytes]) -> None:
    with contextlib.suppress(ProtocolError):
        assert type(messages.unpack(frames)) is Frame


@settings(max_examples=100)
@given(any_message, st.data())
def test_damaged_messages_are_a_message_or_a_protocol_error(
    message: QueueMessage, data: st.DataObject
) -> None:
    frames = messages.pack(1, 0, message)
    header = bytearray(frames[0])
    for _ in range(data.draw(st.integers(0, 3))):
        header[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))
    frames[0] = bytes(header[: data.draw(st.integers(0, len(header)))])
    with contextlib.suppress(ProtocolError):
        assert type(messages.unpack(frames)) is Frame


@settings(max_examples=100)
@given(st.sampled_from(QueueMessageType), st.lists(values, max_size=8), st.none() | st.binary(max_size=5))
def test_other_fields_are_a_message_or_a_protocol_error(
    kind: QueueMessageType, fields: list[Any], body: bytes | None
) -> None:
    with contextlib.suppress(ProtocolError):
        message = messages.unpack(frames_of(kind, *fields, body=body)).message
        assert (message.kind, len(message.fields), message.body) == (kind, len(fields), body)


GOOD_FACTS = {"epoch": "e", "inbox": 5, "lease": 10.0, "stored": 0, "shut": False, "trusted": True}
GOOD_FACTS |= {"maxsize": 5, "maxbytes": 0, "ticket": "t", "machine": "boot/ns"}


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param([], id="no frame"),
        pytest.param([b""], id="an empty frame"),
        pytest.param([*frames_of(QueueMessageType.PART), b"", b""], id="three frames"),
        pytest.param(frames_of(99), id="an unknown kind"),
        pytest.param(frames_of(True), id="a flag for a kind"),
        pytest.param(frames_of(1.0), id="a fraction for a kind"),
        pytest.param([msgpack.packb(b"\x01\x02\x03")], id="bytes for a list"),
        pytest.param([msgpack.packb({0: 1, 1: 2, 2: 3})], id="a table for a list"),
        pytest.param([msgpack.packb([1, 2])], id="no ack"),
        pytest.param([b"\x91" * 3000], id="deep nesting"),
        pytest.param([b"\xdd\x00\x0f\x00\x00" * 1000], id="long lists in each other"),
        pytest.param([*frames_of(QueueMessageType.PART), b""], id="a body where none belongs"),
        pytest.param(frames_of(QueueMessageType.LEND, 1, 1, 1), id="no body where one belongs"),
        pytest.param(frames_of(QueueMessageType.PART, number=-1), id="a negative number"),
        pytest.param(frames_of(QueueMessageType.PART, number=1 << 63), id="a number beyond bounds"),
        pytest.param(frames_of(QueueMessageType.PART, ack=True), id="a flag for an ack"),
        pytest.param(frames_of(QueueMessageType.PART, 1), id="a field too many"),
        pytest.param(frames_of(QueueMessageType.SHUT), id="a field too few"),
        pytest.param(
            frames_of(QueueMessageType.PUT, 1, 3, None, body=b"\x01\x02"), id="more items than bytes"
        ),
        pytest.param(frames_of(QueueMessageType.PUT, 1, 0, None, body=b"\x01\x02"), id="no items"),
        pytest.param(frames_of(QueueMessageType.HELLO, 1, "two\nlines", {}), id="a name with a line break"),
        pytest.param(frames_of(QueueMessageType.HELLO, 1, "x" * 201, {}), id="a name too long"),
        pytest.param(frames_of(QueueMessageType.HELLO, 1, "", {}), id="no name"),
        pytest.param(frames_of(QueueMessageType.WELCOME, "s", {}), id="no facts about the queue"),
        pytest.param(frames_of(QueueMessageType.WELCOME, "s", GOOD_FACTS | {"lease": 0}), id="no lease"),
        pytest.param(
            frames_of(QueueMessageType.WELCOME, "s", GOOD_FACTS | {"lease": float("nan")}), id="no real lease"
        ),
        pytest.param(
            frames_of(QueueMessageType.WELCOME, "s", GOOD_FACTS | {"maxsize": -1}), id="a negative bound"
        ),
        pytest.param(frames_of(QueueMessageType.WELCOME, "s", GOOD_FACTS | {"inbox": None}), id="no inbox"),
        pytest.param(frames_of(QueueMessageType.WELCOME, "s", GOOD_FACTS | {"inbox": "a/b"}), id="a path"),
        pytest.param(frames_of(QueueMessageType.WELCOME, "s", GOOD_FACTS | {"inbox": "a\n"}), id="a line"),
        pytest.param(frames_of(QueueMessageType.SETTLED, [[1, 1, 0]]), id="a row too short"),
        pytest.param(frames_of(QueueMessageType.SETTLED, [[1, 1, 0, "text"]]), id="text for an answer"),
        pytest.param(
            frames_of(QueueMessageType.REPORT, 1, 1, 0, 0, [[2, 1]], [], [], [], []),
            id="a range that ends early",
        ),
        pytest.param(
            frames_of(QueueMessageType.REPORT, 1, 1, 0, 0, [], [], [], [], [[1, None]]),
            id="an answer of nothing",
        ),
        pytest.param(frames_of(QueueMessageType.OVER, True, [1]), id="a number for a name"),
    ],
)
def test_malformed_messages_are_refused(frames: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        messages.unpack(frames)


def test_valid_facts_are_accepted_and_unknown_ones_are_skipped() -> None:
    for facts in (GOOD_FACTS, GOOD_FACTS | {"more": [1]}):
        message = messages.unpack(frames_of(QueueMessageType.WELCOME, "s", facts)).message
        assert message.fields == ("s", GOOD_FACTS)


def test_a_frame_that_is_too_long_is_not_read() -> None:
    def answer(size: int) -> list[bytes]:
        return frames_of(QueueMessageType.ANSWER, 1, [[1, bytes(size), "a producer", 5, []]])

    messages.unpack(answer(LONGEST_CONTROL - 30))
    with pytest.raises(ProtocolError, match="bytes, which is too much"):
        messages.unpack(answer(LONGEST_CONTROL))


def test_the_largest_report_fits_into_a_frame() -> None:
    """Given as many ranges as fields may carry, with the largest numbers, and the largest answers,

    I expect the message to be readable: one that is not is sent again for ever.
    """
    largest = (1 << 63) - 1
    spans = [(largest, largest)] * messages.MOST_RANGES
    answers = [(largest, b"")] * (messages.MOST_RANGES - 2)
    answers += [(largest, b"x" * (messages.ANSWERS_TOGETHER - 1)), (largest, b"x" * messages.LONGEST_ANSWER)]
    assert messages.share_of_answers(answers, messages.MOST_RANGES) == len(answers)
    report = QueueMessage(
        QueueMessageType.REPORT, (largest, largest, largest, largest, spans, spans, spans, spans, answers)
    )
    assert messages.unpack(messages.pack(largest, largest, report)).message == report


def test_the_largest_settled_fits_into_a_frame() -> None:
    largest = (1 << 63) - 1
    rows = [(largest, largest, largest, b"")] * (messages.MOST_RANGES - 1)
    rows.append((largest, 1, 1, b"x" * messages.LONGEST_ANSWER))
    settled = QueueMessage(QueueMessageType.SETTLED, (rows,))
    assert messages.unpack(messages.pack(largest, largest, settled)).message == settled


@given(st.lists(st.none() | st.integers(0, messages.LONGEST_ANSWER), max_size=8), st.integers(0, 9))
def test_a_share_of_answers_is_as_many_as_fit(sizes: list[int | None], most: int) -> None:
    rows = [[number, None if size is None else bytes(size)] for number, size in enumerate(sizes)]
    share = messages.share_of_answers(rows, most)
    taken = sum(size or 0 for size in sizes[:share])
    assert share <= min(most, len(rows))
    assert taken < messages.ANSWERS_TOGETHER + messages.LONGEST_ANSWER
    assert share == min(most, len(rows)) or taken >= messages.ANSWERS_TOGETHER
    assert share or not rows or not most


@pytest.mark.parametrize(
    "frames",
    [
        [msgpack.packb([20, 1, 0, 1, 1, None, True]), b"short"],
        [msgpack.packb([20, 1, 0, 1, 1, None, True]), Place(0, 1 << 31).encode()],
        [msgpack.packb([20, 1, 0, 1, 1, None, 1]), Place(0, 9).encode()],
        [msgpack.packb([20, 1, 0, 1, 1, None, True, True]), Place(0, 9).encode()],
        [msgpack.packb([20, 1, 0, 1, 1, None]), Place(0, 9).encode()],
        [msgpack.packb([20, 1, 0, 1, 10, None, True]), Place(0, 9).encode()],
        [msgpack.packb([20, 1, 0, 1, 2, None, True]), Place(0, messages.LARGEST_BATCH + 1).encode()],
        [msgpack.packb([40, 1, 0, 1, 1, 1, True]), Place(0, 1 << 62).encode()],
        [msgpack.packb([42, 1, 0, [[1, 1, 0, None]], True])],
        [msgpack.packb([25, 1, 0, True])],
    ],
    ids=str,
)
def test_what_is_not_a_place_of_items_is_refused(frames: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        messages.unpack(frames)
