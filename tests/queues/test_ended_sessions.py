"""A client whose session has ended: others get its items, and its reports are only counted."""

from __future__ import annotations

from typing import Any

import pytest

from nearfar.queues.client.protocol import ClientProtocol
from nearfar.queues.messages import QueueFrame, QueueMessage, QueueMessageType
from nearfar.serialization import item_codec

pytestmark = pytest.mark.pure

FACTS: dict[str, Any] = {
    "epoch": "first",
    "inbox": 1,
    "lease": 10.0,
    "maxbytes": 0,
    "maxsize": 0,
    "shut": False,
    "stored": 0,
    "trusted": False,
    "ticket": "t",
}


def hear(
    machine: ClientProtocol, number: int, kind: QueueMessageType, *fields: Any, body: bytes | None = None
) -> None:
    machine.receive(QueueFrame(number, 0, QueueMessage(kind, fields, body)), 0.0)


def welcome(machine: ClientProtocol) -> None:
    hear(machine, 0, QueueMessageType.WELCOME, machine.session_name, FACTS)


def holding(first: str, *buffered: str) -> ClientProtocol:
    """A client whose program holds `first`, with the others in its buffer."""
    machine = ClientProtocol("end", {})
    machine.roles.consumes = True
    machine.connect(0.0)
    welcome(machine)
    machine.flush(0.0)
    hear(machine, 1, QueueMessageType.ANSWER, 1, 2)
    items = (first, *buffered)
    body = b"".join(item_codec.encode(item, trusted=False) for item in items)
    hear(machine, 2, QueueMessageType.LEND, 1, len(items), 1, body=body)
    machine.receiver.take(7, 0.0)
    return machine


def test_buffered_items_of_an_ended_session_are_not_taken() -> None:
    """Otherwise it would get a position of the next session, and settle another item."""
    machine = holding("a", "b", "c")
    hear(machine, 0, QueueMessageType.STRANGER)
    assert machine.receiver.buffered == 0
    assert machine.receiver.take(7, 0.0) is None


def test_positions_of_two_sessions_are_distinguished() -> None:
    machine = holding("a", "b")
    before = machine.receiver.take(7, 0.0)
    hear(machine, 0, QueueMessageType.STRANGER)
    welcome(machine)
    hear(machine, 1, QueueMessageType.LEND, 1, 1, 1, body=item_codec.encode("c", trusted=False))
    after = machine.receiver.take(7, 0.0)
    assert before is not None
    assert after is not None
    assert (before.session, after.session) == (1, 2)
