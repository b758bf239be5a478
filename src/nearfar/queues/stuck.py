"""When a line that makes no progress counts as broken, though its peer is heard. Pure.

A session has several connections. One of them may be dead while the others live, and nobody is told: where a
proxy or a tunnel stands between, not even the kernel. What is sent on it again and again does not arrive, and
what comes behind it waits for its turn. Then a new session, with new connections, is what helps.
"""

from __future__ import annotations

from nearfar.net.line import Outgoing
from nearfar.queues.wire import Message

LEASES = 3
"""Leases without progress after which a line is broken, if what is on its way is small."""
SLOWEST = 20_000
"""Bytes a second that a line is expected to carry: for what is large, it gets as much more time."""


def broken(line: Outgoing[Message], lease: float, now: float) -> bool:
    """True if the peer has had nothing new of this line for too long. `lease` is in seconds."""
    stuck = line.stuck(now) - LEASES * lease
    return stuck >= 0 and stuck >= sum(len(message.body or b"") for _, message in line.unacked()) / SLOWEST
