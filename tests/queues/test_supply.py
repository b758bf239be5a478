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


class Ends:
    """A host's machine, and what it says to each session."""

    def __init__(self, maxsize: int, *names: str) -> None:
        self.machine = HostMachine(Ledger(maxsize), {}, lease=10.0)
        self._sent = dict.fromkeys(names, 0)
        for name in names:
            hello = Message(Kind.HELLO, (VERSION, name, {}))
            self.machine.receive(f"{name}.1", Envelope(0, 0, hello), 0.0)
            self.say(name, Kind.JOIN, True, False, [], False)

    def say(
        self, name: str, kind: Kind, *fields: object, body: bytes | None = None
    ) -> dict[str, list[Message]]:
        """Say it, and tell what is said to whom because of it."""
        self._sent[name] += 1
        envelope = Envelope(self._sent[name], 0, Message(kind, fields, body))
        self.machine.receive(f"{name}.1", envelope, 0.0)
        heard: dict[str, list[Message]] = {}
        for action in self.machine.flush(0.0):
            if isinstance(action, Send):
                heard.setdefault(action.session[:-2], []).append(action.envelope.message)
        return heard


def test_who_asks_alone_gets_room_ahead_while_there_is_plenty() -> None:
    ends = Ends(100, "p")
    (room,) = [m for m in ends.say("p", Kind.NEED, 1, 0, 0)["p"] if m.kind is Kind.ROOM]
    assert room.fields == (1 + 99 // 2, 0)
    assert ends.machine.ledger.room()[0] == 50


def test_room_ahead_comes_back_when_another_waits_for_room() -> None:
    """Given a bound of 4, and a producer that was granted 2 ahead and put nothing of it,

    If another asks for 4,
    I expect it to get what is free, and the first to be asked to give back what it does not use; and that to
    go to the other.
    """
    ends = Ends(4, "idle", "p")
    assert ends.say("idle", Kind.NEED, 1, 0, 0)["idle"][-1].fields == (1, 0)  # 3 // 4 ahead: none
    ends = Ends(8, "idle", "p")
    assert ends.say("idle", Kind.NEED, 1, 0, 0)["idle"][-1].fields == (2, 0)
    heard = ends.say("p", Kind.NEED, 8, 0, 0)
    assert heard["p"][-1].fields == (6, 0)
    (sync,) = [m for m in heard["idle"] if m.kind is Kind.SYNC]
    heard = ends.say("idle", Kind.SYNCED, sync.fields[0], 2, 0)
    assert heard["p"][-1] == Message(Kind.ROOM, (2, 0))
    assert ends.machine.ledger.room()[0] == 0


def test_nobody_is_asked_to_give_back_who_waits_for_room() -> None:
    ends = Ends(8, "a", "b")
    ends.say("a", Kind.NEED, 1, 0, 0)
    ends.say("a", Kind.NEED, 20, 0, 0)
    heard = ends.say("b", Kind.NEED, 20, 0, 0)
    assert not [m for said in heard.values() for m in said if m.kind is Kind.SYNC]
