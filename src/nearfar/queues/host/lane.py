"""A consumer's lane: where the items go that are lent to it."""

from __future__ import annotations

import contextlib
from collections import deque

import zmq

from nearfar.net.sockets import send_items


class Lane:
    """The PUSH socket of one consumer. It refuses messages until its consumer has connected: they wait."""

    def __init__(self, place: int | str, socket: zmq.Socket[bytes]) -> None:
        self.place = place
        self.socket = socket
        self.backlog: deque[tuple[int, list[bytes]]] = deque()
        self._waiting: set[int] = set()

    def send(self, number: int, frames: list[bytes]) -> None:
        """Send message `number`, unless it waits here since it was sent first."""
        if number not in self._waiting:
            self._waiting.add(number)
            self.backlog.append((number, frames))
            self.push()

    def push(self) -> None:
        """Send what waits, as far as it goes."""
        with contextlib.suppress(zmq.Again):
            while self.backlog:
                number, frames = self.backlog[0]
                # in place, if it is long: what its consumer does not read is to lie here once
                send_items(self.socket, frames)
                self.backlog.popleft()
                self._waiting.discard(number)
