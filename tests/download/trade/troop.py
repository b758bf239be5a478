"""The commands of one download, as real processes that can be killed and started again."""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

from nearfar.queues.far import FarQueue
from tests.download.trade.saved_at_kills import SavedAtKills, saved_names
from tests.support.exchange import Reply, Request
from tests.support.programs import starter
from tests.support.redis_server import DURABLE, Server, listens
from tests.support.waiting import eventually
from tests.support.web import Web

ROOT = Path(__file__).parents[3]
LARGE = 1_500_000
"""Bytes of every hundredth file: enough to be sent in parts."""


@dataclass(frozen=True)
class Ended:
    """How one process of a command ended."""

    code: int
    out: str
    err: str

    @property
    def counts(self) -> tuple[int, ...]:
        """The numbers of the sentence at its end: urls, saved, already there, failed for a producer."""
        first = self.out.partition("\n")[0]
        return tuple(int(number.replace(",", "")) for number in re.findall(r"[\d,]*\d", first))


@dataclass(frozen=True)
class Running:
    """A process of a command, and the files (but for their suffix) that hold what it says."""

    process: subprocess.Popen[bytes]
    said: Path


class Files:
    """Numbered files on a server that knows when each was asked for.

    The last fifth is kept back until `open`, so that no producer is done before.
    """

    def __init__(self, count: int, web: Web, seed: int) -> None:
        sizes = Random(seed)
        self.paths = [f"/{number:05}.bin" for number in range(count)]
        self._sizes = {path: sizes.randrange(1, 30_000) for path in self.paths}
        self._sizes |= dict.fromkeys(self.paths[50::100], LARGE)
        self._held = frozenset(self.paths[count * 4 // 5 :])
        self._open = threading.Event()
        self.waited_for = threading.Event()
        """A producer asked for a file that is held back."""
        self.web = web
        web.routes["*"] = self._answer

    def open(self) -> None:
        """Keep nothing back any more."""
        self._open.set()

    def body(self, path: str) -> bytes:
        size = self._sizes[path]
        return (path.encode() * (size // len(path) + 1))[:size]

    def lists(self, parts: int) -> list[str]:
        """The URLs in so many lists, as input for that many producers."""
        urls = [self.web.url(path) for path in self.paths]
        return ["\n".join(urls[part::parts]) for part in range(parts)]

    def _answer(self, request: Request, reply: Reply) -> None:
        if request.path in self._held and not self._open.is_set():
            self.waited_for.set()
            self._open.wait(60)
        body = self.body(request.path)
        reply.head(200, {"Content-Length": str(len(body)), "ETag": f'"{len(body)}"'})
        reply.data(body)
        reply.end()


@dataclass
class Troop:
    """Three consumers, two producers and a host: one of the consumers, unless it is `alone`. Over Redis it is
    the server, which writes each step to its disk.

    `wait` (seconds) is how long they wait for a host that does not answer.
    """

    folder: Path
    files: Files
    transport: str
    alone: bool
    wait: float
    running: dict[str, Running] = field(default_factory=dict)
    _started: int = 0

    def __post_init__(self) -> None:
        server = Server(self.folder, *DURABLE)
        if self.transport == "ipc":
            self.address = f"ipc://{self.folder}/queue"
        elif self.transport == "redis":
            self.address = server.address("queue")
        else:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self.saved_in = self.folder / "saved"
        self.moments = SavedAtKills(self.files.web, self.saved_in)
        programs = [sys.executable, "-m", "nearfar"]
        meet = ["--wait", str(self.wait), "--queue", self.address]
        consumer = [*programs, "consumer", "-o", str(self.saved_in)]
        self.commands = {f"consumer {number}": [*consumer, *meet] for number in (1, 2, 3)}
        if self.transport == "redis":
            self.commands["host"] = server.command
            for number in (1, 2, 3):
                self.commands[f"consumer {number}"] += ["--expected-producers", "2"]
        elif self.alone:
            options = json.dumps({"producers": 2, "lease": 3.0, "maxbytes": 32 << 20})
            self.commands["host"] = [sys.executable, "-m", "tests.support.hosting", self.address, options]
        else:
            bind = ["--wait", str(self.wait), "--bind", self.address, "--expected-producers", "2"]
            self.commands["consumer 1"] = [*consumer, *bind]
        for number, urls in enumerate(self.files.lists(2), 1):
            name = f"producer {number}"
            (self.folder / f"{name}.txt").write_text(urls)
            failures = ["--failures", f"{name} failures.txt"]
            self.commands[name] = [*programs, "producer", *meet, "-i", f"{name}.txt", *failures]

    @property
    def host(self) -> str:
        """The name of the command that hosts the queue."""
        return "host" if "host" in self.commands else "consumer 1"

    def start(self, *names: str) -> None:
        """Start commands, each as it was started before."""
        self.moments.note()
        for name in names:
            self._started += 1
            said = self.folder / f"{self._started}, {name}"
            with said.with_suffix(".out").open("wb") as out, said.with_suffix(".err").open("wb") as err:
                process = starter(self.commands[name])(
                    self.commands[name],
                    stdin=subprocess.PIPE,
                    stdout=out,
                    stderr=err,
                    cwd=self.folder,
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                )
            self.running[name] = Running(process, said)

    def start_all(self) -> None:
        """Start what is not running: the host first, and the others once it hosts, producers last."""
        if self.host not in self.running:
            self.start(self.host)
            if self.transport == "redis":
                port = int(self.address.split(":")[2].partition("/")[0])
                assert eventually(partial(listens, port))
            else:
                with closing(FarQueue.connect(self.address, wait=60.0)) as queue:
                    queue.counts()
        self.start(*(name for name in sorted(self.commands) if name not in self.running))

    def kill(self, name: str) -> None:
        """``kill -9``."""
        self.moments.note()
        ending = self.running.pop(name)
        ending.process.kill()
        ending.process.communicate()

    def ended(self, name: str, within: float) -> Ended:
        """Wait for a command's end, which fails after `within` seconds; it must have said no traceback."""
        ending = self.running[name]
        code = ending.process.wait(within)
        self.kill(name)
        out, err = (ending.said.with_suffix(suffix).read_text() for suffix in (".out", ".err"))
        assert "Traceback" not in err, err
        return Ended(code, out, err)

    def rows(self) -> dict[str, tuple[int, str]]:
        """What the manifest says is saved: size and SHA-256 by path."""
        with closing(sqlite3.connect(f"file:{self.saved_in}/.nearfar.sqlite?mode=ro", uri=True)) as manifest:
            found = manifest.execute("SELECT name, size, sha256 FROM files").fetchall()
        return {f"/{name}": (size, digest) for name, size, digest in found}

    def saved(self) -> int:
        """How many files are saved."""
        return len(saved_names(self.saved_in))

    def there(self) -> int:
        """How many files have their name: saved, though a consumer killed just then has not noted it."""
        return sum(not each.name.startswith(".") for each in self.saved_in.iterdir())

    def close(self) -> None:
        self.files.open()
        for name in list(self.running):
            self.kill(name)
