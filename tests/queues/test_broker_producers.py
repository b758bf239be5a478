"""The broker's side towards producers: room is granted as it is requested."""

from __future__ import annotations

import pytest

from nearfar.net.session import SendTo
from nearfar.queues.broker.ledger import Ledger
from nearfar.queues.broker.protocol import BrokerProtocol
from nearfar.queues.messages import VERSION, QueueFrame, QueueMessage, QueueMessageType

pytestmark = pytest.mark.pure


class Ends:
    """A `BrokerProtocol`, and the messages that it sends to each session."""

    def __init__(self, maxsize: int, *names: str, maxbytes: int = 0) -> None:
        self.machine = BrokerProtocol(Ledger(maxsize, maxbytes), {}, lease=10.0)
        self._sent = dict.fromkeys(names, 0)
        for name in names:
            hello = QueueMessage(QueueMessageType.HELLO, (VERSION, name, {}))
            self.machine.receive(f"{name}.1", QueueFrame(0, 0, hello), 0.0)
            self.say(name, QueueMessageType.JOIN, True, False, [], False)

    def say(
        self, name: str, kind: QueueMessageType, *fields: object, body: bytes | None = None
    ) -> dict[str, list[QueueMessage]]:
        """Send it; returns the messages sent in response, and their receivers."""
        self._sent[name] += 1
        envelope = QueueFrame(self._sent[name], 0, QueueMessage(kind, fields, body))
        self.machine.receive(f"{name}.1", envelope, 0.0)
        heard: dict[str, list[QueueMessage]] = {}
        for action in self.machine.flush(0.0):
            if isinstance(action, SendTo):
                heard.setdefault(action.session[:-2], []).append(action.envelope.message)
        return heard

    def need(self, name: str, size: int, least: int, returned: int = 0, ask: int = 0) -> int:
        """Request bytes, in total since the session began; returns the bytes granted then."""
        heard = self.say(name, QueueMessageType.NEED, 1, size, least, returned, returned, ask)
        return sum(m.fields[1] for m in heard.get(name, []) if m.kind is QueueMessageType.ROOM)

    def put(self, name: str, first: int, size: int) -> dict[str, list[QueueMessage]]:
        """Put an item of so many bytes."""
        return self.say(name, QueueMessageType.PUT, first, 1, None, body=bytes(size))


def test_a_single_producer_gets_credit_ahead_while_there_is_room() -> None:
    ends = Ends(100, "p")
    (room,) = [
        m
        for m in ends.say("p", QueueMessageType.NEED, 1, 0, 0, 0, 0, 0)["p"]
        if m.kind is QueueMessageType.ROOM
    ]
    assert room.fields == (100, 0)
    assert ends.machine.ledger.room()[0] == 0


def test_who_puts_gets_more_room_before_it_asks_again() -> None:
    """Given a producer that was granted room ahead, and has put more than a quarter of it,

    If consumers take that, I expect as much room to be granted anew; not if another producer waits for room.
    """
    ends = Ends(100, "p")
    ends.say("p", QueueMessageType.NEED, 1, 0, 0, 0, 0, 0)
    ends.say("p", QueueMessageType.PUT, 1, 40, None, body=bytes(40))
    assert ends.machine.ledger.room()[0] == 0
    ends.machine.ledger.size -= 40  # as if they were taken
    (room,) = [action.envelope.message for action in ends.machine.flush(0.0) if isinstance(action, SendTo)]
    assert room == QueueMessage(QueueMessageType.ROOM, (40, 0))


def test_credit_ahead_is_recalled_when_another_producer_waits() -> None:
    """Given a bound of 4, and a producer with unused credit for 2 items,

    If another requests 4, I expect it to get what is free, the first to be asked to return its unused credit,
    and that to go to the other.
    """
    ends = Ends(4, "idle", "p")
    assert ends.say("idle", QueueMessageType.NEED, 1, 0, 0, 0, 0, 0)["idle"][-1].fields == (
        1,
        0,
    )  # 3 // 4 ahead: none
    ends = Ends(8, "idle", "p")
    assert ends.say("idle", QueueMessageType.NEED, 1, 0, 0, 0, 0, 0)["idle"][-1].fields == (2, 0)
    heard = ends.say("p", QueueMessageType.NEED, 8, 0, 0, 0, 0, 0)
    assert heard["p"][-1].fields == (6, 0)
    (sync,) = [m for m in heard["idle"] if m.kind is QueueMessageType.SYNC]
    heard = ends.say("idle", QueueMessageType.SYNCED, sync.fields[0], 2, 0)
    assert heard["p"][-1] == QueueMessage(QueueMessageType.ROOM, (2, 0))
    assert ends.machine.ledger.room()[0] == 0


def test_a_waiting_producer_is_not_asked_to_return_credit() -> None:
    ends = Ends(8, "a", "b")
    ends.say("a", QueueMessageType.NEED, 1, 0, 0, 0, 0, 0)
    ends.say("a", QueueMessageType.NEED, 20, 0, 0, 0, 0, 0)
    heard = ends.say("b", QueueMessageType.NEED, 20, 0, 0, 0, 0, 0)
    assert not [m for said in heard.values() for m in said if m.kind is QueueMessageType.SYNC]


# -- bytes ---------------------------------------------------------------------------------------------


def test_missing_bytes_of_a_larger_item_are_granted_without_a_request_for_items() -> None:
    ends = Ends(0, "p", "q", maxbytes=100)
    assert ends.need("p", 10, 10) == 10 + 90 // 4
    assert ends.need("p", 50, 50) == 18 + 50 // 4


def test_credit_is_granted_for_the_next_item_or_not_at_all() -> None:
    """Given 40 bytes that are free, of 100,

    If a producer asks for 90, and its next item has 50, I expect nothing; if that has 30, I expect the 40.
    """
    ends = Ends(0, "p", "other", maxbytes=100)
    assert ends.need("other", 60, 60) == 60 + 40 // 4
    ends.put("other", 1, 60)
    assert ends.need("other", 60, 0, returned=10) == 0
    assert ends.need("p", 90, 50) == 0
    assert ends.need("p", 90, 30) == 40


def test_two_waiting_producers_never_hold_each_others_credit() -> None:
    """Given two producers with credit ahead, and each with an item as large as the whole queue,

    If both request credit for it, and return what they have, I expect the first to get all, and the second to
    get it once that item was taken.
    """
    ends = Ends(0, "a", "b", maxbytes=100)
    got = {name: ends.need(name, 1, 1) for name in ("a", "b")}
    assert got["a"] > 1 and got["b"] > 1
    assert ends.need("a", 100, 100, returned=got["a"]) == 0
    heard = ends.say("b", QueueMessageType.NEED, 1, 100, 100, got["b"], got["b"], 0)
    assert [m.fields[1] for m in heard["a"] if m.kind is QueueMessageType.ROOM] == [100]
    assert ends.machine.ledger.room()[1] == 0


def test_small_items_overtake_a_waiting_large_one_but_not_indefinitely() -> None:
    """Given a queue of 100 bytes with 60 in it, and a producer that waits for 50,

    If others put items of 10, and consumers take as much, again and again,
    I expect those to pass until they had as much as the whole queue may have; then the large one to be next.
    """
    ends = Ends(0, "large", "small", maxbytes=100)
    ends.need("small", 60, 60)
    ends.put("small", 1, 60)
    ends.need("small", 60, 0, returned=10)
    assert ends.need("large", 50, 50) == 0
    passed = 0
    while ends.need("small", 70 + passed, 70 + passed) == 10:
        passed += 10
        ends.put("small", 1 + passed, 10)
        assert passed <= 100
        ends.machine.ledger.size_bytes = 60  # as much was taken as was put
    assert passed == 100


def test_credit_that_was_granted_too_late_is_recalled_for_another() -> None:
    """Given a producer that received the requested credit just as it gave up,

    If another waits for that credit, I expect it to be recalled from the first.
    """
    ends = Ends(0, "late", "p", maxbytes=100)
    assert ends.need("late", 100, 100) == 100
    assert ends.need("late", 0, 0) == 0  # it has withdrawn its put; the room is on its way to it
    heard = ends.say("p", QueueMessageType.NEED, 1, 40, 40, 0, 0, 0)
    (sync,) = [m for m in heard["late"] if m.kind is QueueMessageType.SYNC]
    heard = ends.say("late", QueueMessageType.SYNCED, sync.fields[0], 100, 100)
    assert next(m.fields[1] for m in heard["p"] if m.kind is QueueMessageType.ROOM) >= 40
