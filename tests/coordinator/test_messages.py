"""Every message is decoded as it was encoded; nothing else is accepted as one."""

from __future__ import annotations

import contextlib
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.coordinator import large_parts as parts
from nearfar.coordinator import messages as wire
from nearfar.coordinator.large_parts import AGENT, CLIENT
from nearfar.coordinator.messages import FORMS, PoolFrame, PoolMessage, PoolMessageType
from nearfar.errors import ProtocolError
from nearfar.net.frames import LONGEST_CONTROL
from nearfar.net.reliable import Frame
from nearfar.net.validation import LONGEST_NAME

pytestmark = pytest.mark.pure

naturals = st.integers(0, (1 << 63) - 1)
positives = st.integers(1, (1 << 63) - 1)
seconds = st.floats(0, 1e9) | st.integers(0, 1000)
flags = st.booleans()
names = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=20)
texts = st.text(max_size=20)
blobs = st.binary(max_size=9) | st.just(bytes(parts.LARGE + 1))
buffers = st.lists(blobs, max_size=3).map(tuple)
functions = st.binary(max_size=20)
batches = st.lists(st.tuples(names, st.lists(naturals, min_size=1, max_size=4)), max_size=3)
values = st.recursive(
    st.none() | flags | naturals | st.text(max_size=9) | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
about = st.fixed_dictionaries({}, optional={"pid": naturals, "host": names, "slots": naturals})
facts = st.fixed_dictionaries(
    {"epoch": names, "lease": st.floats(0.1, 1e6), "workers": naturals}, optional={"largest": naturals}
)

FIELDS: dict[PoolMessageType, tuple[st.SearchStrategy[Any], ...]] = {
    PoolMessageType.HEARTBEAT: (),
    PoolMessageType.HELLO: (naturals, st.sampled_from([AGENT, CLIENT]), names, about),
    PoolMessageType.QUERY: (),
    PoolMessageType.WELCOME: (names, facts),
    PoolMessageType.STRANGER: (),
    PoolMessageType.REFUSED: (texts,),
    PoolMessageType.STATUS: (st.dictionaries(texts, naturals, max_size=4),),
    PoolMessageType.BYE: (),
    PoolMessageType.CAME: (names, naturals, naturals, st.lists(names, max_size=3), batches),
    PoolMessageType.ANSWERS: (names, positives, seconds),
    PoolMessageType.DIED: (names, texts, naturals, naturals),
    PoolMessageType.RETURNED: (names, naturals),
    PoolMessageType.LEAVING: (),
    PoolMessageType.MEMORY: (st.lists(st.tuples(names, naturals), max_size=3),),
    PoolMessageType.KEPT: (),
    PoolMessageType.JOIN: (flags,),
    PoolMessageType.SUBMIT: (flags,),
    PoolMessageType.CANCEL: (positives,),
    PoolMessageType.PART: (),
    PoolMessageType.WORK: (names, names),
    PoolMessageType.RECALL: (names,),
    PoolMessageType.KILL: (names,),
    PoolMessageType.RETIRE: (names,),
    PoolMessageType.RELEASE: (batches,),
    PoolMessageType.FETCH: (batches,),
    PoolMessageType.OUTCOMES: (),
    PoolMessageType.CANCELLED: (positives, flags),
    PoolMessageType.WORKERS: (naturals,),
}
ROWS: dict[PoolMessageType, tuple[st.SearchStrategy[Any], ...]] = {
    PoolMessageType.STATUS: (names, texts, naturals, naturals, texts, seconds),
    PoolMessageType.ANSWERS: (st.integers(0, 1), blobs, buffers),
    PoolMessageType.KEPT: (names, positives, st.integers(0, 2), blobs, buffers),
    PoolMessageType.JOIN: (functions, blobs, buffers),
    PoolMessageType.SUBMIT: (
        positives,
        st.integers(0, 2),
        functions,
        blobs,
        buffers,
        st.none() | seconds,
        naturals,
    ),
    PoolMessageType.WORK: (naturals, st.integers(0, 3), functions, blobs, buffers),
    PoolMessageType.OUTCOMES: (positives, st.integers(0, 2), blobs, buffers),
}


def messages_of(kind: PoolMessageType) -> st.SearchStrategy[PoolMessage]:
    rows = st.lists(st.tuples(*ROWS[kind]), max_size=3) if kind in ROWS else st.none()
    return st.builds(PoolMessage, st.just(kind), st.tuples(*FIELDS[kind]), rows, st.just(-1))


messages = st.sampled_from(PoolMessageType).flatmap(messages_of)


def sent(envelope: PoolFrame) -> list[bytes]:
    return [bytes(frame) for frame in wire.pack(*envelope)]


def test_every_kind_of_message_has_a_sample() -> None:
    assert set(FIELDS) == set(PoolMessageType)
    assert set(ROWS) == set(FORMS)


@pytest.mark.parametrize("kind", PoolMessageType)
@settings(max_examples=15)
@given(data=st.data())
def test_every_kind_of_message_is_decoded_as_it_was_encoded(
    kind: PoolMessageType, data: st.DataObject
) -> None:
    envelope = PoolFrame(data.draw(naturals), data.draw(naturals), data.draw(messages_of(kind)))
    frames = sent(envelope)
    back = wire.unpack(frames)
    if envelope.message.rows is not None:
        assert wire.weigh(back.message) == sum(map(len, frames)) >= wire.weigh(envelope.message)
    assert back._replace(message=back.message._replace(size=-1)) == envelope
    assert type(back.message.kind) is PoolMessageType


@settings(max_examples=100)
@given(st.lists(st.binary(max_size=40), max_size=4))
def test_random_bytes_are_a_message_or_a_protocol_error(frames: list[bytes]) -> None:
    with contextlib.suppress(ProtocolError):
        assert type(wire.unpack(frames)) is Frame


@settings(max_examples=150)
@given(messages, st.data())
def test_damaged_messages_are_a_message_or_a_protocol_error(
    message: PoolMessage, data: st.DataObject
) -> None:
    frames = [bytearray(frame) for frame in sent(PoolFrame(1, 0, message))]
    for _ in range(data.draw(st.integers(0, 3))):
        frame = frames[data.draw(st.integers(0, min(1, len(frames) - 1)))]
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    cut = frames[: data.draw(st.integers(0, len(frames)))]
    with contextlib.suppress(ProtocolError):
        assert type(wire.unpack([bytes(frame) for frame in cut])) is Frame


@settings(max_examples=100)
@given(
    st.sampled_from(PoolMessageType), st.lists(values, max_size=6), st.none() | st.lists(values, max_size=3)
)
def test_other_fields_are_a_message_or_a_protocol_error(
    kind: PoolMessageType, fields: list[Any], rows: Any
) -> None:
    words = [*fields, *(rows or ())]
    frames = [msgpack.packb([kind, 1, 0, *words])]
    with contextlib.suppress(ProtocolError):
        assert len(wire.unpack(frames).message.fields) == len(words) - 2 * (kind in FORMS)


WORK = (1, 0, b"m:f", b"blob", [])


def work(*rows: Any, places: Any = (), frames: tuple[bytes, ...] = ()) -> list[bytes]:
    return [msgpack.packb([PoolMessageType.WORK, 1, 0, places, rows, "worker", "client"]), *frames]


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [bytes(LONGEST_CONTROL + 1)],
        [msgpack.packb([99, 1, 0])],
        [msgpack.packb([PoolMessageType.HEARTBEAT, -1, 0])],
        [msgpack.packb([PoolMessageType.HEARTBEAT, 1, True])],
        [msgpack.packb([PoolMessageType.HEARTBEAT, 1])],
        [msgpack.packb([PoolMessageType.HEARTBEAT, 1, 0]), b"\x90"],
        [msgpack.packb([PoolMessageType.RECALL, 1, 0, "x" * (LONGEST_NAME + 1)])],
        [msgpack.packb([PoolMessageType.RECALL, 1, 0, "a\nb"])],
        [msgpack.packb([PoolMessageType.RECALL, 1, 0, ["a"]])],
        [msgpack.packb([PoolMessageType.HELLO, 0, 0, 1, "king", "name", {}])],
        [msgpack.packb([PoolMessageType.HELLO, 0, 0, 1, AGENT, "name", {"pid": "7"}])],
        [msgpack.packb([PoolMessageType.WELCOME, 0, 0, "s", {"epoch": "e", "lease": 0, "workers": 1}])],
        [msgpack.packb([PoolMessageType.RELEASE, 1, 0, [["client", []]]])],
        [msgpack.packb([PoolMessageType.WORK, 1, 0, [], "worker", "client"])],
        [msgpack.packb([PoolMessageType.WORK, 1, 0, [], {"rows": 1}, "worker", "client"])],
        work(WORK[:-1]),
        work((*WORK, 1)),
        work((1, 4, b"m:f", b"", [])),
        work((-1, 0, b"m:f", b"", [])),
        work((True, 0, b"m:f", b"", [])),
        work((1, 0, bytes(wire.LONGEST_FUNCTION + 1), b"", [])),
        work((1, 0, b"m:f", "text", [])),
        work((1, 0, b"m:f", b"", b"")),
        work((1, 0, b"m:f", b"", [7])),
        work((1, 0, b"m:f", None, [])),
        work((1, 0, b"m:f", b"", [None])),
        work((1, 0, b"m:f", b"", [b"", b""]), places=[(0, 1), (0, 2)], frames=(b"part",)),
        work((1, 0, b"m:f", b"", [b""]), places=[(0, 1), (0, 1)], frames=(b"part", b"part")),
        work((1, 0, b"m:f", b"", [b""]), places=[(0, 2)], frames=(b"part",)),
        work((1, 0, b"m:f", b"", [b""]), places=[(1, 0)], frames=(b"part",)),
        work((1, 0, b"m:f", b"", [b""]), places=[(0, -1)], frames=(b"part",)),
        work((1, 0, b"m:f", b"", [b"full"]), places=[(0, 1)], frames=(b"part",)),
        work(WORK, frames=(b"part that nobody names",)),
        work(
            (1, 0, b"m:f", b"", [b""] * 2000), places=[(0, n + 1) for n in range(2000)], frames=(b"x",) * 2000
        ),
        work(*[WORK] * (parts.MOST_ROWS + 1)),
        [work()[0][:-1] + b"\xdd\xff\xff\xff\xff"],
        [b"\xdd\xff\xff\xff\xff"],
        [b"\x98" + work(WORK)[0][1:]],
    ],
)
def test_messages_of_the_wrong_shape_are_refused(frames: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        wire.unpack(frames)


def test_a_valid_row_is_accepted() -> None:
    assert wire.unpack(work()).message.rows == []
    assert wire.unpack(work(WORK)).message.rows == [(1, 0, b"m:f", b"blob", ())]
    placed = work(WORK, (1, 0, b"m:f", b"", [b"", b"y"]), places=[(1, 1)], frames=(b"part",))
    assert wire.unpack(placed).message.rows[1] == (1, 0, b"m:f", b"", (b"part", b"y"))


def test_large_parts_are_sent_in_frames_of_their_own_uncopied() -> None:
    large = bytearray(parts.LARGE + 1)
    frames = wire.pack(
        1, 0, PoolMessage(PoolMessageType.ANSWERS, ("w", 1, 0.5), [(0, b"small", [large, b"small"])])
    )
    assert len(frames) == 2 and frames[1].obj is large


def test_parts_beyond_the_most_frames_stay_in_the_row() -> None:
    large = bytes(parts.LARGE + 1)
    row = (0, b"", (large,) * (parts.MOST_PARTS + 2))
    frames = wire.pack(1, 0, PoolMessage(PoolMessageType.ANSWERS, ("w", 1, 0.5), [row]))
    assert len(frames) == 1 + parts.MOST_PARTS
    assert wire.unpack(frames).message.rows == [row]


def test_a_buffer_of_any_shape_is_sent_as_its_bytes() -> None:
    table = memoryview(bytes(range(24))).cast("B").cast("I", shape=[2, 3])
    frames = wire.pack(1, 0, PoolMessage(PoolMessageType.ANSWERS, ("w", 1, 0.5), [(0, b"", [table])]))
    assert wire.unpack(frames).message.rows == [(0, b"", (bytes(range(24)),))]


def test_rows_are_split_into_messages_by_size() -> None:
    rows = [(number, 0, bytes(parts.TOGETHER // 2), []) for number in range(5)]
    assert [len(share) for share in parts.shares(rows, 2)] == [2, 2, 1]


def test_rows_are_split_into_messages_by_number() -> None:
    rows = [(number, 0, b"", []) for number in range(parts.MOST_ROWS + 1)]
    assert [len(share) for share in parts.shares(rows, 2)] == [parts.MOST_ROWS, 1]
    assert list(parts.shares([], 2)) == []
