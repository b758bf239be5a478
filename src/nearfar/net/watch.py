"""Deaths on this machine, seen at once: a descriptor for each process that becomes readable when it ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Container
from typing import Any

from nearfar.net.here import machine_id


class Watch:
    """The processes watched, by descriptor. A peer elsewhere is not watched: its silence tells."""

    def __init__(self) -> None:
        self._machine = machine_id()
        self._sessions: dict[int, tuple[str, int]] = {}

    def add(self, session: str, about: dict[str, Any]) -> int | None:
        """Watch the process of a session, if it is on this machine; returns the descriptor to poll."""
        pid = about.get("pid")
        if not self._machine or about.get("machine") != self._machine or type(pid) is not int or pid <= 0:
            return None
        try:
            descriptor = os.pidfd_open(pid)
        except (AttributeError, OSError, OverflowError):
            return None  # not Linux, not permitted, dead already, or no pid: its silence will tell
        self._sessions[descriptor] = (session, pid)
        return descriptor

    def ended(self, descriptor: int) -> tuple[str, int] | None:
        """The session and pid behind a readable descriptor, which is closed; None if it is not ours."""
        found = self._sessions.pop(descriptor, None)
        if found is not None:
            with contextlib.suppress(OSError):  # it is closed all the same
                os.close(descriptor)
        return found

    def idle(self, wanted: Container[str]) -> list[int]:
        """The descriptors for sessions that are not in `wanted`: poll them no more, then say `ended`."""
        return [descriptor for descriptor, (session, _) in self._sessions.items() if session not in wanted]

    def __len__(self) -> int:
        return len(self._sessions)

    def close(self) -> None:
        for descriptor in self._sessions:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._sessions.clear()
