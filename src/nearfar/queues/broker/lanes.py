"""The sockets over which items go to the consumers: each has one, its lane."""

from __future__ import annotations

import contextlib
import re
import socket
import stat
from collections import deque
from pathlib import Path

import zmq

from nearfar.net.addresses import Address
from nearfar.net.sockets import send_items


class DeliverySocket:
    """The PUSH socket of one consumer (its lane). Messages wait here until the consumer has connected."""

    def __init__(self, place: int | str, socket: zmq.Socket[bytes], wakes: int) -> None:
        self.place = place
        self.socket = socket
        self.wakes = wakes
        """The descriptor that signals that it accepts more."""
        self.backlog: deque[tuple[int, list[bytes]]] = deque()
        self._waiting: set[int] = set()

    def send(self, number: int, frames: list[bytes]) -> None:
        """Send message `number`, unless it still waits here since it was first sent."""
        if number not in self._waiting:
            self._waiting.add(number)
            self.backlog.append((number, frames))
            self.push()

    def push(self) -> None:
        """Send the waiting messages, as many as the socket accepts."""
        try:
            while self.backlog:
                number, frames = self.backlog[0]
                # without a copy if it is long, so that unread messages are stored here only once
                send_items(self.socket, frames)
                self.backlog.popleft()
                self._waiting.discard(number)
        except zmq.Again:  # the rest waits
            return


def clear_lanes(address: Address) -> None:
    """Remove the lane sockets of `address` at which no process listens. Only the process that has bound
    `address` may call this.

    The sockets of a suspended host still listen, and stay.
    """
    if not address.path:
        return
    place = Path(address.path)
    lane = re.compile(re.escape(place.name) + r"\.lane-\d+")
    with contextlib.suppress(OSError):
        for path in [path for path in place.parent.iterdir() if lane.fullmatch(path.name)]:
            if stat.S_ISSOCK(path.lstat().st_mode) and not _listens(path):
                path.unlink()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
    return True
