"""A real Dask cluster for tests: a scheduler and workers, each a process, over TCP on loopback."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.support.shell import ROOT
from tests.support.waiting import eventually

MISSING = "" if find_spec("distributed") else "distributed is not installed: pip install 'nearfar[dask]'"
"""Why there can be no cluster."""

needed = pytest.mark.skipif(bool(MISSING), reason=MISSING)


class Cluster:
    """A scheduler, and workers with one thread each, that a test may kill."""

    def __init__(self, folder: Path, **settings: str) -> None:
        """`settings`: variables of its programs."""
        self.folder = folder
        self.settings = settings
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.scheduler, self.address = self._schedule(0)

    def _schedule(self, port: int) -> tuple[subprocess.Popen[bytes], str]:
        log = self.folder / "scheduler"
        log.unlink(missing_ok=True)
        options = ["--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
        process = self._start("scheduler", log, *options)
        found: list[str] = []

        def says_where() -> bool:
            assert process.poll() is None, log.read_text()
            words = log.read_text().split() if log.exists() else []
            found[:] = [
                words[at + 2] for at, word in enumerate(words) if words[at : at + 2] == ["Scheduler", "at:"]
            ]
            return bool(found)

        assert eventually(says_where, 40)
        return process, found[0].replace("tcp", "dask", 1)

    def _start(self, kind: str, log: Path, *words: str) -> subprocess.Popen[bytes]:
        with log.open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{kind}", *words],
                cwd=self.folder,
                env=os.environ
                | {"PYTHONPATH": str(ROOT), "DASK_TEMPORARY_DIRECTORY": str(self.folder)}
                | self.settings,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def start_worker(self, name: str) -> int:
        """Start a worker; its process's id. See `wait_for`."""
        place = self.address.replace("dask", "tcp", 1)
        options = ["--nthreads", "1", "--name", name, "--no-nanny", "--no-dashboard", "--memory-limit", "0"]
        log = self.folder / name
        process = self._start("worker", log, place, *options, "--local-directory", str(self.folder))
        self.workers[name] = process
        return process.pid

    def kill_worker(self, name: str, signum: int = signal.SIGKILL) -> None:
        self.workers[name].send_signal(signum)
        self.workers[name].wait(20)
        del self.workers[name]

    def kill_scheduler(self) -> None:
        self.scheduler.kill()
        self.scheduler.wait()

    def close(self) -> None:
        for process in (*self.workers.values(), self.scheduler):
            process.kill()
        for process in (*self.workers.values(), self.scheduler):
            process.wait()


def warm_up() -> None:
    """Make what Dask's client makes once in a process, and keeps."""
    from distributed.utils import _offload_executor

    uuid.uuid1()
    _offload_executor.submit(int).result()


@contextmanager
def running(workers: int = 2, **settings: str) -> Iterator[Cluster]:
    """A cluster with workers named w0, w1 and so on, which may still be on their way to it."""
    folder = Path(tempfile.mkdtemp(prefix="nearfar-dask-"))
    cluster = Cluster(folder, **settings)
    try:
        for number in range(workers):
            cluster.start_worker(f"w{number}")
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(folder, ignore_errors=True)


_common: dict[int, Cluster] = {}


def common(workers: int) -> Cluster:
    """The cluster with one or two workers that `for_all_tests` keeps."""
    return _common[workers]


@contextmanager
def for_all_tests() -> Iterator[None]:
    """Two clusters, for as long as this lasts: of one worker and of two."""
    with running(1) as one, running(2) as two:
        _common.update({1: one, 2: two})
        try:
            yield
        finally:
            _common.clear()


def open_connections(pool: Any) -> None:
    """Open as many connections as a pool uses at once: Dask keeps them, and later ones would seem leaked."""
    client = pool._engine._executor._client

    async def open_all() -> None:
        await asyncio.gather(*(client.scheduler.identity() for _ in range(50)))

    client.sync(open_all)
