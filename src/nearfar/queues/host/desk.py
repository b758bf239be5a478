"""What every part of the host's machine shares: the peers, and a way to tell them something."""

from __future__ import annotations

from typing import Any

from nearfar.queues.host.peers import Action, Peer, Send
from nearfar.queues.wire import Envelope, Kind, Message


class Desk:
    """The sessions there are, and the actions that have gathered."""

    def __init__(self) -> None:
        self.peers: dict[str, Peer] = {}
        self.session_of: dict[str, str] = {}
        """The session of each end that has one, by the end's name."""
        self.spoken: dict[str, Peer] = {}
        """The sessions that heard or said something since they were last looked at."""
        self.actions: list[Action] = []

    def peer_of(self, uid: str) -> Peer | None:
        """The session that the end `uid` has now."""
        return self.peers.get(self.session_of.get(uid, ""))

    def send(self, peer: Peer, kind: Kind, *fields: Any, body: bytes | None = None, now: float) -> None:
        """Send a message of the line."""
        message = Message(kind, fields, body)
        number = peer.out.send(message, now)
        self.actions.append(Send(peer.session, Envelope(number, peer.inbox.received, message)))
        peer.voice.spoke(now)
        self.spoken[peer.session] = peer

    def send_unnumbered(self, session: str, kind: Kind, *fields: Any, ack: int = 0) -> None:
        """Send one of the words that open, keep and end a session."""
        self.actions.append(Send(session, Envelope(0, ack, Message(kind, fields))))

    def answer(self, peer: Peer, ask: int, value: Any, now: float) -> None:
        """Answer a question, unless who asked is gone."""
        if self.peers.get(peer.session) is peer:
            self.send(peer, Kind.ANSWER, ask, value, now=now)
