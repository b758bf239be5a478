"""The demo's runs: the same links, near, far, far with a consumer killed in the middle, and by a pool."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nearfar.demo.check import Checked, check
from nearfar.demo.commands import LONGEST, Command, End, Stopwatch, typed
from nearfar.demo.gallery import Gallery
from nearfar.demo.server import Server
from nearfar.demo.site import Site
from nearfar.demo.trouble import Trouble

NEAR, FAR = "near", "far"
KILL, POOL = ("kill-1", "kill-2"), ("pool-1", "pool-2")
FOLDERS = (NEAR, FAR, *KILL, *POOL)
"""Where the runs save, below the output folder; two consumers have a folder each."""

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
        second = self._root / KILL[1]
        with Stopwatch() as watch, self._host(KILL[0]) as first:
            address = self._told_address(first)
            with self._join(KILL[1], address) as victim:
                producer = ("producer", "--queue", address, "--rate", SLOWLY)
                self._produce(
                    "kill", server, *producer, meanwhile=lambda other: self._kill(victim, second, other)
                )
            finish("the first consumer", first)
        return self._run("far, one killed", "3 - 1", watch, "kill", server, self._folders(KILL))

    def pool(self, server: Server) -> Run:
        """A producer that lets the two workers of a pool fetch, and two consumers."""
        with self._pool() as pool, Stopwatch() as watch, self._host(POOL[0]) as first:
            address = self._told_address(first)
            with self._join(POOL[1], address) as second:
                self._produce("pool", server, "producer", "--queue", address, "--pool", pool)
                finish("the first consumer", first)
                finish("the second consumer", second)
        return self._run("far, by a pool", "3 + 4", watch, "pool", server, self._folders(POOL))

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

    @contextmanager
    def _join(self, folder: str, address: str) -> Iterator[Command]:
        """A second consumer, once it is there."""
        words = ("consumer", "--queue", address, "-o", str(self._root / folder))
        self._say(f"$ {typed(*words)}")
        with Command(*words) as consumer:
            consumer.address()
            yield consumer

    @contextmanager
    def _pool(self) -> Iterator[str]:
        """The address of a pool with two workers, which would go on for ever: they are killed in the end."""
        words = ("coordinator", "--bind", ANYWHERE, "--workers", "0")
        self._say(f"$ {typed(*words)}")
        with Command(*words) as coordinator:
            address = coordinator.pool()
            self._say(f"  coordinating at {address}")
            words = ("worker", "--connect", address, "--processes", "2")
            self._say(f"$ {typed(*words)}")
            with Command(*words) as worker:
                worker.pool()
                yield address

    def _folders(self, names: tuple[str, ...]) -> list[Path]:
        return [self._root / name for name in names]

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
