"""What an end's machine wants done."""

from __future__ import annotations

from typing import NamedTuple

from nearfar.queues.wire import Envelope


class Connect(NamedTuple):
    """Close every socket, and open a control socket under this session's name."""

    session: str


class ConnectInbox(NamedTuple):
    """Connect to the host's inbox; what goes there is to come with the ticket."""

    place: int | str
    ticket: str


class ConnectLane(NamedTuple):
    """Connect to this end's lane."""

    place: int | str


class Send(NamedTuple):
    """Send this, to the inbox if it carries items."""

    envelope: Envelope


class Close(NamedTuple):
    """Close every socket for good."""


Action = Connect | ConnectInbox | ConnectLane | Send | Close
