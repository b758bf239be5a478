"""A few commands in one folder, for tests that cause the faults themselves."""

from __future__ import annotations

import re
from pathlib import Path

from nearfar.cli.exits import Exit
from tests.chaos.download.commands import Ended
from tests.chaos.download.starter import Starter
from tests.support.ports import free_address
from tests.support.routes import content
from tests.support.waiting import eventually
from tests.support.web import Web

WAIT = "5"
DETAIL = re.compile(r"\t# ([a-z0-9-]+): (.*)$")


class Scene:
    """A server with files, and the commands that are to save them in `output`."""

    def __init__(self, folder: Path, output: Path, web: Web, starter: Starter) -> None:
        self.folder = folder
        self.output = output
        self.web = web
        self.bodies: dict[str, bytes] = {}
        self.environment: dict[str, str] = {}
        self.afresh = False
        self.limits: dict[str, dict[str, int]] = {}
        """Of resources, by program."""
        self._starter = starter
        self._started: dict[str, tuple[int, Path]] = {}
        self._codes: dict[int, int] = {}
        self._count = 0
        self.address = free_address()
        self.pool = free_address()

    def serve(self, names: list[str], size: int) -> None:
        """Serve files of `size` bytes; returns them by the name under which each will be saved."""
        for name in names:
            body = (f"{name} ".encode() * (size // len(name) + 1))[:size]
            self.bodies[name] = body
            self.web.routes[f"/{name}"] = content(body)
        lines = [f"{self.web.url(f'/{name}')}\tname={name}" for name in self.bodies]
        (self.folder / "urls.txt").write_text("\n".join(lines))

    def start(self, program: str, *options: str) -> None:
        self._count += 1
        said = self.folder / f"{self._count} {program}"
        limits = self.limits.get(program, {})
        afresh = self.afresh or bool(limits)
        arguments = [program, *options]
        pid = self._starter.start(
            arguments, self.folder, said, self.environment, afresh=afresh, limits=limits
        )
        self._started[program] = pid, said

    def start_all(self) -> None:
        """Start a host, a coordinator, a worker, a consumer and a producer, each as a command."""
        self.start("queue", "--bind", self.address, "--lease", "2")
        self.start("coordinator", "--bind", self.pool, "--lease", "2", "--grace", "2")
        self.start("worker", "--connect", self.pool, "--processes", "1", "--wait", WAIT)
        self.start("consumer", "--queue", self.address, "-o", str(self.output), "--wait", WAIT)
        fetching = ("-i", "urls.txt", "--queue", self.address, "--wait", WAIT)
        self.start("producer", *fetching, "--pool", self.pool)

    def start_download(self, shape: str, *options: str) -> None:
        """``far``, ``pool`` (of two processes of the producer's), ``local`` (near queues) or ``direct``."""
        fetching = ("-i", "urls.txt", "--retries", "1", *options)
        if shape in ("local", "direct"):
            queues = ("-P", "1", "-C", "1") if shape == "local" else ()
            self.start("producer", *fetching, "--queue", "local", "-o", str(self.output), *queues)
            return
        self.start("consumer", "--bind", self.address, "-o", str(self.output), "--wait", WAIT)
        pool = ("--pool", "local:2") if shape == "pool" else ()
        self.start("producer", *fetching, "--queue", self.address, "--wait", WAIT, *pool)

    def ended(self, program: str, within: float = 40.0) -> Ended:
        """How a command ended, within the time limit; it must not have printed a traceback."""
        pid, said = self._started[program]

        def over() -> bool:
            self._codes |= self._starter.ends()
            return pid in self._codes

        assert eventually(over, within), f"{program} hangs; it said {Path(f'{said}.err').read_text()}"
        out, err = (Path(f"{said}.{stream}").read_text() for stream in ("out", "err"))
        assert "Traceback" not in err, err
        return Ended(program, self._codes[pid], out, err)

    def first_ended(self, *programs: str) -> str:
        """Wait for one of `programs` to end."""

        def over() -> bool:
            self._codes |= self._starter.ends()
            return any(self._started[program][0] in self._codes for program in programs)

        assert eventually(over, 40), f"all hang: {programs}"
        return next(program for program in programs if self._started[program][0] in self._codes)

    def kill_all(self) -> None:
        self._starter.kill_all()

    def download(self, shape: str) -> Ended:
        """Wait for the end of the download, and return the producer's."""
        self.start_download(shape)
        return self.endings(shape)

    def endings(self, shape: str) -> Ended:
        producer = self.ended("producer")
        if shape not in ("local", "direct"):
            assert self.ended("consumer").code in (Exit.OK, Exit.FAILED)
        assert eventually(lambda: not self._starter.alive(), 10)
        return producer

    def there(self) -> dict[str, bytes]:
        """The files with final names: each must be complete, and ended commands must have left no draft."""
        files = {
            path.relative_to(self.output).as_posix(): path
            for path in self.output.rglob("*")
            if path.is_file()
        }
        found = {
            name: path.read_bytes()
            for name, path in files.items()
            if not path.name.startswith((".nearfar", "ballast"))
        }
        assert found.items() <= self.bodies.items(), "a file is not whole"
        assert not [name for name in files if name.endswith((".part", ".owner"))]
        return found

    def failures(self) -> list[tuple[str, str]]:
        """Reason and text of each failure in the failures file."""
        path = self.folder / "nearfar-failures.txt"
        found = [DETAIL.search(line) for line in path.read_text().splitlines()]
        return [(each[1], each[2]) for each in found if each]
