"""Pools whose workers, and coordinator if they have one, are programs that may be killed."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from nearfar import Pool
from tests.support.shell import ANYWHERE, ROOT, Program, Shell
from tests.support.waiting import eventually

LEASE = 2.0
WAIT = 20.0


class Place:
    """`kind` is hosted (the pool itself coordinates) or far; `transport` tcp or ipc. Closes what it made."""

    def __init__(self, kind: str, transport: str, folder: Path) -> None:
        self.kind = kind
        self.shell = Shell(ROOT)
        self.address = f"ipc://{folder}/pool" if transport == "ipc" else ANYWHERE
        self.coordinator: Program | None = None
        self.agents: list[Program] = []
        self._stack = ExitStack()
        self._stack.callback(self.shell.close)
        if kind == "far":
            self.coordinate()

    def coordinate(self, lease: float = LEASE) -> None:
        """Start a coordinator, the first or one at the same address."""
        self.coordinator, self.address = self.shell.coordinator(self.address, "--lease", str(lease))

    def kill_coordinator(self) -> None:
        assert self.coordinator is not None
        self.coordinator.kill()
        assert self.coordinator.wait() == -signal.SIGKILL

    def pool(self, **options: Any) -> Pool:
        """A pool, or another client of the same coordinator."""
        if self.kind == "far":
            pool = Pool.connect(self.address, **({"wait": WAIT} | options))
        else:
            pool = Pool(0, address=self.address, lease=LEASE, **options)
            self.address = pool.address or ""
        self._stack.callback(pool.join)
        self._stack.callback(pool.terminate)
        return pool

    def agent(self, processes: int = 2, *options: str) -> Program:
        """Start an agent with workers."""
        agent, _ = self.shell.worker(self.address, processes, "--wait", str(WAIT), *options)
        self.agents.append(agent)
        return agent

    def close(self) -> None:
        self._stack.close()


def traces(path: Path) -> list[str]:
    """The lines that tasks have recorded."""
    return path.read_text().splitlines() if path.exists() else []


def traced(path: Path, count: int, within: float = 10.0) -> bool:
    """Wait until `count` tasks have begun; returns whether they did."""
    return eventually(lambda: len(traces(path)) >= count, within)


def joined(pool: Pool, workers: int) -> bool:
    """Wait until `pool`, which has been used, knows so many workers; returns whether it does."""
    pool.apply(os.getpid)
    return eventually(lambda: f" {workers} workers" in repr(pool), 10)
