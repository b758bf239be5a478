"""The tutorial's two functions, with real pictures: `download` fetches and puts, two `getfile` get and save.

Then the same with one of the two `getfile` killed. What was saved is compared with the pictures drawn anew.
"""

from __future__ import annotations

import http.client
import signal
import time
from collections.abc import Iterable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nearfar.contrast.cast import Cast
from nearfar.contrast.faults.roles import wait_for_the_end
from nearfar.contrast.faults.scene import Plan, Scene, distinct
from nearfar.contrast.settings import Settings
from nearfar.contrast.transports.base import FORK, Transport
from nearfar.demo.gallery import Gallery
from nearfar.demo.server import Server
from nearfar.demo.site import Site

BOUND = 1000
DISK = 0.003
"""Seconds that saving takes beyond writing, as on a slow disk: so that files wait in the queue."""
File = tuple[str, bytes]


def measure(
    transport: Transport, settings: Settings, folder: Path, *, kill: bool, trial: int
) -> dict[str, Any]:
    """Files a second, and what became of the files."""
    gallery = Gallery(settings.pictures, large=0)
    saved = folder / "saved"
    saved.mkdir()
    here, there = FORK.Pipe()
    with Cast() as cast, here, there, transport.open(folder, BOUND) as link:
        cast.start(serve, gallery, there)
        urls: list[str] = here.recv()
        plan = Plan(
            [download(urls)],
            partial(getfile, saved, DISK if kill else 0.0),
            settings.pictures,
            quiet=settings.quiet,
        )
        scene = Scene(link, cast, folder, plan, victim=trial % 2)
        if kill:
            scene.await_victim(settings.pictures // 8)
            scene.strike(signal.SIGKILL)
        else:
            scene.await_begun()
        scene.watch()
        received = scene.received()
        rate = len(received) / (received[-1].time - scene.begun()) if received else 0.0
    return {"rate": rate, **check(gallery, saved), "duplicated": len(received) - len(distinct(received))}


def serve(gallery: Gallery, told: Connection) -> None:
    """Show the gallery over HTTP, its pictures drawn beforehand."""
    for name in gallery.names():
        gallery.picture(name)
    with Server(Site(gallery)) as server:
        told.send([f"{server.url}/images/{name}" for name in gallery.names()])
        wait_for_the_end()


def download(urls: Iterable[str]) -> Iterator[tuple[int, File]]:
    """Fetch one by one, over one connection."""
    connection: http.client.HTTPConnection | None = None
    for url in urls:
        place = urlsplit(url)
        connection = connection or http.client.HTTPConnection(place.netloc)
        connection.request("GET", place.path)
        name = Path(place.path).name
        yield number_of(name), (name, connection.getresponse().read())


def getfile(folder: Path, disk: float, file: File) -> int:
    """Save, and take the time of a disk in the middle of it."""
    name, content = file
    with (folder / name).open("wb") as target:
        middle = len(content) // 2
        target.write(content[:middle])
        time.sleep(disk)
        target.write(content[middle:])
    return number_of(name)


def number_of(name: str) -> int:
    """``0007.png`` is 7."""
    return int(Path(name).stem)


def check(gallery: Gallery, folder: Path) -> dict[str, int]:
    """How many files are there and right, there and wrong, and not there."""
    counts = {"wanted": gallery.count, "good": 0, "torn": 0, "missing": 0}
    for name in gallery.names():
        path = folder / name
        if not path.exists():
            counts["missing"] += 1
        else:
            counts["good" if path.read_bytes() == gallery.picture(name) else "torn"] += 1
    return counts
