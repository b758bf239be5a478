"""A server's sessions: one for each peer, replaced, ended and answered as the protocol says."""

from __future__ import annotations

import pytest

from nearfar.net.reliable import Frame, ReliableChannel
from nearfar.net.session import AHEAD_OF_ALL, ServerSession, SessionEnd, SessionTable

pytestmark = pytest.mark.pure

LEASE = 10.0
Session = ServerSession[str]


class Server:
    """An owner of a table that notes how sessions end."""

    def __init__(self, most: int = 10) -> None:
        self.ended: list[tuple[str, str, SessionEnd]] = []
        self.table: SessionTable[Session, str] = SessionTable(
            LEASE, most, "REFUSED: {}".format, "STRANGER", self._end
        )

    def greet(self, name: str, uid: str, now: float = 0.0) -> Session | None:
        if not self.table.admit(name, uid, now):
            return None
        session = Session(name, uid, ReliableChannel(LEASE, now, "BEAT", len))
        self.table.add(session)
        self.table.touched[name] = session
        return session

    def send(self, session: Session, message: str, now: float = 0.0) -> None:
        session.channel.send(message, now)
        self.table.touched[session.name] = session

    def hear(self, session: Session, number: int, ack: int, now: float) -> None:
        session.channel.hear(Frame(number, ack, "word"), now)
        self.table.touched[session.name] = session

    def said(self, now: float = 0.0) -> list[tuple[str, str]]:
        return [(action.session, action.envelope.message) for action in self.table.flush(now)]

    def _end(self, session: Session, why: str, how: SessionEnd, now: float) -> None:
        self.table.remove(session)
        self.ended.append((session.name, why, how))


def opened(server: Server, name: str, uid: str, now: float = 0.0) -> Session:
    session = server.greet(name, uid, now)
    assert session is not None
    return session


def test_a_new_session_of_a_peer_replaces_its_earlier_one() -> None:
    server = Server(most=1)
    opened(server, "peer.x.1", "peer")
    later = opened(server, "peer.x.2", "peer")
    assert server.ended == [("peer.x.1", "it began a new session", SessionEnd.REPLACED)]
    assert server.table.sessions == {"peer.x.2": later} and server.table.of("peer") is later


def test_another_peer_cannot_take_over_a_name() -> None:
    server = Server()
    session = opened(server, "peer.x.1", "peer")
    assert server.greet("thief.y.1", "peer") is None
    assert server.said() == [("thief.y.1", "REFUSED: another peer has this name")]
    assert server.table.of("peer") is session and not server.ended
    assert server.table.figures()["refused"] == 1


def test_no_more_sessions_than_allowed_are_open() -> None:
    server = Server(most=2)
    for uid in ("a", "b", "c"):
        server.greet(f"{uid}.x.1", uid)
    assert list(server.table.sessions) == ["a.x.1", "b.x.1"]
    [(name, why)] = server.said()
    assert name == "c.x.1" and "as many as there may be" in why
    server.table.dead("a.x.1", "process 1 ended", 0.0)
    assert opened(server, "c.x.1", "c") is server.table.of("c")


def test_a_peer_that_breaks_the_protocol_loses_its_session_and_is_told() -> None:
    server = Server()
    opened(server, "peer.x.1", "peer")
    server.table.give_up("peer.x.1", "two and two is five", 0.0)
    assert server.ended == [("peer.x.1", "it broke the protocol", SessionEnd.LOST)]
    assert server.said() == [("peer.x.1", "REFUSED: it broke the protocol: two and two is five")]
    assert server.table.take_complaints() == ["two and two is five"] and not server.table.take_complaints()
    assert server.table.figures() == {"malformed": 1, "nameless": 0, "refused": 1}


def test_a_peer_that_begins_anew_is_told_that_it_has_no_session() -> None:
    server = Server()
    opened(server, "peer.x.1", "peer").renews = True
    server.table.give_up("peer.x.1", "two and two is five", 0.0)
    assert server.said() == [("peer.x.1", "STRANGER")] and server.ended[0][2] is SessionEnd.LOST


def test_an_expelled_peer_is_told_and_a_dead_one_is_not() -> None:
    server = Server()
    for uid in ("a", "b"):
        opened(server, f"{uid}.x.1", uid)
    server.table.expel("a.x.1", "its key was revoked", 0.0)
    server.table.dead("b.x.1", "process 1 ended", 0.0)
    server.table.dead("nobody.x.1", "process 2 ended", 0.0)
    assert server.ended == [
        ("a.x.1", "its key was revoked", SessionEnd.DIED),
        ("b.x.1", "process 1 ended", SessionEnd.DIED),
    ]
    assert server.said() == [("a.x.1", "STRANGER")]


def test_what_a_session_has_to_send_is_sent_though_it_has_ended() -> None:
    server = Server()
    session = opened(server, "peer.x.1", "peer")
    server.send(session, "PART")
    server.table.dead("peer.x.1", "it left", 0.0, SessionEnd.LEFT)
    assert server.said() == [("peer.x.1", "PART")]
    assert not server.said(99.0)


def test_a_silent_peer_is_lost_after_a_lease_and_a_heard_one_is_not() -> None:
    server = Server()
    opened(server, "silent.x.1", "silent")
    lively = opened(server, "lively.x.1", "lively")
    server.said()
    for second in range(1, 10):
        server.hear(lively, 0, 0, float(second))
        server.table.tick(float(second))
        server.said(float(second))
    assert not server.ended
    server.table.tick(10.0)
    assert server.ended == [("silent.x.1", "it was silent for 10 s", SessionEnd.LOST)]


def test_the_servers_own_suspension_is_not_silence_of_its_peers() -> None:
    server = Server()
    opened(server, "peer.x.1", "peer")
    server.said()
    assert server.table.tick(100.0) == pytest.approx(100.0)
    assert not server.ended
    server.said(100.0)
    for now in (104.0, 108.0):
        assert server.table.tick(now) == 0.0
        server.said(now)
    server.table.tick(110.5)
    assert [how for *_, how in server.ended] == [SessionEnd.LOST]


def test_what_a_peer_does_not_ack_is_sent_again_and_its_beats_come_in_time() -> None:
    server = Server()
    session = opened(server, "peer.x.1", "peer")
    server.send(session, "word")
    assert server.said() == [("peer.x.1", "word")]
    due = server.table.timers.deadline()
    assert due is not None and due <= LEASE / 5
    server.table.tick(1.0)
    assert server.said(1.0) == [("peer.x.1", "word")]
    server.hear(session, 0, 1, 1.5)
    assert server.said(1.5) == []
    server.table.tick(2.5)
    assert server.said(2.5) == [("peer.x.1", "BEAT")]


def test_messages_outside_of_sessions_are_sent_first() -> None:
    server = Server()
    session = opened(server, "peer.x.1", "peer")
    server.send(session, "word")
    server.table.send_loose("peer.x.1", "WELCOME")
    server.table.disown("nobody.x.1")
    assert server.said() == [("peer.x.1", "WELCOME"), ("nobody.x.1", "STRANGER"), ("peer.x.1", "word")]


def test_early_messages_of_an_ended_session_are_not_counted_any_more() -> None:
    server = Server()
    session = opened(server, "peer.x.1", "peer")
    session.channel.hear(Frame(2, 0, "early"), 0.0)
    budget, name = session.channel.inbox.allowance or (None, "")
    assert budget is not None and name == "peer.x.1" and 0 < budget.used < AHEAD_OF_ALL
    server.table.dead("peer.x.1", "process 1 ended", 0.0)
    assert budget.used == 0
