"""The broker's side towards producers: room is granted as it is requested."""

from __future__ import annotations

import pytest

from nearfar.queues.broker.ledger import Ledger
from nearfar.queues.broker.protocol import BrokerProtocol
from nearfar.queues.broker.sessions import SendTo
from nearfar.queues.messages import VERSION, QueueFrame, QueueMessage, QueueMessageType

pytestmark = pytest.mark.pure


class Ends:
    """A `BrokerProtocol`, and its messages to each session."""

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
        """Ask for bytes, in total since the session began; returns the bytes that are then granted."""
        heard = self.say(name, QueueMessageType.NEED, 1, size, least, returned, returned, ask)
        return sum(m.fields[1] for m in heard.get(name, []) if m.kind is QueueMessageType.ROOM)

    def put(self, name: str, first: int, size: int) -> dict[str, list[QueueMessage]]:
        """Put an item of so many bytes."""
        return self.say(name, QueueMessageType.PUT, first, 1, None, body=bytes(size))


def test_who_asks_alone_gets_room_ahead_while_there_is_plenty() -> None:
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


def test_room_ahead_comes_back_when_another_waits_for_room() -> None:
    """Given a bound of 4, and a producer that was granted 2 ahead and put nothing of it,

    If another asks for 4,
    I expect it to get what is free, and the first to be asked to give back what it does not use; and that to
    go to the other.
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


def test_nobody_is_asked_to_give_back_who_waits_for_room() -> None:
    ends = Ends(8, "a", "b")
    ends.say("a", QueueMessageType.NEED, 1, 0, 0, 0, 0, 0)
    ends.say("a", QueueMessageType.NEED, 20, 0, 0, 0, 0, 0)
    heard = ends.say("b", QueueMessageType.NEED, 20, 0, 0, 0, 0, 0)
    assert not [m for said in heard.values() for m in said if m.kind is QueueMessageType.SYNC]


# -- bytes ---------------------------------------------------------------------------------------------


def test_what_a_larger_item_lacks_is_granted_though_no_more_items_are_asked_for() -> None:
    ends = Ends(0, "p", "q", maxbytes=100)
    assert ends.need("p", 10, 10) == 10 + 90 // 4
    assert ends.need("p", 50, 50) == 18 + 50 // 4


def test_the_next_item_is_granted_or_nothing() -> None:
    """Given 40 bytes that are free, of 100,

    If a producer asks for 90, and its next item has 50, I expect nothing; if that has 30, I expect the 40.
    """
    ends = Ends(0, "p", "other", maxbytes=100)
    assert ends.need("other", 60, 60) == 60 + 40 // 4
    ends.put("other", 1, 60)
    assert ends.need("other", 60, 0, returned=10) == 0
    assert ends.need("p", 90, 50) == 0
    assert ends.need("p", 90, 30) == 40


def test_two_that_wait_never_hold_what_the_other_needs() -> None:
    """Given two producers that were granted room ahead, and each an item that fits into all of the queue,

    If both ask for room for it, and return what they have,
    I expect the first to get all, and the second once that is used and taken.
    """
    ends = Ends(0, "a", "b", maxbytes=100)
    got = {name: ends.need(name, 1, 1) for name in ("a", "b")}
    assert got["a"] > 1 and got["b"] > 1
    assert ends.need("a", 100, 100, returned=got["a"]) == 0
    heard = ends.say("b", QueueMessageType.NEED, 1, 100, 100, got["b"], got["b"], 0)
    assert [m.fields[1] for m in heard["a"] if m.kind is QueueMessageType.ROOM] == [100]
    assert ends.machine.ledger.room()[1] == 0


def test_a_small_item_passes_a_large_one_that_waits_but_not_for_ever() -> None:
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


def test_room_that_came_too_late_is_asked_back_for_another() -> None:
    """Given a producer that was granted what it had asked for just as it gave up,

    If another waits for that room,
    I expect the first to be asked for it.
    """
    ends = Ends(0, "late", "p", maxbytes=100)
    assert ends.need("late", 100, 100) == 100
    assert ends.need("late", 0, 0) == 0  # it has withdrawn its put; the room is on its way to it
    heard = ends.say("p", QueueMessageType.NEED, 1, 40, 40, 0, 0, 0)
    (sync,) = [m for m in heard["late"] if m.kind is QueueMessageType.SYNC]
    heard = ends.say("late", QueueMessageType.SYNCED, sync.fields[0], 100, 100)
    assert next(m.fields[1] for m in heard["p"] if m.kind is QueueMessageType.ROOM) >= 40
