"""A large file goes on where it durably was, whichever process of a download ends, and however."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from nearfar.download.consumer import DEFERRED, SILENT, Consumer
from nearfar.download.messages import (
    Abandon,
    AlreadySaved,
    ChunkAck,
    Finish,
    Offer,
    Open,
    Request,
    Resume,
    StreamAccepted,
    StreamChunk,
    StreamLost,
    Verdicts,
    decode,
    decode_answer,
    encode,
    encode_answer,
)
from nearfar.download.model import Body, Head, Job, Partial, Saved
from nearfar.download.outgoing import KEEPALIVE
from nearfar.download.producer import TRIES
from nearfar.download.remote_stores import RemoteStores
from nearfar.download.store import draft as draft_module
from nearfar.download.store.draft import Draft
from nearfar.download.store.store import Store
from tests.download.trade.world import World
from tests.support import transport
from tests.support.transport import through_the_wire
from tests.support.waiting import eventually

URL = "http://h/a.bin"
DATA = bytes(range(256)) * 8000
HALF = len(DATA) // 2
HEAD = Head(URL, 200, None, len(DATA), '"1"', validator='"1"')
LIMIT = 60.0


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every write is made durable at once, and the test knows when."""
    monkeypatch.setattr(draft_module, "FIRST", 0.0)
    monkeypatch.setattr(draft_module, "EVERY", 0.0)


def durable(draft: Draft) -> bool:
    return eventually(lambda: not draft._recording and draft.recorded is not None, LIMIT)


def part_of(size: int = 5) -> Partial:
    return Partial("file", "store", size, None, '"1"', "source", b"first", b"last")


@pytest.mark.parametrize(
    "request_",
    [Resume("s", Job(URL), ".nearfar-1.part"), Abandon("s", True), Abandon("s"), Open("s", Job(URL), HEAD)],
)
def test_requests_cross_the_wire(request_: Request) -> None:
    assert decode(through_the_wire(encode(request_))) == request_


def test_what_is_begun_crosses_the_wire_beside_what_is_saved() -> None:
    saved = Saved(URL, URL, "a.bin", 1, "0" * 64, None, None, 1.5, 1)
    answer = AlreadySaved((None, saved, None, None), ((2, part_of()), (3, part_of()._replace(length=7))))
    assert decode_answer(through_the_wire(encode_answer(answer))) == answer


class Ends:
    """A consumer on a clock of the test's, and a producer's end of the transport to talk to it with."""

    def __init__(self, directory: Path) -> None:
        self.now = 0.0
        self.post = transport.Post()
        self.outbox = transport.Outbox(self.post)
        self.directory = directory
        self.live()

    def live(self) -> None:
        self.store = Store(self.directory)
        self.store.sweep()
        self.consumer = Consumer(self.post.join("a", self.store.id), self.store, clock=lambda: self.now)

    def die(self) -> None:
        """End the consumer in the middle of its files."""
        self.store.close()
        self.post.kill("a")
        self.outbox.answers()

    def ask(self, request: Request, to: str | None = None) -> list[object]:
        self.outbox.send(encode(request), to=to)
        return self.hear()

    def hear(self) -> list[object]:
        """The answers after a few turns."""
        for _ in range(len(self.post.waiting) + 2):
            self.consumer.turn()
        return [decode_answer(value) for _, value in self.outbox.answers()]

    def wait_for_answer(self) -> object:
        answers: list[object] = []
        assert eventually(lambda: bool(answers.extend(self.hear()) or answers), LIMIT)
        [answer] = answers
        return answer

    def begin(self) -> Draft:
        """Send the first half of a file, and wait until it is durable."""
        assert self.ask(Open("s", Job(URL), HEAD)) == [StreamAccepted("a")]
        assert self.ask(StreamChunk("s", 0, DATA[:HALF])) == [ChunkAck()]
        [draft] = self.store._drafts
        assert durable(draft)
        return draft

    def offered(self) -> Partial:
        answer = self.wait_for_answer()
        assert isinstance(answer, AlreadySaved)
        [(_, partial)] = answer.begun
        assert isinstance(partial, Partial)
        return partial

    def finish(self, stream: str, checks: str | None = None) -> object:
        assert self.ask(StreamChunk(stream, HALF, DATA[HALF:])) == [ChunkAck()]
        [answer] = self.ask(Finish(stream, Body(len(DATA), None, 1, checks)))
        return answer


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    ends = Ends(tmp_path / "files")
    yield ends
    ends.store.close()


def resume(ends: Ends, partial: Partial) -> object:
    ends.outbox.send(encode(Resume("t", Job(URL), partial.file)))
    return ends.wait_for_answer()


def test_the_next_consumer_continues_the_file_of_one_that_ended(ends: Ends) -> None:
    ends.begin()
    ends.die()
    ends.live()
    ends.outbox.send(encode(Offer((Job(URL),))))
    partial = ends.offered()
    assert (partial.size, partial.store) == (HALF, ends.store.id)
    assert resume(ends, partial) == StreamAccepted("a")
    answer = ends.finish("t", f"sha256={hashlib.sha256(DATA).hexdigest()}")
    assert isinstance(answer, Verdicts)
    assert (ends.directory / "a.bin").read_bytes() == DATA


def test_parts_that_have_not_the_digest_are_fetched_from_the_start(ends: Ends) -> None:
    ends.begin()
    ends.die()
    ends.live()
    ends.outbox.send(encode(Offer((Job(URL),))))
    assert resume(ends, ends.offered()) == StreamAccepted("a")
    assert ends.finish("t", f"sha256={'0' * 64}") == StreamLost(joined=True)
    ends.outbox.send(encode(Offer((Job(URL),))))
    assert ends.wait_for_answer() == AlreadySaved((None,))


def test_a_file_that_was_changed_meanwhile_is_lost(ends: Ends) -> None:
    draft = ends.begin()
    file = ends.directory / str(draft.recorded)
    ends.die()
    file.write_bytes(bytes(HALF))
    ends.live()
    ends.outbox.send(encode(Offer((Job(URL),))))
    assert resume(ends, ends.offered()) == StreamLost()
    ends.outbox.send(encode(Offer((Job(URL),))))
    assert ends.wait_for_answer() == AlreadySaved((None,))


def test_an_abandoned_file_is_kept_if_the_producer_says_so(ends: Ends) -> None:
    ends.begin()
    assert ends.ask(Abandon("s", True)) == [ChunkAck()]
    ends.outbox.send(encode(Offer((Job(URL),))))
    assert ends.offered().size == HALF


def test_the_file_of_a_silent_producer_goes_to_the_next_one(ends: Ends) -> None:
    ends.begin()
    assert ends.ask(Offer((Job(URL),))) == [], "it may be alive"
    ends.now += SILENT + 0.1
    assert ends.offered().size == HALF
    assert ends.ask(StreamChunk("s", HALF, b"late")) == [StreamLost()]


def test_the_same_url_under_another_name_waits_for_nobody(ends: Ends) -> None:
    ends.begin()
    assert ends.ask(Offer((Job(URL, "other.bin"),))) == [AlreadySaved((None,))]


def test_the_file_of_a_living_producer_stays_with_it(ends: Ends) -> None:
    ends.begin()
    assert ends.ask(Offer((Job(URL),))) == []
    answers: list[object] = []
    while ends.now < DEFERRED + 1:
        ends.now += 0.5
        answers += ends.ask(StreamChunk("s", HALF, b""))
    assert [answer for answer in answers if answer != ChunkAck()] == [AlreadySaved((None,))]
    assert isinstance(ends.finish("s"), Verdicts)


def world(tmp_path: Path, moments: list[int]) -> World:
    """Consumers of one folder: the one that has the file dies when it has so many bytes, and is replaced."""
    made = World({URL: DATA})
    made.fetcher.validator = '"1"'
    for name in "abcdefghij"[: len(moments) + 1]:
        made.consumer(name, tmp_path)

    def strike() -> bool:
        for name, consumer in list(made.consumers.items()):
            if consumer.in_hand and consumer.underway.size > moments[0]:
                [draft] = made.stores[name]._drafts
                assert durable(draft)
                made.kill(name)
                moments.pop(0)
        return not moments

    made.events.append(strike)
    return made


def test_a_file_is_continued_by_another_consumer_of_the_folder(tmp_path: Path) -> None:
    made = world(tmp_path, [HALF])
    summary = made.fetch(URL)
    made.close()
    assert summary.saved == 1 and summary.complete
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert made.fetcher.asked[URL] == 2
    assert HALF < made.fetcher.continued[URL] <= len(DATA)


def test_a_file_that_gets_further_is_not_given_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Given more losses of consumers than a file may have that starts again each time."""
    caplog.set_level("INFO")
    moments = [*range(600_000, 2_000_000, 200_000)]
    losses = len(moments)
    assert losses > TRIES
    made = world(tmp_path, moments)
    summary = made.fetch(URL)
    made.close()
    assert summary.saved == 1 and summary.complete
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert made.fetcher.asked[URL] == losses + 1
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("continuing")]
    assert len(told) == losses and told[0].startswith(f"continuing {URL} after ")


def test_a_stop_keeps_a_large_file_for_the_next_run(tmp_path: Path) -> None:
    """Given a stop in the middle, I expect the file to have no ending, and the next run to continue it."""
    made = World({URL: DATA})
    made.fetcher.validator = '"1"'
    made.consumer("a", tmp_path)
    stopped_after = 0

    def stop() -> bool:
        nonlocal stopped_after
        stopped_after = made.consumers["a"].underway.size
        if stopped_after < HALF:
            return False
        assert made.producer is not None
        made.producer.stop()
        return True

    made.events.append(stop)
    assert str(made.fetch(URL)) == "1 url: 0 saved, 0 already there, 0 failed, 1 left"
    assert made.fetcher.in_flight == 0 and not made.consumers["a"].in_hand
    assert eventually(lambda: not made.stores["a"]._partials._releasing, LIMIT)
    assert made.fetch(URL).saved == 1
    made.close()
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert stopped_after <= made.fetcher.continued[URL] < len(DATA)


def test_a_consumer_that_stops_leaves_a_large_file_to_another_one_of_the_folder(tmp_path: Path) -> None:
    made = World({URL: DATA})
    made.fetcher.validator = '"1"'
    made.consumer("a", tmp_path)

    def stop() -> bool:
        if made.consumers["a"].underway.size < HALF:
            return False
        leaving = made.consumers.pop("a")
        leaving.stop()
        leaving.run()
        made.stores.pop("a").close()
        made.post.kill("a")
        made.consumer("b", tmp_path)
        return True

    made.events.append(stop)
    assert made.fetch(URL).saved == 1
    made.close()
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert made.fetcher.asked[URL] == 2 and made.fetcher.continued[URL] >= HALF


def test_a_stop_finishes_a_large_file_that_could_not_be_continued(tmp_path: Path) -> None:
    made = World({URL: DATA})
    made.consumer("a", tmp_path)

    def stop() -> bool:
        if made.consumers["a"].underway.size < HALF:
            return False
        assert made.producer is not None
        made.producer.stop()
        return True

    made.events.append(stop)
    assert made.fetch(URL).saved == 1
    made.close()
    assert made.fetcher.asked[URL] == 1


def test_a_producer_sends_little_and_often_over_a_slow_line(ends: Ends) -> None:
    """Given a server that is slow, I expect its bytes to be durable soon, and a sign of life without any."""
    clock = [0.0]
    stores = RemoteStores(ends.outbox, clock=lambda: clock[0])
    upload = stores.upload(Job(URL), HEAD, lambda verdict: None)
    upload.write(b"little")

    def sent(now: float) -> list[int]:
        before = len(ends.post.sent)
        clock[0] = now
        stores.flush()
        for _ in range(3):
            ends.consumer.turn()
            stores.post.turn()
        requests = map(decode, ends.post.sent[before:])
        return [len(request_.data) for request_ in requests if isinstance(request_, StreamChunk)]

    assert sent(0.0) == sent(KEEPALIVE / 2) == []
    assert sent(KEEPALIVE / 2 + KEEPALIVE) == [6]
    assert sent(2 * KEEPALIVE) == []
    assert sent(4 * KEEPALIVE) == [0]
    upload.abandon()


def test_a_file_that_waits_for_its_commit_is_not_lost(ends: Ends) -> None:
    """Given a complete file that was not committed yet, I expect no sign of life of its stream."""
    clock = [0.0]
    stores = RemoteStores(ends.outbox, clock=lambda: clock[0])
    verdicts: list[object] = []
    other = stores.upload(Job(URL + "/other"), HEAD, verdicts.append)
    upload = stores.upload(Job(URL), HEAD, verdicts.append)
    upload.write(DATA)
    upload.finish(Body(len(DATA), hashlib.sha256(DATA).hexdigest()))
    while ends.post.waiting or ends.post.answered:
        stores.flush()
        ends.consumer.turn()
        stores.post.turn()
        clock[0] += KEEPALIVE
    for _ in range(2):
        ends.consumer.turn()
        stores.post.turn()
    assert [type(verdict) for verdict in verdicts] == [Saved]
    other.abandon()
