"""A folder of keys for tests, made once for a run to save time."""

from __future__ import annotations

import tempfile
from pathlib import Path

from nearfar.net import auth


def make_keys() -> None:
    """Make the run's keys, in its temporary folder."""
    auth.init(keys())


def keys() -> Path:
    """The run's keys: a service's, and those of one admitted client."""
    return Path(tempfile.gettempdir()) / "keys"
