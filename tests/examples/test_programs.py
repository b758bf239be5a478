"""The gallery's programs, each near and far, with what a user of them would check."""

from __future__ import annotations

import hashlib
import io
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nearfar import Queue
from tests.pool.pools import coordinated
from tests.support import routes
from tests.support.exchange import Reply, Request
from tests.support.waiting import eventually
from tests.support.web import Web

EXAMPLES = Path(__file__).parents[2] / "examples"
LIMIT = 80.0
"""Seconds that a program may take."""


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address and the folder of a web server on this machine."""
    folder = tmp_path / "site"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", folder
        finally:
            server.shutdown()
            thread.join()


def started(program: str, *words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-X", "utf8", EXAMPLES / program, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")


def ended(process: subprocess.Popen[str], code: int = 0) -> list[str]:
    """The lines that a program printed, which must end with `code`."""
    with process:
        try:
            out, _ = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == code, out
    return out.splitlines()


def free_address() -> str:
    """An address whose port, and the port after it, are free."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = first.getsockname()[1]
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except OSError:
                continue
            return f"tcp://127.0.0.1:{port}"


@pytest.fixture
def linked(site: tuple[str, Path]) -> tuple[str, set[str]]:
    """The first of 30 pages that link to each other, and the lines that a crawl of them prints."""
    address, folder = site
    for number in range(30):
        links = (
            f'<a href="{(number * 7 + 1) % 30}.html#top"></a><a class=x href="{(number + 1) % 30}.html"></a>'
        )
        (folder / f"{number}.html").write_text(
            f"{links}<a href='http://other.invalid/'></a>", encoding="utf-8"
        )
    with (folder / "7.html").open("a", encoding="utf-8") as page:
        page.write('<a href="missing.html"></a>')
    pages = {f"{address}{number}.html " for number in range(30)}
    return f"{address}0.html", pages | {f"{address}missing.html HTTP Error 404: File not found"}


def test_a_crawl_near_visits_each_page_once(linked: tuple[str, set[str]]) -> None:
    start, pages = linked
    lines = ended(started("crawler.py", start))
    assert (set(lines), len(lines)) == (pages, len(pages))


@pytest.mark.usefixtures("linked")
def test_a_crawl_far_is_joined_by_other_programs(site: tuple[str, Path]) -> None:
    """The first page ends when all have joined: later, there might be nothing to join."""
    at, all_joined = free_address(), threading.Event()

    def first(_: Request, reply: Reply) -> None:
        reply.head(200, {"Content-Type": "text/html"})
        while not all_joined.wait(1):
            reply.data(b" ")
        reply.data((site[1] / "0.html").read_bytes())
        reply.drop()

    with Web() as web:
        for page in site[1].glob("*.html"):
            web.routes[f"/{page.name}"] = routes.content(page.read_bytes(), content_type="text/html")
        web.routes["/0.html"] = first
        web.at_close.append(all_joined.set)
        joined = started("crawler.py", "--join", at, "--processes", 2)
        crawl = started("crawler.py", web.url("/0.html"), "--at", at, "--processes", 1)
        with Queue.connect(at, wait=LIMIT) as queue:
            assert eventually(lambda: queue.counts()["consumers"] == 3, LIMIT)
        all_joined.set()
        lines = ended(crawl)
        pages = {web.url(f"/{number}.html ") for number in range(30)}
        pages.add(web.url("/missing.html HTTP Error 404: Said So"))
        assert (set(lines), len(lines)) == (pages, len(pages))
        assert ended(joined) == []


def test_a_crawl_stops_at_its_limit(linked: tuple[str, set[str]]) -> None:
    assert len(ended(started("crawler.py", linked[0], "--limit", 9))) == 9


def log(path: Path, statuses: dict[str, int]) -> Path:
    lines = [f'::1 - - "GET / HTTP/1.1" {status} 1\n' * count for status, count in statuses.items()]
    path.write_text("".join(lines) + "not a request\n", encoding="utf-8")
    return path


def test_logs_are_counted_near_and_far(tmp_path: Path) -> None:
    first = log(tmp_path / "a.log", {"200": 12_345, "404": 10})
    second = log(tmp_path / "b.log", {"200": 5, "500": 1})
    counts = [f"200 {12_350:>8,}", f"404 {10:>8,}", f"500 {1:>8,}"]
    assert ended(started("logs.py", "count", first, second)) == counts

    at = free_address()
    collector = started("logs.py", "collect", at, "--readers", 2)
    senders = [started("logs.py", "send", at, path) for path in (first, second)]
    assert [ended(sender) for sender in senders] == [[], []]
    assert ended(collector) == counts


def test_a_log_that_cannot_be_read_is_not_left_out_of_the_total(tmp_path: Path) -> None:
    lines = ended(
        started("logs.py", "count", log(tmp_path / "a.log", {"200": 1}), tmp_path / "no.log"), code=1
    )
    assert lines[-1] == "a reader failed: the counts are not complete"


def test_a_sweep_finds_the_same_best_settings_near_and_far() -> None:
    with coordinated(2) as coordinator:
        far = started("sweep.py", "--pool", coordinator)
        near = ended(started("sweep.py"))
        assert ended(far)[-1] == near[-1]
    assert re.fullmatch(r"best: 0\.9\d\d with .*", near[-1])
    assert len(near) == 19


def test_thumbnails_are_the_same_near_and_far(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(5):
        image.new("RGB", (200, 100), (number * 40, 0, 0)).save(pictures / f"{number}.png")
    (pictures / "text.txt").write_text("no picture", encoding="utf-8")
    with coordinated(2) as coordinator:
        far = started("thumbnails.py", pictures, tmp_path / "far", "--pool", coordinator)
        near = ended(started("thumbnails.py", pictures, tmp_path / "near"))
        assert ended(far)[-1] == near[-1]
    assert near[-1] == "5 thumbnails, 1 failed"
    assert near[0].startswith("text.txt: cannot identify image file")
    made = {path.name: path.read_bytes() for path in (tmp_path / "near").iterdir()}
    assert made == {path.name: path.read_bytes() for path in (tmp_path / "far").iterdir()}
    assert {image.open(io.BytesIO(made[f"{number}.png"])).size for number in range(5)} == {(64, 32)}


@pytest.mark.parametrize("way", [(), ("--far",)], ids=["near", "far"])
def test_a_data_set_is_downloaded_and_checked(
    way: tuple[str, ...], site: tuple[str, Path], tmp_path: Path
) -> None:
    address, served = site
    (served / "part").mkdir()
    files = {"a.bin": bytes(range(256)) * 1000, "part/b c.txt": b"two\n"}
    for name, content in files.items():
        (served / name).write_bytes(content)
    sums = [f"{hashlib.sha256(content).hexdigest()}  {name}" for name, content in files.items()]
    (tmp_path / "SUMS").write_text("\n".join(sums), encoding="utf-8")
    queue = ("--queue", free_address()) if way else ()

    lines = ended(started("dataset.py", address, tmp_path / "SUMS", tmp_path / "data", *way, *queue))
    assert {name: (tmp_path / "data" / name).read_bytes() for name in files} == files
    assert lines[-1].startswith("2 of 2 urls saved and verified")


def test_a_file_with_another_digest_is_not_saved(site: tuple[str, Path], tmp_path: Path) -> None:
    address, served = site
    for name in ("good", "changed"):
        (served / name).write_text(name, encoding="utf-8")
    sums = tmp_path / "SUMS"
    sums.write_text(f"{hashlib.sha256(b'good').hexdigest()}  good\n{'0' * 64}  changed\n", encoding="utf-8")
    lines = ended(started("dataset.py", address, sums, tmp_path / "data"), code=1)
    assert f"failed (checksum): {address}changed" in "\n".join(lines)
    assert {path.name for path in (tmp_path / "data").iterdir() if path.name[0] != "."} == {"good"}
