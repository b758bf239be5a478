"""Each end by itself: what an upload leaves unsent, what a stopped consumer leaves unanswered."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from nearfar.download.consumer import Consumer
from nearfar.download.messages import (
    Abandon,
    ChunkAck,
    File,
    Files,
    Finish,
    Open,
    StreamAccepted,
    StreamChunk,
    Verdicts,
    decode,
    decode_answer,
    encode,
)
from nearfar.download.model import Body, Failure, Head, Job, Reason, Saved, StreamLost
from nearfar.download.producer import Producer, TransferSink
from nearfar.download.remote_stores import LONELY, RemoteStores
from nearfar.download.store.store import Store
from tests.download.trade.world import ListDesk
from tests.support import transport
from tests.support.fetcher import FakeFetcher

JOB, HEAD = Job("http://h/a"), Head("http://h/a", 200)
PIECE = b"x" * 100_000


def body_of(data: bytes) -> Body:
    return Body(len(data), hashlib.sha256(data).hexdigest())


class Ends:
    """A consumer, and a producer's end of the transport to talk to it with."""

    def __init__(self, directory: Path) -> None:
        self.post = transport.Post()
        self.outbox = transport.Outbox(self.post)
        self.store = Store(directory)
        self.consumer = Consumer(self.post.join("a", self.store.id), self.store)

    def turns(self) -> None:
        while self.post.waiting:
            self.consumer.turn()
        self.consumer.turn()

    def ask(
        self, request: Open | StreamChunk | Finish | Files | Abandon, to: str | None = None
    ) -> list[object]:
        """The answers that come of a request."""
        self.outbox.send(encode(request), to=to)
        self.turns()
        return [decode_answer(value) for _, value in self.outbox.answers()]


class Ended(Producer):
    """A producer without jobs, which notes how its files end."""

    def __init__(self, stores: RemoteStores) -> None:
        super().__init__(ListDesk([]), FakeFetcher({}, meanwhile=lambda: None), stores)
        self.said: list[object] = []

    def ended(self, sink: TransferSink, verdict: Saved | Failure | StreamLost) -> None:
        self.said.append(verdict)


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    ends = Ends(tmp_path)
    yield ends
    ends.store.close()


def test_a_paused_passage_keeps_nothing_back_that_could_make_room(ends: Ends) -> None:
    stores = RemoteStores(ends.outbox, room=7 * len(PIECE))
    post, transfer_sink = stores.post, TransferSink(1, JOB, Ended(stores))
    transfer_sink.begin(HEAD)
    pieces = 0
    while transfer_sink.chunk(PIECE):
        pieces += 1
        assert pieces < 100
    assert not transfer_sink.free_slots
    for _ in range(3):
        ends.turns()
        post.turn()
    assert post.held == 0
    assert transfer_sink.free_slots


def test_a_failed_passage_gives_back_all_it_held(ends: Ends) -> None:
    stores = RemoteStores(ends.outbox)
    post, producer = stores.post, Ended(stores)
    transfer_sink = TransferSink(1, JOB, producer)
    transfer_sink.begin(HEAD)
    for _ in range(8):
        transfer_sink.chunk(PIECE)
    assert post.held == 8 * len(PIECE)
    transfer_sink.failed(Failure(Reason.TRUNCATED, "half came"))
    for _ in range(3):
        ends.turns()
        post.turn()
    assert (post.held, producer.gathered) == (0, 0)
    assert producer.said == [Failure(Reason.TRUNCATED, "half came")]
    assert not ends.consumer.in_hand, "the consumer was told"


def test_a_stopped_consumer_finishes_its_stream_and_keeps_back_the_rest(ends: Ends) -> None:
    file = File(JOB, HEAD, body_of(b"small"), b"small")
    assert ends.ask(Open("s", JOB, HEAD)) == [StreamAccepted("a")]
    ends.consumer.stop()
    assert ends.ask(Files((file,))) == []
    assert ends.ask(Open("t", JOB, HEAD)) == []
    assert ends.ask(StreamChunk("s", 0, PIECE), to="a") == [ChunkAck()]
    (answer,) = ends.ask(Finish("s", body_of(PIECE)), to="a")
    assert isinstance(answer, Verdicts)
    ends.consumer.run()
    ends.post.kill("a")
    assert [(type(decode(envelope.message)), envelope.attempt) for envelope in ends.post.waiting] == [
        (Files, 2),
        (Open, 2),
    ]


def test_a_stream_with_a_gap_fails_and_is_then_unknown(ends: Ends) -> None:
    ends.ask(Open("s", JOB, HEAD))
    (answer,) = ends.ask(StreamChunk("s", 5, PIECE), to="a")
    assert isinstance(answer, Failure) and answer.reason is Reason.TRUNCATED
    assert ends.ask(StreamChunk("s", 0, PIECE), to="a") == [StreamLost()]
    assert ends.ask(Finish("s", body_of(PIECE)), to="a") == [StreamLost()]


def test_an_abandoned_stream_leaves_no_file(ends: Ends, tmp_path: Path) -> None:
    ends.ask(Open("s", JOB, HEAD))
    ends.ask(StreamChunk("s", 0, PIECE), to="a")
    assert ends.ask(Abandon("s"), to="a") == [ChunkAck()]
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob(".*.part"))


def test_bytes_that_are_not_what_was_sent_are_not_saved(ends: Ends, tmp_path: Path) -> None:
    wrong = File(JOB, HEAD, body_of(b"sent"), b"came")
    right = File(Job("http://h/b"), HEAD, body_of(b"sent"), b"sent")
    (answer,) = ends.ask(Files((wrong, right)))
    assert isinstance(answer, Verdicts)
    failed, saved = answer.verdicts
    assert isinstance(failed, Failure) and failed.reason is Reason.CHECKSUM
    assert not isinstance(saved, Failure)
    assert str(ends.consumer.received) == "1 saved (4 bytes), 1 failed (checksum 1)"


def test_a_message_that_cannot_be_read_is_answered_and_harms_nobody(ends: Ends) -> None:
    ends.outbox.send(("gibberish", 5))
    ends.turns()
    ((_, value),) = ends.outbox.answers()
    assert isinstance(decode_answer(value), Failure)
    assert ends.ask(Open("s", JOB, HEAD)) == [StreamAccepted("a")]


def test_a_producer_that_nobody_joins_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    fetcher = FakeFetcher({}, meanwhile=lambda: None)
    outbox = transport.Outbox(transport.Post())
    producer = Producer(ListDesk([JOB]), fetcher, RemoteStores(outbox, clock=lambda: now[0]))
    for now[0] in (0.0, LONELY, LONELY + 1):
        assert producer.turn()
    assert [record.getMessage() for record in caplog.records] == [
        "no consumer has come to the queue yet: waiting for one"
    ]
