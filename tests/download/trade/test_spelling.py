"""Messages are decoded as they were encoded; malformed ones are refused."""

from __future__ import annotations

from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.download.messages import (
    Abandon,
    AlreadySaved,
    Answer,
    ChunkAck,
    File,
    Files,
    Finish,
    Offer,
    Open,
    Request,
    StreamAccepted,
    StreamChunk,
    Verdicts,
    decode,
    decode_answer,
    encode,
    encode_answer,
)
from nearfar.download.model import Body, Checksum, Failure, Head, Job, Partial, Reason, Saved, StreamLost
from nearfar.errors import ProtocolError
from tests.support.transport import through_the_wire

pytestmark = pytest.mark.pure

SIZES = st.integers(0, 2**40)
JOBS = st.builds(Job, st.text(), st.none() | st.text(), st.none() | st.builds(Checksum, st.text(), st.text()))
MAYBE = st.none() | st.text()
HEADS = st.builds(
    Head,
    st.text(),
    st.just(200),
    type=MAYBE,
    length=st.none() | SIZES,
    etag=MAYBE,
    modified=MAYBE,
    suggested=MAYBE,
)
BODIES = st.builds(Body, SIZES, st.text(), SIZES)
SAVED = st.builds(
    Saved,
    url=st.text(),
    final_url=st.text(),
    name=st.text(),
    size=SIZES,
    sha256=st.text(),
    type=MAYBE,
    etag=MAYBE,
    time=st.floats(0, 2e9),
    attempts=SIZES,
)
PARTIALS = st.builds(
    Partial, st.text(), st.text(), SIZES, st.none() | SIZES, st.text(), st.text(), st.binary(), st.binary()
)
FAILURES = st.builds(Failure, st.sampled_from(Reason), st.text())


def tuples(each: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(each, max_size=3).map(tuple)


REQUESTS: st.SearchStrategy[Request] = st.one_of(
    st.builds(Offer, tuples(JOBS)),
    st.builds(Files, tuples(st.builds(File, JOBS, HEADS, BODIES, st.binary()))),
    st.builds(Open, st.text(), JOBS, HEADS),
    st.builds(StreamChunk, st.text(), SIZES, st.binary()),
    st.builds(Finish, st.text(), BODIES),
    st.builds(Abandon, st.text()),
)
ANSWERS: st.SearchStrategy[Answer] = st.one_of(
    st.builds(AlreadySaved, tuples(st.none() | SAVED), tuples(st.tuples(st.integers(0, 9), PARTIALS))),
    st.builds(Verdicts.of, tuples(SAVED | FAILURES)),
    st.builds(StreamAccepted, st.text()),
    st.just(ChunkAck()),
    st.builds(StreamLost, st.booleans()),
    FAILURES,
)
NOISE = st.recursive(
    st.none() | st.integers(-5, 5) | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4).map(tuple),
    max_leaves=12,
)


@given(REQUESTS)
def test_a_request_arrives_as_it_was_sent(request: Request) -> None:
    assert decode(through_the_wire(encode(request))) == request


@given(ANSWERS)
def test_an_answer_arrives_as_it_was_sent(answer: Answer) -> None:
    assert decode_answer(through_the_wire(encode_answer(answer))) == answer


def forms(word: str, rest: tuple[Any, ...]) -> list[Any]:
    """Packed and unpacked, with the word of a message and without."""
    return [form for fields in ((word, *rest), rest) for form in (fields, msgpack.packb(fields))]


@given(
    st.sampled_from(["offer", "files", "open", "chunk", "finish", "abandon", ""]),
    tuples(NOISE),
    tuples(st.binary(max_size=8) | NOISE),
)
def test_noise_for_a_request_is_refused_or_read_but_breaks_nothing(
    word: str, rest: tuple[Any, ...], bodies: tuple[Any, ...]
) -> None:
    for packed in forms(word, rest):
        for message in ((packed, *bodies), (packed,), packed):
            try:
                decode(message)
            except ProtocolError as error:
                assert str(error)


@given(st.sampled_from(["known", "verdicts", "taken", "failed", "written", "lost"]), tuples(NOISE))
def test_noise_for_an_answer_is_refused_or_read_but_breaks_nothing(word: str, rest: tuple[Any, ...]) -> None:
    for value in forms(word, rest):
        try:
            decode_answer(value)
        except ProtocolError as error:
            assert str(error)


def test_a_message_whose_bodies_do_not_fit_its_fields_is_refused() -> None:
    job, head, body = Job("http://h/1"), Head("http://h/1", 200), Body(1, None)
    [packed, data] = encode(Files((File(job, head, body, b"x"),)))
    [chunk, _] = encode(StreamChunk("s", 0, b"x"))
    [abandon] = encode(Abandon("s"))
    for message in (
        [packed],
        [packed, data, data],
        [packed, "x"],
        [chunk],
        [chunk, data, data],
        [abandon, data],
    ):
        with pytest.raises(ProtocolError):
            decode(message)


@pytest.mark.parametrize(
    "message",
    [None, (), 5, "offer", (5,), (("chunk", "s", "0"), b""), (("chunk", "s", 0, 1), b""), (("finish",),)],
)
def test_what_follows_no_rule_is_refused(message: object) -> None:
    with pytest.raises(ProtocolError):
        decode(message)
