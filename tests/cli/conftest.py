"""Programs in a folder of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.shell import Shell


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """Starts programs in the test's folder; kills those that still run at its end."""
    shell = Shell(tmp_path)
    yield shell
    shell.close()
