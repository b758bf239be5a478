"""When a client reports takes to its broker: after a moment, with more of them, or at once if needed."""

from __future__ import annotations

from typing import Any

import pytest

from nearfar.net.session import SendMessage
from nearfar.queues.client.consumer import LINGER, PAUSE
from nearfar.queues.client.protocol import ClientProtocol
from nearfar.queues.messages import QueueFrame, QueueMessage, QueueMessageType
from nearfar.serialization import item_codec
from tests.queues.test_suspension import ABOUT

pytestmark = pytest.mark.pure


class Consumer:
    """A client with a lane, which received the answer for it at second 1."""

    def __init__(self, **about: Any) -> None:
        self.now = 1.0
        self.heard = 0
        self.machine = ClientProtocol("end", {})
        self.machine.roles.consumes = True
        self.machine.connect(self.now)
        welcome = QueueMessage(QueueMessageType.WELCOME, (self.machine.session_name, {**ABOUT, **about}))
        self.machine.receive(QueueFrame(0, 0, welcome), self.now)
        asked = next(each for each in self.flush() if each.kind is QueueMessageType.ASK)
        self.hear(QueueMessageType.ANSWER, asked.fields[0], 4000)
        for _ in range(50):  # a quick program
            self.machine.receiver._pace.untimed += 1
            self.now += 0.001
            self.machine.receiver._pace.time(self.now)
        self.machine.receiver.waiters = 1
        assert QueueMessageType.REPORT in self.kinds()

    def hear(self, kind: QueueMessageType, *fields: Any, body: bytes | None = None) -> None:
        self.heard += 1
        self.machine.receive(QueueFrame(self.heard, 0, QueueMessage(kind, fields, body)), self.now)

    def lend_and_take(self, count: int = 1) -> None:
        receiver = self.machine.receiver
        body = item_codec.encode(1, trusted=False) * count
        self.hear(QueueMessageType.LEND, receiver._last + 1, count, 1, body=body)
        for _ in range(count):
            receiver.done_by(1)
            self.now += 0.0001
            assert receiver.take(1, self.now) is not None

    def flush(self) -> list[QueueMessage]:
        sent = [
            each.envelope.message for each in self.machine.flush(self.now) if isinstance(each, SendMessage)
        ]
        return [message for message in sent if message.kind is not QueueMessageType.HEARTBEAT]

    def kinds(self) -> list[QueueMessageType]:
        return [message.kind for message in self.flush()]


def test_a_take_is_reported_after_a_short_delay() -> None:
    consumer = Consumer()
    for _ in range(3):
        consumer.lend_and_take()
        assert consumer.kinds() == []
    assert consumer.machine.deadline(consumer.now) <= consumer.now + LINGER
    consumer.now += LINGER
    consumer.machine.tick(consumer.now)
    (told,) = consumer.flush()
    assert told.fields[3] == 3
    assert told.fields[4] == [[1, 2]]


def test_constant_news_are_reported_regularly() -> None:
    consumer, told = Consumer(), 0
    began = consumer.now
    for _ in range(300):
        consumer.now += 0.001
        consumer.lend_and_take()
        told += len(consumer.kinds())
    assert told <= (consumer.now - began) / LINGER + 1
    assert told >= (consumer.now - began) / LINGER / 2


@pytest.mark.parametrize("about", [{"maxsize": 8}, {"maxbytes": 8}])
def test_takes_are_reported_at_once_if_puts_wait(about: dict[str, int]) -> None:
    consumer = Consumer(**about)
    consumer.lend_and_take()
    assert consumer.kinds() == [QueueMessageType.REPORT]


def test_many_takes_are_reported_at_once() -> None:
    consumer = Consumer()
    consumer.lend_and_take(50)
    assert consumer.kinds() == [QueueMessageType.REPORT]


def test_everything_is_reported_before_a_question_and_before_the_goodbye() -> None:
    consumer = Consumer()
    consumer.lend_and_take()
    consumer.machine.asks.add(QueueMessageType.ASK, "size")
    assert consumer.kinds() == [QueueMessageType.REPORT, QueueMessageType.ASK]
    consumer.lend_and_take()
    consumer.hear(QueueMessageType.SYNC, 1, False)
    assert consumer.kinds() == [QueueMessageType.REPORT, QueueMessageType.SYNCED]
    consumer.lend_and_take()
    consumer.machine.leave()
    assert consumer.kinds() == [QueueMessageType.REPORT, QueueMessageType.BYE]


def test_it_is_reported_at_once_that_all_items_are_settled() -> None:
    """Given two unacknowledged items, I expect no report when one is done, and both when the other is."""
    consumer = Consumer()
    consumer.hear(QueueMessageType.LEND, 1, 2, 1, body=item_codec.encode(1, trusted=False) * 2)
    receiver = consumer.machine.receiver
    for _ in range(2):
        receiver.take(1, consumer.now)
    consumer.flush()
    receiver.done(1)
    assert consumer.kinds() == []
    receiver.done(2)
    (told,) = consumer.flush()
    assert told.fields[4] == [[1, 2]]


def test_a_smaller_window_is_reported_when_one_of_two_waiting_calls_ends() -> None:
    """Given two waiting calls, and one of them gone, I expect that to be reported, and then nothing due."""
    consumer = Consumer()
    consumer.now += PAUSE
    consumer.machine.receiver.waiters = 2
    assert consumer.kinds() == [QueueMessageType.REPORT]
    consumer.machine.receiver.waiters = 1
    consumer.now += PAUSE
    (told,) = consumer.flush()
    assert told.fields[0] == 1
    assert consumer.machine.session is not None
    assert consumer.machine.deadline(consumer.now) > consumer.now
