"""Commands that meet at a queue, as processes of one test, and the files that they download."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.ports import free_address
from tests.support.programs import COMMAND, Program
from tests.support.routes import content
from tests.support.web import Web

FILES = 100
SMALL = [f"/{number}.png" for number in range(FILES)]
LARGE = b"large " * 500_000


def serve(web: Web) -> None:
    """Give `web` the files."""
    for number, path in enumerate(SMALL):
        web.routes[path] = content(body(number))
    web.routes["/large.bin"] = content(LARGE)


def body(number: int) -> bytes:
    return f"file {number} ".encode() * 1000


class Commands:
    """Programs of one test, in one folder, that meet at one address: of a Redis server, or hosted by one."""

    def __init__(self, folder: Path, address: str = "") -> None:
        self.folder = folder
        self.address = address or free_address()
        self.running: list[subprocess.Popen[str]] = []

    def start(self, program: str, *options: str) -> subprocess.Popen[str]:
        patience = ("--wait", "20") if program in ("producer", "consumer") else ()
        process = Program(
            [*COMMAND, program, *patience, *options],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.running.append(process)
        return process

    def host(self, *options: str) -> subprocess.Popen[str]:
        """A consumer that hosts the queue, if a program must."""
        how = "--queue" if self.address.startswith("redis") else "--bind"
        return self.start("consumer", how, self.address, *options)

    def join(self, *options: str) -> subprocess.Popen[str]:
        return self.start("consumer", "--queue", self.address, *options)

    def produce(self, web: Web, *options: str) -> subprocess.Popen[str]:
        (self.folder / "urls.txt").write_text("\n".join(map(web.url, ["/large.bin", *SMALL])))
        return self.start("producer", "--queue", self.address, "-i", "urls.txt", *options)

    def close(self) -> None:
        for process in self.running:
            process.kill()
            process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and first line printed."""
    out, err = process.communicate(timeout=250)
    assert "Traceback" not in err, err
    return process.returncode, out.partition("\n")[0]


def saved_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.*") if not path.name.startswith(".")}


ALL = {f"{number}.png": body(number) for number in range(FILES)} | {"large.bin": LARGE}
