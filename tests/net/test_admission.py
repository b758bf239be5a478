"""How a service's authenticator treats unknown keys and half-open connections."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import zmq

from nearfar.net import auth, sockets
from nearfar.net.addresses import Address
from nearfar.net.admission import MOST_TOLD, Authenticator
from nearfar.net.auth import Access, read_server_key
from nearfar.net.validation import MOST_LINES, PERIOD
from tests.support.waiting import eventually

HERE = Address.parse("tcp://127.0.0.1:*")


def knock(bound: Address, server: bytes) -> zmq.Socket[bytes]:
    """A connection with a fresh key."""
    stranger = sockets.make(zmq.DEALER)
    stranger.curve_publickey, stranger.curve_secretkey = zmq.curve_keypair()
    stranger.curve_serverkey = server
    stranger.connect(str(bound))
    return stranger


def test_fresh_unknown_keys_are_logged_within_bounds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A client with a new key for each connection causes a few lines of the log a minute, and a count."""
    auth.init(tmp_path / "keys")
    authenticator = Authenticator(Access(str(tmp_path / "keys")))
    made = authenticator.make(zmq.ROUTER)
    bound = authenticator.bind(made, HERE)
    strangers = [knock(bound, read_server_key(tmp_path / "keys")) for _ in range(MOST_LINES + 5)]
    with caplog.at_level(logging.WARNING):
        assert eventually(
            lambda: bool(authenticator.turn(0.0, {})) or authenticator.turned_away >= MOST_LINES + 5
        )
        told = [record.getMessage() for record in caplog.records]
        assert len(told) == MOST_LINES
        assert all(line.startswith("turned away 127.0.0.1 with the unknown key ") for line in told)
        many = authenticator.turned_away - MOST_LINES
        authenticator.turn(PERIOD, {})
    last = caplog.records[-1].getMessage()
    assert last.startswith("turned away ")
    assert last.endswith(" more connections with unknown keys in the last 60 s")
    assert int(last.split()[2]) >= many
    for stranger in strangers:
        stranger.close()
    authenticator.unbind(made, bound)
    authenticator.close()


def test_refused_keys_are_remembered_within_bounds(tmp_path: Path) -> None:
    auth.init(tmp_path / "keys")
    authenticator = Authenticator(Access(str(tmp_path / "keys")))
    asking = sockets.make(zmq.DEALER, within=authenticator._context)
    asking.connect("inproc://zeromq.zap.01")
    for number in range(3 * MOST_TOLD // 2):
        key = number.to_bytes(32, "big")
        asking.send_multipart([b"", b"1.0", b"1", b"everybody", b"203.0.113.1", b"", b"CURVE", key])
        authenticator.turn(0.0, {})
        assert asking.recv_multipart()[3] == b"400"
    assert authenticator.turned_away == 3 * MOST_TOLD // 2
    assert len(authenticator._told) <= MOST_TOLD
    asking.close()
    authenticator.close()
