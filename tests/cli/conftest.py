"""Programs in a folder of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.shell import Shell


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """Starts programs in the test's folder; what still runs at its end is killed."""
    shell = Shell(tmp_path)
    yield shell
    shell.close()
