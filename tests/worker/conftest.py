"""Fixtures for the tests of workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.worker.channels import Channel, opened


@pytest.fixture
def channel() -> Iterator[Channel]:
    with opened() as channel:
        yield channel
