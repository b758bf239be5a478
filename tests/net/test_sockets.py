"""The options and helpers of ZeroMQ sockets."""

from __future__ import annotations

from typing import Any, cast

import pytest
import zmq

from nearfar.net import sockets


class Ending:
    """A socket at interpreter exit: pyzmq's collector has stopped, so it cannot send without a copy."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, bool]] = []

    def send(self, frame: bytes, flags: int, copy: bool = True) -> None:
        if not copy:
            raise RuntimeError("zmq gc socket requested during shutdown")
        self.sent.append((frame, bool(flags & zmq.SNDMORE)))


def test_at_interpreter_exit_messages_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    ending = Ending()
    monkeypatch.setattr(sockets, "_send", Ending.send)
    sockets.send(cast(Any, ending), [b"one", b"two", b"three"], 0)
    assert ending.sent == [(b"one", True), (b"two", True), (b"three", False)]
