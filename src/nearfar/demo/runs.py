"""The demo's three runs: the same links, near, far, and far with a consumer killed in the middle."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nearfar.demo.check import Checked, check
from nearfar.demo.commands import LONGEST, Command, End, Stopwatch, typed
from nearfar.demo.gallery import Gallery
from nearfar.demo.server import Server
from nearfar.demo.site import Site
from nearfar.demo.trouble import Trouble

NEAR, FAR, FIRST, SECOND = FOLDERS = ("near", "far", "kill-1", "kill-2")
"""Where the runs save, below the output folder; the last run has a folder for each consumer."""

ANYWHERE = "tcp://127.0.0.1:*"
SLOWLY = "3M"
"""Bytes a second in the run with the kill, so that there is a middle."""
SAVED_BEFORE_KILL = 20
SOME_FAILED = 1
"""The exit code of a producer that did all it could: the dead link failed."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Run:
    """What a run took, and what came of it."""

    name: str
    processes: str
    seconds: float
    failed: list[str]
    """The URLs in the producer's failures file."""
    checked: Checked

    def complaints(self, dead: str, busy: str) -> list[str]:
        """What is not as it should be: `dead` must have failed, alone, and `busy` been tried again."""
        found = list(self.checked.complaints)
        if self.failed != [dead]:
            found.append(f"failed should be {dead} alone, not {', '.join(self.failed) or 'nothing'}")
        if self.checked.attempts.get(busy, 2) < 2:
            found.append(f"{busy} was saved at the first attempt, though it was busy")
        return found


class Runs:
    """Runs commands on `gallery` and saves below `root`; what a user would see is told to `say`."""

    def __init__(self, gallery: Gallery, root: Path, say: Say) -> None:
        self._gallery = gallery
        self._root = root
        self._say = say

    def near(self, server: Server) -> Run:
        """One command: it starts a producer and a consumer of its own."""
        words = ("producer", "--queue", "local", "-o", str(self._root / NEAR))
        with Stopwatch() as watch:
            self._produce(NEAR, server, *words)
        return self._run("near", "3", watch, NEAR, server, [self._root / NEAR])

    def far(self, server: Server) -> Run:
        """Two commands that meet at a TCP address."""
        with Stopwatch() as watch, self._host(FAR) as consumer:
            self._produce(FAR, server, "producer", "--queue", self._told_address(consumer))
            finish("the consumer", consumer)
        return self._run("far", "2", watch, FAR, server, [self._root / FAR])

    def kill(self, server: Server) -> Run:
        """A producer and two consumers; the second is killed when it has saved some files."""
        second = self._root / SECOND
        with Stopwatch() as watch, self._host(FIRST) as first:
            address = self._told_address(first)
            words = ("consumer", "--queue", address, "-o", str(second))
            self._say(f"$ {typed(*words)}")
            with Command(*words) as victim:
                victim.address()
                producer = ("producer", "--queue", address, "--rate", SLOWLY)
                self._produce(
                    "kill", server, *producer, meanwhile=lambda other: self._kill(victim, second, other)
                )
            finish("the first consumer", first)
        folders = [self._root / FIRST, second]
        return self._run("far, one killed", "3 - 1", watch, "kill", server, folders)

    def _kill(self, victim: Command, folder: Path, producer: Command) -> None:
        until = time.monotonic() + LONGEST
        while (saved := saved_in(folder)) < SAVED_BEFORE_KILL:
            if producer.ended() or victim.ended() or time.monotonic() > until:
                raise Trouble(
                    f"the second consumer saved only {saved} files: too few to kill it in the middle"
                )
            time.sleep(0.01)
        victim.kill()
        finish("the second consumer", victim, -signal.SIGKILL)
        self._say(f"$ kill -9 {victim.pid}    (the second consumer, in the middle of its work)")

    def _host(self, folder: str) -> Command:
        words = ("consumer", "--bind", ANYWHERE, "-o", str(self._root / folder))
        self._say(f"$ {typed(*words)}")
        return Command(*words)

    def _told_address(self, consumer: Command) -> str:
        address = consumer.address()
        self._say(f"  hosting the queue at {address}")
        return address

    def _produce(
        self,
        name: str,
        server: Server,
        *words: str,
        meanwhile: Callable[[Command], None] = lambda producer: None,
    ) -> None:
        """Write the list, run a producer on it to its end, and tell what it printed."""
        links = self._root / "urls.txt"
        links.write_text("".join(f"{url}\n" for url in server.urls))
        words = (*words, "-i", str(links), "--failures", str(self._failures(name)))
        self._say(f"$ {typed(*words)}")
        with Command(*words) as producer:
            meanwhile(producer)
            end = finish("the producer", producer, SOME_FAILED)
        self._say(f"  {end.printed.partition(chr(10))[0]}")

    def _failures(self, name: str) -> Path:
        return self._root / f"{name}-failures.txt"

    def _run(
        self, name: str, processes: str, watch: Stopwatch, short: str, server: Server, folders: list[Path]
    ) -> Run:
        lines = self._failures(short).read_text().splitlines() if self._failures(short).exists() else []
        failed = [line.partition("\t")[0] for line in lines]
        checked = check(self._gallery, server.urls[:-1], folders)
        return Run(name, processes, watch.seconds, failed, checked)


def finish(who: str, command: Command, code: int = 0) -> End:
    """Wait for the end of `command`. Raises `Trouble` unless it ended with `code`."""
    end = command.end()
    if end.code != code:
        raise Trouble(
            f"{who} ended with exit code {end.code} instead of {code}:\n{end.printed}{end.said}".rstrip()
        )
    return end


def saved_in(folder: Path) -> int:
    """How many files have their final names."""
    return sum(not path.name.startswith(".") for path in folder.iterdir()) if folder.is_dir() else 0


def fresh_server(gallery: Gallery) -> Server:
    """A server that has not been asked yet: its busy link is busy."""
    return Server(Site(gallery))
