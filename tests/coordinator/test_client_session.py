"""A peer that gets no WELCOME tries another connection."""

from __future__ import annotations

import pytest

from nearfar.coordinator.large_parts import CLIENT
from nearfar.coordinator.sessions import client_session
from nearfar.net.session import Connect

pytestmark = pytest.mark.pure


def test_an_unanswered_hello_is_sent_on_a_new_connection_every_five_seconds() -> None:
    calling = client_session(CLIENT, "client", {}, 60.0)
    calling.begin(0.0)
    dialed = []
    for quarter in range(48):
        now = quarter / 4
        calling.tick(now)
        dialed += [(now, each) for each in calling.flush(now) if isinstance(each, Connect)]
    assert dialed == [(at, Connect("client.1")) for at in (0.0, 5.0, 10.0)]
