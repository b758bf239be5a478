"""The test's side of the fault proxy."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.chaos.faults.starter import ROOT

LISTEN, TARGET = "127.0.0.2", "127.0.0.3"
"""Who hosts binds TARGET; everybody else connects to LISTEN, at the same ports. To `access`, neither is this
machine's own: no way around the proxy is to be found."""


class Proxied:
    """A proxy for these ports, in a process of its own; use as a context."""

    def __init__(self, ports: list[int], seed: int) -> None:
        words = [
            sys.executable,
            "-m",
            "tests.chaos.faults.proxy",
            LISTEN,
            TARGET,
            str(seed),
            *map(str, ports),
        ]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True
        )
        self._answered()

    def __enter__(self) -> Proxied:
        return self

    def __exit__(self, *error: object) -> None:
        with self._process:
            self._process.kill()

    def order(self, fault: str, **how: Any) -> None:
        """Send an order to the proxy: see `proxy`."""
        assert self._process.stdin is not None
        print(json.dumps({"fault": fault, **how}), file=self._process.stdin, flush=True)
        self._answered()

    def _answered(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ok\n", "the fault proxy has died"
