"""The host's side towards producers: room is granted as it is asked for."""

from __future__ import annotations

from nearfar.queues.host.ledger import Ledger
from nearfar.queues.host.machine import HostMachine
from nearfar.queues.host.peers import Send
from nearfar.queues.wire import VERSION, Envelope, Kind, Message


def test_bytes_are_granted_though_no_more_items_are_asked_for() -> None:
    """Given a producer that has room for an item of 10 bytes, because one gave up,

    If it asks for 20 bytes more, for a larger one,
    I expect it to get them: it would wait for ever.
    """
    machine = HostMachine(Ledger(maxbytes=100), {}, lease=10.0)
    said = [
        Envelope(0, 0, Message(Kind.HELLO, (VERSION, "p", {}))),
        Envelope(1, 0, Message(Kind.JOIN, (True, False, [], False))),
        Envelope(2, 0, Message(Kind.NEED, (1, 10, 0))),
        Envelope(3, 0, Message(Kind.NEED, (1, 30, 0))),
    ]
    for envelope in said:
        machine.receive("p.1", envelope, 0.0)
    sent = [action.envelope.message for action in machine.flush(0.0) if isinstance(action, Send)]
    assert [m.fields for m in sent if m.kind is Kind.ROOM] == [(1, 10), (0, 20)]
    assert machine.ledger.room()[1] == 70
