"""Failed handshakes are reported once they have lasted long enough."""

from __future__ import annotations

import pytest

from nearfar.net.handshake import BELIEVED, HandshakeFailures

pytestmark = pytest.mark.pure


def test_a_single_failure_is_not_reported() -> None:
    refusals = HandshakeFailures()
    refusals.failed("no", 10.0)
    assert refusals.believed(10.0) == ""
    assert refusals.believed(10.0 + BELIEVED - 0.01) == ""


def test_lasting_failures_are_reported_with_the_last_reason() -> None:
    refusals = HandshakeFailures()
    refusals.failed("no", 10.0)
    refusals.failed("never", 11.0)
    assert refusals.believed(10.0 + BELIEVED) == "never"


def test_a_success_in_between_resets_the_failures() -> None:
    refusals = HandshakeFailures()
    refusals.failed("no", 10.0)
    refusals.succeeded()
    assert refusals.believed(99.0) == ""
    refusals.failed("no", 100.0)
    assert refusals.believed(100.1) == ""
