"""Items of far queues in shared memory: which go there, that they come out as they were, and what is left."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from nearfar.errors import Empty, Full
from nearfar.net.session import SendTo
from nearfar.queues.broker.ledger import Ledger
from nearfar.queues.broker.protocol import BrokerProtocol
from nearfar.queues.client import producer, puts
from nearfar.queues.client.consumer import ItemReceiver
from nearfar.queues.far import FarQueue
from nearfar.queues.messages import VERSION, QueueFrame, QueueMessage, QueueMessageType
from nearfar.serialization import item_codec, shared_ring
from nearfar.serialization.shared_ring import (
    SWITCH,
    HostRings,
    KeptBody,
    OwnRing,
    Place,
    ReadRings,
    whole,
)
from tests.queues.contract import LIMIT, told
from tests.queues.test_kills import host, mortal
from tests.serialization.test_shared_ring import shared_files
from tests.support.keys import keys
from tests.support.processes import freeze
from tests.support.waiting import eventually

FORK = multiprocessing.get_context("fork")
ALL = "all items are shared"


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Share every item; in the end, no shared memory is left."""
    monkeypatch.setattr(producer, "PLACED", 1)
    monkeypatch.setattr(producer, "PLACED_EACH", 1)
    monkeypatch.setattr("nearfar.queues.client.session.MUCH", 1)
    monkeypatch.setattr(shared_ring, "keep_freed_memory", lambda: None)
    yield
    assert eventually(lambda: not shared_files(os.getpid())), shared_files(os.getpid())


@pytest.fixture(params=["tcp", "ipc", "keys"])
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FarQueue]:
    """A queue that this process hosts."""
    address = f"ipc://{tmp_path}/queue" if request.param == "ipc" else "tcp://127.0.0.1:*"
    options: Any = {"keys": keys()} if request.param == "keys" else {}
    with FarQueue(0, address, **options) as hosted:
        yield hosted


@pytest.fixture
def hosted() -> Iterator[FarQueue]:
    with FarQueue(0, "tcp://127.0.0.1:*", max_attempts=1) as hosted:
        yield hosted


def connect(queue: FarQueue) -> FarQueue:
    """A further client of `queue`, as in another process."""
    return FarQueue._reach(queue._place, queue._access, LIMIT)


def sharing(queue: FarQueue) -> FarQueue:
    """A further client of `queue`, whose items are shared from now on; one item of it is in the queue."""
    made = connect(queue)
    made.put("first")
    assert eventually(lambda: made._end is not None and made._end.machine.sender.places)
    return made


def used(queue: FarQueue) -> int:
    """Bytes of a producer's items in its ring."""
    assert queue._end is not None
    ring = queue._end.machine.sender.ring
    return 0 if ring is None else ring.used


def item(dice: random.Random) -> Any:
    """Any item: of each type, small or large."""
    size = dice.choice([0, 1, 100, 600, 10_000, 70_000, 300_000])
    match dice.randrange(6):
        case 0:
            return dice.randrange(1 << 70)
        case 1:
            return "ä" * (size // 2)
        case 2:
            return [dice.randbytes(size), {"a": None, "b": dice.randbytes(9)}]
        case 3:
            return {3 + 4j, None}
        case _:
            return dice.randbytes(size)


@pytest.mark.parametrize("seed", range(3))
def test_items_come_out_as_they_were_and_in_order(queue: FarQueue, seed: int) -> None:
    dice = random.Random(seed)
    with sharing(queue) as there, connect(queue) as here:
        whom = here if seed % 2 else queue
        assert whom.get(timeout=LIMIT) == "first"
        for _ in range(12):
            items = [item(dice) for _ in range(dice.randrange(1, 30))]
            if dice.random() < 0.5:
                there.put_many(items)
            else:
                for each in items:
                    there.put(each)
            found: list[Any] = []
            while len(found) < len(items):
                if dice.random() < 0.5:
                    found += whom.get_many(dice.randrange(1, 20), timeout=LIMIT)
                else:
                    found.append(whom.get(timeout=LIMIT))
            assert found == items
        whom.close()
        assert eventually(lambda: used(there) == 0)
        assert there.counts()["dead"] == 0


def no_memory(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "no memory")


@pytest.mark.parametrize(
    "which", ["producer", "host", "consumer", "producer off", "host off", "consumer off", "full", ALL]
)
def test_where_memory_cannot_be_shared_items_are_sent(
    monkeypatch: pytest.MonkeyPatch, which: str, tmp_path: Path
) -> None:
    """Given a producer, a host or a consumer that cannot share memory, or is told not to, or a ring that is
    full, I expect every item to come all the same."""
    refused: Any = {
        "producer": ("nearfar.queues.client.session.OwnRing", no_memory),
        "host": ("nearfar.serialization.shared_ring.HostRings.keep", lambda *_: None),
        "consumer": ("nearfar.serialization.shared_ring.ReadRings.open", lambda *_: False),
        "full": ("nearfar.serialization.shared_ring.OwnRing.place", lambda *_: None),
    }
    if which in refused:
        monkeypatch.setattr(*refused[which])

    def switch(part: str) -> None:
        monkeypatch.setenv(SWITCH, "0" if which == f"{part} off" else "1")

    switch("host")
    with FarQueue(0, f"ipc://{tmp_path}/queue") as queue:
        switch("producer")
        there = FarQueue.connect(queue.address)
        there.put("first")
        there.qsize()
        there.qsize()
        switch("consumer")
        here = FarQueue.connect(queue.address)
        items = [bytes([number]) * 5000 for number in range(100)]
        with there, here:
            there.put_many(items)
            there.flush(timeout=LIMIT)
            assert bool(used(there)) is (which in (ALL, "consumer", "consumer off"))
            assert [here.get(timeout=LIMIT) for _ in range(101)] == ["first", *items]
            assert there.counts()["dead"] == there.counts()["late"] == 0


def test_what_a_consumer_could_not_open_does_not_count_as_an_attempt(hosted: FarQueue) -> None:
    with sharing(hosted) as there:
        here = connect(hosted)
        with pytest.MonkeyPatch.context() as patch, here:
            patch.setattr(ReadRings, "open", lambda *_: False)
            for number in range(20):
                there.put(bytes([number]) * 2000)
            with here.receive(timeout=LIMIT) as delivery:
                assert (delivery.item, delivery.attempt) == ("first", 1)
            for number in range(20):
                with here.receive(timeout=LIMIT) as delivery:
                    assert (delivery.item, delivery.attempt) == (bytes([number]) * 2000, 1)


def test_the_bound_in_bytes_holds_for_items_in_shared_memory() -> None:
    with FarQueue(0, "tcp://127.0.0.1:*", maxbytes=100_000) as queue, sharing(queue) as there:
        assert queue.get(timeout=LIMIT) == "first"
        for _ in range(3):
            put = 0
            with pytest.raises(Full):
                while True:
                    there.put(bytes(9_997), block=False)
                    put += 1
            assert put == 10
            assert queue.counts()["bytes"] == 100_000 <= used(there)
            assert [len(queue.get(timeout=LIMIT)) for _ in range(10)] == [9_997] * 10
        with pytest.raises(ValueError, match="larger than the whole queue"):
            there.put(bytes(100_000))


def test_a_dead_letter_outlives_its_producer_and_the_memory(hosted: FarQueue) -> None:
    letter = os.urandom(20_000)
    there = sharing(hosted)
    with there:
        there.put(letter)
        there.put(b"next" * 1000)
    assert hosted.get(timeout=LIMIT) == "first"
    hosted.receive(timeout=LIMIT).nack()
    assert hosted.get(timeout=LIMIT) == b"next" * 1000
    assert eventually(lambda: hosted.counts()["dead"] == 1)
    [(item, attempts, _)] = hosted.dead_letters()
    assert (item, attempts) == (letter, 1)


def share_and_wait(queue: Any, gate: Connection, items: list[Any]) -> None:
    """Put `items` where they are shared, flush, and live on."""
    made = sharing(queue)
    made.put_many(items)
    made.flush(timeout=LIMIT)
    gate.send(used(made))
    gate.recv()


def hold(queue: Any, gate: Connection, count: int) -> None:
    held = [queue.receive() for _ in range(count)]
    gate.send([delivery.item for delivery in held])
    gate.recv()


def test_what_a_killed_producer_has_flushed_comes_and_its_memory_ends_with_the_last_item(
    queue: FarQueue,
) -> None:
    items = [os.urandom(50_000) for _ in range(40)]
    with mortal(share_and_wait, queue, items) as (process, gate):
        assert told(gate) >= 2_000_000
        process.kill()
        process.join()
        assert [queue.get(timeout=LIMIT) for _ in range(41)] == ["first", *items]


def test_what_a_killed_consumer_held_in_shared_memory_reaches_another(queue: FarQueue) -> None:
    items = [os.urandom(50_000) for _ in range(10)]
    with sharing(queue) as there:
        there.put_many(items)
        with mortal(hold, queue, 5) as (process, gate):
            assert told(gate) == ["first", *items[:4]]
            process.kill()
            process.join()
            assert [queue.get(timeout=LIMIT) for _ in range(11)] == ["first", *items]


def test_what_living_producers_share_survives_the_host(tmp_path: Path) -> None:
    """Given a host that is killed with 9 and started again, twice, I expect each item to come, in order."""
    address = f"ipc://{tmp_path}/queue"
    items = [os.urandom(50_000) for _ in range(40)]
    there = FarQueue.connect(address, wait=LIMIT)
    with ExitStack() as stack:
        for life in range(2):
            with host(address) as process:
                if not life:
                    stack.enter_context(there)
                there.put("first")
                there.flush(timeout=LIMIT)
                assert eventually(lambda: there._end.machine.sender.places)  # type: ignore[union-attr]
                there.put_many(items[20 * life : 20 * life + 20])
                there.flush(timeout=LIMIT)
                assert used(there) > 0
                process.kill()
        with host(address), FarQueue.connect(address) as here:
            found = [here.get(timeout=LIMIT) for _ in range(42)]
            assert [each for each in found if each != "first"] == items


def test_a_forked_child_leaves_what_its_parent_shares(queue: FarQueue) -> None:
    """Given a child that puts while its parent does, I expect both to be whole."""
    parents = [b"parent %d " % number * 1000 for number in range(30)]
    with sharing(queue) as there:
        there.put_many(parents[:15])
        child = FORK.Process(target=put_all, args=(there, 30))
        child.start()
        there.put_many(parents[15:])
        found = [queue.get(timeout=LIMIT) for _ in range(62)]
        child.join()
        assert [each for each in found if each[:6] == b"parent"] == parents
        assert [each for each in found if each[:5] == b"child"] == [
            b"child %d " % number * 1000 for number in range(30)
        ]


def put_all(queue: FarQueue, count: int) -> None:
    with sharing(queue) as made:
        for number in range(count):
            made.put(b"child %d " % number * 1000)


def test_a_put_waits_for_consumers_that_take_and_not_for_others(
    hosted: FarQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a ring that is crowded, I expect one put to wait, and items to be sent until it is eased."""
    monkeypatch.setattr(puts, "CATCH_UP", 0.01)
    waits: list[float] = []
    wait = puts.ProducerCalls._let_consumers_catch_up

    def count(self: Any) -> None:
        waits.append(time.monotonic())
        wait(self)

    monkeypatch.setattr(puts.ProducerCalls, "_let_consumers_catch_up", count)
    with sharing(hosted) as there:
        for number in range(40):
            there.put(bytes([number]) * (1 << 20))
        assert len(waits) == 1
        there.flush(timeout=LIMIT)
        assert 0 < used(there) <= shared_ring.SIZE
        assert hosted.get(timeout=LIMIT) == "first"
        for number in range(40):
            assert hosted.get(timeout=LIMIT) == bytes([number]) * (1 << 20)
        with pytest.raises(Empty):
            hosted.get(block=False)


@pytest.mark.parametrize("size", [10_000, 1 << 20])
def test_a_put_that_must_not_wait_waits_for_no_consumer(
    hosted: FarQueue, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(puts, "CATCH_UP", 3600.0)
    with sharing(hosted) as there:
        for _ in range((20 << 20) // size):
            there.put(bytes(size), block=False)
        for _ in range(10):
            there.put(bytes(size), timeout=LIMIT)
        assert hosted.qsize() == (20 << 20) // size + 11


class Interrupted(Exception):
    """Raised by a signal's handler."""


@pytest.mark.timeout(method="thread")  # SIGALRM, the other method, is for the test
def test_a_put_that_waits_for_consumers_can_be_interrupted(
    hosted: FarQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a signal whose handler raises while a put waits, I expect that put to raise it, and each item to
    be in the queue once."""

    def interrupt(*_: object) -> None:
        raise Interrupted

    monkeypatch.setattr(puts, "CATCH_UP", 3600.0)
    before = signal.signal(signal.SIGALRM, interrupt)
    put = 0
    try:
        with sharing(hosted) as there:
            with pytest.raises(Interrupted):
                while True:
                    if there._end.machine.sender.backlog > producer.EASED:  # type: ignore[union-attr]
                        signal.setitimer(signal.ITIMER_REAL, 0.3)
                    put += 1
                    there.put(put.to_bytes(4, "big") + bytes(1 << 20))
            there.flush(timeout=LIMIT)
            assert hosted.get(timeout=LIMIT) == "first"
            for number in range(1, put + 1):
                assert int.from_bytes(hosted.get(timeout=LIMIT)[:4], "big") == number
            with pytest.raises(Empty):
                hosted.get(block=False)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# -- hostile peers, and suspended ones ---------------------------------------------------------------


class Peers:
    """A broker, with a producer that shares memory, and other clients."""

    def __init__(self, *names: str) -> None:
        self.rings = HostRings()
        self.ledger = Ledger()
        self.machine = BrokerProtocol(self.ledger, {"epoch": "e"}, lease=10.0, rings=self.rings)
        self._numbers = dict.fromkeys(names, 0)
        for name in names:
            self.unnumbered(name, QueueMessageType.HELLO, VERSION, name, {"shares": self.rings.machine})
            self.say(name, QueueMessageType.JOIN, True, False, [], False)

    def unnumbered(self, name: str, kind: QueueMessageType, *fields: Any) -> None:
        self.machine.receive(f"{name}.1", QueueFrame(0, 0, QueueMessage(kind, fields)), 0.0)

    def say(self, name: str, kind: QueueMessageType, *fields: Any, body: Any = None) -> list[QueueMessage]:
        """Send a message; returns what is sent then."""
        self._numbers[name] += 1
        frame = QueueFrame(self._numbers[name], 0, QueueMessage(kind, fields, body))
        self.machine.receive(f"{name}.1", frame, 0.0)
        return [each.envelope.message for each in self.machine.flush(0.0) if isinstance(each, SendTo)]


@pytest.fixture
def own() -> Iterator[OwnRing]:
    ring = OwnRing()
    yield ring
    ring.close()


def test_a_place_is_taken_only_from_the_session_that_announced_its_ring(own: OwnRing) -> None:
    peers = Peers("p", "q")
    place = own.place([b"\xa4item"], 5)
    answer = peers.say("p", QueueMessageType.ASK, 1, "ring", own.reference().encode())
    assert QueueMessage(QueueMessageType.ANSWER, (1, True)) in answer
    peers.say("p", QueueMessageType.PUT, 1, 1, None, body=place)
    assert [(whole(run.body), run.producer) for _, run in peers.ledger.waiting._heap] == [(b"\xa4item", "p")]
    peers.say("q", QueueMessageType.PUT, 1, 1, None, body=place)
    assert peers.machine.table.take_complaints() == [
        "q puts items into shared memory that it did not announce"
    ]
    assert set(peers.machine.peers) == {"p.1"}


def test_a_place_beyond_the_ring_ends_the_session(own: OwnRing) -> None:
    peers = Peers("p")
    peers.say("p", QueueMessageType.ASK, 1, "ring", own.reference().encode())
    peers.say("p", QueueMessageType.PUT, 1, 1, None, body=Place(shared_ring.SIZE - 1000, 2000))
    [complaint] = peers.machine.table.take_complaints()
    assert "2000 bytes at" in complaint
    assert not peers.machine.peers
    assert not peers.ledger.stored


@pytest.mark.parametrize("reference", [None, 5, "token"])
def test_what_is_not_a_ring_is_not_opened(own: OwnRing, reference: Any) -> None:
    peers = Peers("p")
    named = own.reference()._replace(proof=bytes(16)).encode() if reference == "token" else reference
    answers = peers.say("p", QueueMessageType.ASK, 1, "ring", named)
    if reference == "token":
        assert QueueMessage(QueueMessageType.ANSWER, (1, False)) in answers
    else:
        assert peers.machine.table.take_complaints()
    assert not peers.rings._kept


def test_a_client_of_another_machine_announces_nothing(own: OwnRing) -> None:
    peers = Peers("p")
    peers.machine.peers["p.1"].shares = False
    answers = peers.say("p", QueueMessageType.ASK, 1, "ring", own.reference().encode())
    assert QueueMessage(QueueMessageType.ANSWER, (1, False)) in answers


def test_a_ring_ends_with_its_session_and_its_last_item(own: OwnRing) -> None:
    peers = Peers("p")
    peers.say("p", QueueMessageType.ASK, 1, "ring", own.reference().encode())
    peers.say("p", QueueMessageType.PUT, 1, 1, None, body=own.place([b"\xa4item"], 5))
    peers.machine.table.dead("p.1", "killed", 0.0)
    assert len(peers.rings._kept) == 1
    assert [whole(run.body) for run in peers.ledger.waiting.clear()] == [b"\xa4item"]
    assert len(peers.rings._kept) == 0
    assert list(peers.rings.ended) == [1]


def lent(own: OwnRing, items: list[Any]) -> tuple[ItemReceiver, list[Place], Any]:
    """A receiver with the `items` in its buffer, in shared memory, and their places."""
    kept = HostRings().keep(own.reference())
    assert kept is not None
    receiver, places = ItemReceiver(trusted=True), []
    assert receiver.rings.open(kept.number, kept.reference())
    for number, each in enumerate(items, 1):
        body = item_codec.encode(each, trusted=True)
        place = own.place([body], len(body))
        assert place is not None
        places.append(place)
        receiver.lend(number, 1, 1, KeptBody(kept, Place(place.start, place.size, kept.number)).place)
    return receiver, places, kept


@pytest.mark.parametrize("large", [b"old" * 1000, ["old"] * 1000], ids=["bytes", "list"])
def test_a_consumer_drops_what_was_overwritten_while_it_was_suspended(own: OwnRing, large: Any) -> None:
    """Given a consumer that was suspended until others had had its items, and their places were used for
    others, I expect it to drop these, to raise nothing, and to go on with the next."""
    receiver, places, _kept = lent(own, [large, large, "next"])
    for place in places[:2]:
        own.give_back(place)
    while own.place([b"new" * 1000], 3000):
        pass
    taken = receiver.take(7, 0.0)
    assert taken is not None
    assert (taken.item, taken.position) == ("next", 3)
    assert receiver.take(7, 0.0) is None
    report = receiver.report(0.0)
    assert report is not None
    *_, unreadable, returned, _ = report.fields
    assert unreadable == [[1, 1], [2, 2]]
    assert not returned
    receiver.rings.close()


def test_a_consumer_gives_back_what_it_cannot_open_and_says_so(own: OwnRing) -> None:
    receiver, _, kept = lent(own, ["one", "two"])
    receiver.rings.end(kept.number)
    assert not receiver.at_hand()
    assert receiver.blind
    report = receiver.report(0.0)
    assert report is not None
    assert report.fields[7] == [[1, 1], [2, 2]]


def test_an_item_that_cannot_be_unpickled_raises_as_if_it_had_been_sent(own: OwnRing) -> None:
    pickled = item_codec.encode({3 + 4j}, trusted=True)
    receiver, _, _kept = lent(own, [])
    broken = pickled[:-1] + b"?"
    place = own.place([broken], len(broken))
    assert place is not None
    receiver.lend(1, 1, 1, Place(place.start, place.size, _kept.number))
    with pytest.raises(Exception, match=r"pickle|opcode|load|stack"):
        receiver.take(7, 0.0)
    receiver.rings.close()


def suspend(queue: Any, gate: Connection) -> None:
    """Take items and name them, slowly enough that more of them wait in the buffer."""
    for each in queue:
        gate.send(each[:4])
        gate.recv()


def test_a_frozen_consumer_reads_nothing_that_is_not_its_own() -> None:
    """Given a consumer that is frozen for longer than its lease, while its items go to another and their
    places are used again and again, I expect each item that it then names to be one that was put."""
    blocks = [bytes([number]) * 4 + os.urandom(400_000) for number in range(120)]
    with (
        FarQueue(0, "tcp://127.0.0.1:*", lease=1.0) as queue,
        sharing(queue) as there,
        mortal(suspend, queue) as (process, gate),
    ):
        assert told(gate) == "first"[:4]
        there.put_many(blocks[:4])
        gate.send("on")
        assert told(gate) == blocks[0][:4]
        freeze(process.pid)
        assert [queue.get(timeout=LIMIT)[:4] for _ in range(4)]
        for each in blocks[4:]:
            there.put(each)
            queue.get(timeout=LIMIT)
        os.kill(process.pid, signal.SIGCONT)
        gate.send("on")
        there.put_many(blocks[:2])
        assert told(gate) in {each[:4] for each in blocks}


def test_many_processes_and_kills_lose_nothing_that_was_flushed(queue: FarQueue) -> None:
    """Given producers that are killed after a flush, and consumers that are killed with items in hand, at
    random moments, I expect each flushed item at least once, whole."""
    dice = random.Random(12)
    expected: set[bytes] = set()
    found: deque[Any] = deque()
    for _ in range(4):
        items = [dice.randbytes(dice.choice([3_000, 60_000, 200_000])) for _ in range(12)]
        with mortal(share_and_wait, queue, items) as (process, gate):
            assert told(gate)
            expected |= set(items)
            with mortal(hold, queue, dice.randrange(1, 6)) as (consumer, held):
                told(held)
                (process if dice.random() < 0.5 else consumer).kill()
                (consumer if dice.random() < 0.5 else process).kill()
    while expected - set(found):
        found.append(queue.get(timeout=LIMIT))
    assert set(found) - expected <= {"first"}


def put_numbers(queue: Any) -> None:
    """Put numbered items of any size for ever."""
    dice = random.Random(1)
    made = FarQueue._reach(queue._place, queue._access, LIMIT)
    for number in range(1_000_000):
        made.put(number.to_bytes(4, "big") * dice.choice([1, 100, 3_000, 70_000]))


def number_in(item: bytes) -> int:
    """The number of an item, which must be whole."""
    assert item == item[:4] * (len(item) // 4)
    return int.from_bytes(item[:4], "big")


@pytest.mark.parametrize("seed", range(4))
def test_a_producer_that_is_killed_at_any_moment_leaves_whole_items_in_order(
    queue: FarQueue, seed: int
) -> None:
    dice = random.Random(seed)
    child = FORK.Process(target=put_numbers, args=(queue,))
    child.start()
    taken = dice.randrange(1, 400)
    assert [number_in(queue.get(timeout=LIMIT)) for _ in range(taken)] == list(range(taken))
    child.kill()
    child.join()
    assert eventually(lambda: queue.counts()["producers"] == 0)
    for number in range(taken, taken + queue.qsize()):
        assert number_in(queue.get(timeout=LIMIT)) == number
    with pytest.raises(Empty):
        queue.get(block=False)


@pytest.mark.parametrize("seed", range(2))
def test_a_host_that_is_killed_at_any_moment_costs_no_item_of_a_live_producer(
    tmp_path: Path, seed: int
) -> None:
    """I expect each item to come whole, for the first time in order; some come again."""
    dice = random.Random(seed)
    address = f"ipc://{tmp_path}/queue"
    there, here = FarQueue.connect(address, wait=LIMIT), FarQueue.connect(address, wait=LIMIT)
    found: dict[int, None] = {}
    put = 0
    with ExitStack() as stack:
        for _ in range(3):
            with host(address) as process:
                if not put:
                    stack.enter_context(there)
                    stack.enter_context(here)
                more = dice.randrange(20, 120)
                for number in range(put, put + more):
                    there.put(number.to_bytes(4, "big") * dice.choice([1, 100, 3_000, 70_000]))
                put += more
                upto = dice.randrange(len(found), put)
                while len(found) < upto:
                    found[number_in(here.get(timeout=LIMIT))] = None
                process.kill()
        with host(address):
            while len(found) < put:
                found[number_in(here.get(timeout=LIMIT))] = None
            assert list(found) == list(range(put))
