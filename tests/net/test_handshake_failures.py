"""Failed handshakes are reported once they have lasted long enough."""

from __future__ import annotations

import pytest

from nearfar.net.handshake import BELIEVED, HandshakeFailures

pytestmark = pytest.mark.pure


def test_one_failure_is_an_accident() -> None:
    refusals = HandshakeFailures()
    refusals.failed("no", 10.0)
    assert refusals.believed(10.0) == ""
    assert refusals.believed(10.0 + BELIEVED - 0.01) == ""


def test_what_fails_for_long_is_believed_with_its_last_reason() -> None:
    refusals = HandshakeFailures()
    refusals.failed("no", 10.0)
    refusals.failed("never", 11.0)
    assert refusals.believed(10.0 + BELIEVED) == "never"


def test_a_success_in_between_begins_anew() -> None:
    refusals = HandshakeFailures()
    refusals.failed("no", 10.0)
    refusals.succeeded()
    assert refusals.believed(99.0) == ""
    refusals.failed("no", 100.0)
    assert refusals.believed(100.1) == ""
