"""A program loads only libraries that it needs at its start."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("zmq", "msgpack", "msgspec", "ctypes", "cloudpickle", "pycurl", "numpy", "rich", "asyncio")


@pytest.mark.parametrize(
    ("module", "needed"),
    [
        ("nearfar.__main__", ()),
        ("nearfar.cli.producer", ("msgpack", "ctypes")),
        ("nearfar.cli.consumer", ("msgspec", "ctypes")),
        ("nearfar.download.local", ("msgpack", "ctypes")),
        ("nearfar.worker.main", ("msgpack",)),
    ],
)
def test_a_start_loads_only_what_it_needs(module: str, needed: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*[name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90, check=True)
    assert set(run.stdout.split()) <= set(needed)
