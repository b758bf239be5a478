"""A client's part in the limits that all clients of a queue share (`nearfar.queues.limits`)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING

from nearfar.net.interrupts import safe
from nearfar.net.session import SessionStage
from nearfar.queues.limits import Claim, Grant

if TYPE_CHECKING:
    from nearfar.queues.client.connection import ClientConnection


class LimitCalls:
    """Claims of permits, and what the broker has granted. No call waits."""

    def __init__(self, client: ClientConnection) -> None:
        self._client = client

    def session(self) -> int:
        """The number of the present session, from 1; 0 while there is none."""
        machine = self._client.machine
        return machine.calling.number if machine.calling.stage is SessionStage.OPEN else 0

    def expired(self) -> bool:
        """The broker was not heard for a lease: it may have given this client's permits to others."""
        talk = self._client.machine.calling.talk
        return talk is not None and talk.silent(time.monotonic())

    def receive(self) -> Sequence[Grant]:
        """The grants of the present session that were not received yet."""
        session = self._client.machine.session
        return self._receive() if session is not None and session.grants else ()

    @safe
    def _receive(self) -> Sequence[Grant]:
        with self._client.hold:
            session = self._client.session
            grants, session.grants = session.grants, []
            return grants

    @safe
    def claim(self, session: int, claims: Sequence[Claim]) -> None:
        """Send claims, unless the session with this number has ended. Its first ones are a declaration."""
        client = self._client
        with client.hold:
            if session == self.session():
                client.session.claims.append(claims)
                client.need_driver().wake()

    def due(self) -> float:
        """Never: the client calls `on_change` when grants arrive."""
        return inf
