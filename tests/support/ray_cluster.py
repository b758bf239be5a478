"""A real Ray cluster for tests: one node with two CPUs and a Ray Client server, on loopback."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.shell import ROOT
from tests.support.waiting import eventually

MISSING = "" if find_spec("ray") and find_spec("grpc") else "ray is not installed: pip install 'nearfar[ray]'"
"""Why there can be no cluster."""

needed = pytest.mark.skipif(bool(MISSING), reason=MISSING)
START = "from ray.scripts.scripts import main; main()"


class Cluster:
    """A head node, as one process group."""

    def __init__(self, folder: Path) -> None:
        ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        main, client = (each.getsockname()[1] for each in ports)
        for each in ports:
            each.close()
        self.address = f"ray://127.0.0.1:{client}"
        options = ["--port", str(main), "--ray-client-server-port", str(client)]
        options += [
            "--min-worker-port",
            "0",
            "--max-worker-port",
            "0",
            "--num-cpus",
            "2",
            "--temp-dir",
            str(folder),
        ]
        options += ["--include-dashboard=false", "--disable-usage-stats", "--object-store-memory", "80000000"]
        self.log = folder / "log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", START, "start", "--head", "--block", *options],
                cwd=folder,
                env=os.environ | {"PYTHONPATH": str(ROOT), "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        assert eventually(lambda: self._listens(client), 60), self.log.read_text()

    def _listens(self, port: int) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return True
        return False

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def running() -> Iterator[Cluster]:
    """A cluster, killed in the end."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # the paths of its sockets must be short
    cluster = Cluster(folder)
    try:
        yield cluster
    finally:
        cluster.kill()
        shutil.rmtree(folder, ignore_errors=True)
