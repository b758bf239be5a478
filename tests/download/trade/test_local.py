"""``producer --queue local``: real processes, real HTTP, real files; killed, interrupted, and run again."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from nearfar.cli.exits import Exit
from tests.download.trade.gate import Gate
from tests.support.exchange import Reply, Request
from tests.support.programs import COMMAND, Program
from tests.support.routes import content, status
from tests.support.shell import outlast_echo
from tests.support.waiting import eventually
from tests.support.web import Web

FILES = 300
GOING_ON = "run the same command again"


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as web:
        for number in range(FILES):
            web.routes[f"/{number}.png"] = content(body(number))
        yield web


@pytest.fixture(autouse=True)
def _no_command_outlives_its_test() -> Iterator[None]:
    yield
    while Command.started:
        Command.started.pop().close()


def body(number: int) -> bytes:
    return f"file {number} ".encode() * 2000


class Command:
    """A producer command of its own, with `--queue local`, in `folder`."""

    started: ClassVar[list[Command]] = []

    def __init__(self, folder: Path, *options: str) -> None:
        command = [*COMMAND, "producer", "--queue", "local", "-o", "files", *options]
        self.folder = folder
        self.process = Program(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.started.append(self)

    def end(self) -> tuple[int, list[str], str]:
        """Exit code, lines printed, messages."""
        try:
            out, err = self.process.communicate(timeout=90)
        finally:
            self.process.kill()
            self.process.wait()
        return self.process.returncode, out.splitlines(), err

    def close(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate()

    def children(self, life: str) -> list[int]:
        """The processes that run `life` (produce or consume); none once the command has ended."""
        try:
            listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        except OSError:
            return []
        return [int(pid) for pid in listed if life_of(int(pid)) == life]

    def interrupt(self, signum: int) -> None:
        self.process.send_signal(signum)


def life_of(pid: int) -> str | None:
    """What a child does, by its open files: only a consumer has the store's."""
    try:
        if b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return None
        targets = [link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return None
    return "consume" if ".nearfar.sqlite" in targets else "produce"


def urls_file(folder: Path, web: Web) -> list[str]:
    lines = [f"{web.url(f'/{number}.png')}\tname={number}.png\n" for number in range(FILES)]
    (folder / "urls.txt").write_text("".join(lines))
    return ["-i", "urls.txt"]


def all_there(folder: Path) -> bool:
    saved = {path.name: path.read_bytes() for path in (folder / "files").glob("*.png")}
    return saved == {f"{number}.png": body(number) for number in range(FILES)}


def partial_files(folder: Path) -> list[str]:
    """What the directory holds other than files under their names and the manifest."""
    names = (path.name for path in (folder / "files").iterdir())
    return [name for name in names if not name.endswith(".png") and not name.startswith(".nearfar.sqlite")]


def test_one_command_saves_everything_and_again_fetches_nothing(web: Web, tmp_path: Path) -> None:
    options = [*urls_file(tmp_path, web), "-P", "2", "-C", "2", "--quiet"]
    code, out, err = Command(tmp_path, *options).end()
    assert (code, out, err) == (Exit.OK, [f"{FILES} urls: {FILES} saved, 0 already there, 0 failed"], "")
    assert all_there(tmp_path)
    assert len(web.log) == FILES
    code, out, _ = Command(tmp_path, *options).end()
    assert (code, out) == (Exit.OK, [f"{FILES} urls: 0 saved, {FILES} already there, 0 failed"])
    assert len(web.log) == FILES


def test_failures_are_counted_written_and_can_be_fed_back(web: Web, tmp_path: Path) -> None:
    lines = [web.url("/0.png"), web.url("/none\tname=x.png"), "ftp://h/a", "# a remark", ""]
    (tmp_path / "urls.txt").write_text("\n".join(lines))
    code, out, _ = Command(tmp_path, "-i", "urls.txt").end()
    assert code == Exit.FAILED
    assert out[0] == "3 urls: 1 saved, 0 already there, 2 failed (rejected 1, http-4xx 1)"
    assert "nearfar-failures.txt" in out[1]
    failures = (tmp_path / "nearfar-failures.txt").read_text().splitlines()
    assert sorted(line.split("\t# ")[0] for line in failures) == ["ftp://h/a", f"{lines[1]}"]
    web.routes["/none"] = content(b"now")
    code, out, _ = Command(tmp_path, "-i", "nearfar-failures.txt").end()
    assert out[0] == "2 urls: 1 saved, 0 already there, 1 failed (rejected 1)"
    (tmp_path / "urls.txt").write_text(web.url("/0.png"))
    assert Command(tmp_path, "-i", "urls.txt").end()[0] == Exit.OK
    assert not (tmp_path / "nearfar-failures.txt").exists()


def test_one_bad_header_harms_no_other_file(web: Web, tmp_path: Path) -> None:
    """And each spelling of a link is one file, with blanks around it or not."""
    web.routes["/bad"] = status(503, {"Retry-After": "Thu, 01 Jan 99999999999999999999 00:00:00 GMT"})
    urls = [web.url(f"/{number}.png") for number in range(20)]
    again = urls[0].replace("http://", "HTTP://")
    lines = [
        web.url("/bad"),
        *urls,
        f"\t{again}#one ",
        f" {urls[0]}#two\t",
        f"{web.url('/x/..')}/1.png \t # no",
    ]
    (tmp_path / "urls.txt").write_text("\n".join(lines))
    code, out, err = Command(tmp_path, "-i", "urls.txt", "--retries", "0").end()
    assert code == Exit.FAILED and "Traceback" not in err
    assert out[0] == "24 urls: 20 saved, 3 already there, 1 failed (http-5xx 1)"
    assert len(web.log) == 21


def test_a_page_in_place_of_an_image_is_told_and_refused_where_images_are_expected(
    web: Web, tmp_path: Path
) -> None:
    web.routes["/cat.png"] = content(b"<html>Log in", content_type="text/html")
    web.routes["/page.html"] = content(b"<html>Hello", content_type="text/html")
    urls = [web.url("/cat.png"), web.url("/page.html")]
    code, out, err = Command(tmp_path, *urls).end()
    assert code == Exit.OK
    assert out == [
        "2 urls: 2 saved, 0 already there, 0 failed",
        "1 web page saved where a name promises another kind of file (--expect 'image/*' would refuse such)",
    ]
    assert "cat.png: a web page (text/html) was saved as cat.png" in err and "page.html" not in err
    code, out, _ = Command(tmp_path, urls[0] + "?again", "--expect", "image/*").end()
    assert (code, out[0]) == (Exit.FAILED, "1 url: 0 saved, 0 already there, 1 failed (rejected 1)")


def test_a_stop_does_not_wait_for_a_host_that_asks_for_patience(web: Web, tmp_path: Path) -> None:
    web.routes["/busy"] = status(429, {"Retry-After": "300"})
    command = Command(tmp_path, web.url("/busy"), web.url("/0.png"))
    assert eventually(lambda: len(web.log) == 2 and len(list(tmp_path.glob("files/*.png"))) == 1, 20)
    command.interrupt(signal.SIGINT)
    code, out, err = command.end()
    assert code == 128 + signal.SIGINT
    assert out[0] == "2 urls: 1 saved, 0 already there, 0 failed, 1 left"
    assert "asks for patience (HTTP 429 Said So): waiting 300 s" in err


@pytest.mark.parametrize("life", ["produce", "consume"])
def test_a_killed_child_costs_no_file(web: Web, tmp_path: Path, life: str) -> None:
    gate = Gate(web, after=FILES // 3)
    command = Command(tmp_path, *urls_file(tmp_path, web), "-P", "2", "-C", "2")
    assert gate.reached.wait(30)
    assert eventually(lambda: len(command.children("consume")) == 2, within=20), "their stores are open"
    os.kill(command.children(life)[0], signal.SIGKILL)
    gate.open()
    code, out, err = command.end()
    assert (code, out) == (Exit.OK, [f"{FILES} urls: {FILES} saved, 0 already there, 0 failed"])
    assert f"lost a {life}r process" in err
    assert "killed by SIGKILL" in err
    assert all_there(tmp_path)
    assert not partial_files(tmp_path)


def test_no_child_outlives_a_killed_command(web: Web, tmp_path: Path) -> None:
    gate = Gate(web, after=FILES // 3)
    command = Command(tmp_path, *urls_file(tmp_path, web), "-P", "2", "-C", "2")
    assert gate.reached.wait(30)
    assert eventually(lambda: len(command.children("produce") + command.children("consume")) == 4, within=20)
    children = command.children("produce") + command.children("consume")
    assert eventually(lambda: any((tmp_path / "files").glob("*.png")), within=10)
    command.process.kill()
    command.end()
    assert eventually(lambda: not any(map(life_of, children)), within=10)
    gate.open()
    fetched_before = len(web.log)
    code, _, _ = Command(tmp_path, *urls_file(tmp_path, web)).end()
    assert code == Exit.OK
    assert all_there(tmp_path)
    assert not partial_files(tmp_path)
    assert len(web.log) - fetched_before < FILES, "what was saved is not fetched again"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_what_is_in_hand_and_the_same_command_goes_on(
    web: Web, tmp_path: Path, signum: signal.Signals
) -> None:
    gate = Gate(web, after=FILES // 3)
    command = Command(tmp_path, *urls_file(tmp_path, web), "-P", "2")
    assert gate.reached.wait(30)
    command.interrupt(signum)
    assert command.process.stderr is not None
    assert "stopping" in command.process.stderr.readline()
    gate.open()
    code, out, _ = command.end()
    assert code == 128 + signum
    saved = len(list((tmp_path / "files").glob("*.png")))
    assert FILES // 3 <= saved < FILES
    assert out[0] == f"{FILES} urls: {saved} saved, 0 already there, 0 failed, {FILES - saved} left"
    assert GOING_ON in out[-1]
    assert len(web.log) == saved
    code, out, _ = Command(tmp_path, *urls_file(tmp_path, web)).end()
    assert (code, out) == (
        Exit.OK,
        [f"{FILES} urls: {FILES - saved} saved, {saved} already there, 0 failed"],
    )
    assert len(web.log) == FILES


def test_a_second_signal_leaves_at_once(web: Web, tmp_path: Path) -> None:
    gate = Gate(web, after=0)
    command = Command(tmp_path, *urls_file(tmp_path, web))
    assert gate.reached.wait(30)
    children = command.children("produce") + command.children("consume")
    command.interrupt(signal.SIGINT)
    assert command.process.stderr is not None
    assert "stopping" in command.process.stderr.readline()
    outlast_echo()
    command.interrupt(signal.SIGINT)
    assert command.end()[0] == Exit.INTERRUPTED
    assert eventually(lambda: not any(map(life_of, children)), within=10)
    gate.open()


def test_the_input_may_be_a_pipe_that_speaks_slowly(web: Web, tmp_path: Path) -> None:
    """The second line is written only after the first was fetched."""
    command = Program(
        [*COMMAND, "producer", "--queue", "local", "-o", "files", "-i", "-"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with command:
        assert command.stdin is not None and command.stdout is not None
        command.stdin.write(web.url("/1.png\n"))
        command.stdin.flush()
        assert eventually(lambda: len(web.log) == 1, within=20)
        command.stdin.write(web.url("/2.png"))
        command.stdin.close()
        assert command.stdout.read() == "2 urls: 2 saved, 0 already there, 0 failed\n"


@pytest.mark.slow
@pytest.mark.parametrize(("options", "processes"), [((), 1), (("-P", "1", "-C", "1"), 3)])
def test_a_large_file_costs_no_process_much_memory(
    web: Web, tmp_path: Path, options: tuple[str, ...], processes: int
) -> None:
    size, limit = 400 << 20, 64 << 20
    block = os.urandom(1 << 20)

    def large(request: Request, reply: Reply) -> None:
        reply.head(200, {"Content-Length": str(size)})
        for _ in range(size >> 20):
            reply.data(block)
        reply.end()

    web.routes["/large.bin"] = large
    command = Command(tmp_path, web.url("/large.bin"), *options)
    peaks: dict[int, list[int]] = {}

    def watch() -> bool:
        """The first memory of each process is its start: it has but imported by then."""
        for pid in (command.process.pid, *command.children("produce"), *command.children("consume")):
            if now := resident(pid):
                peaks.setdefault(pid, []).append(now)
        return command.process.poll() is not None

    assert eventually(lambda: len(web.log) == 1, within=20)
    assert eventually(watch, within=50)
    code, out, _ = command.end()
    assert (code, out) == (Exit.OK, ["1 url: 1 saved, 0 already there, 0 failed"])
    assert (tmp_path / "files" / "large.bin").stat().st_size == size
    assert len(peaks) == processes
    growth = {pid: max(seen) - seen[0] for pid, seen in peaks.items()}
    assert max(growth.values()) <= limit, growth


def resident(pid: int) -> int:
    """Bytes of memory; 0 if the process is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give URLs"),
        (["-i", "nowhere.txt"], "nowhere.txt"),
        (["http://h/", "--expect", "image/*", "--max-size", "12 parsecs"], "is not a size"),
        (["http://h/", "--header", "Range: bytes=0-"], "header Range"),
        (["http://h/", "--retries=-1"], "whole number"),
    ],
)
def test_a_mistake_on_the_command_line_is_said_in_a_sentence(
    tmp_path: Path, options: list[str], said: str
) -> None:
    code, out, err = Command(tmp_path, *options).end()
    assert (code, out) == (Exit.USAGE, [])
    assert said in err
    assert "Traceback" not in err


def test_a_directory_that_cannot_be_used_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "files").write_text("in the way")
    code, _, err = Command(tmp_path, "http://127.0.0.1:9/").end()
    assert code == Exit.USAGE
    assert "files: a file is in the way" in err
    assert "Traceback" not in err


def test_a_spoilt_file_is_fetched_again_where_the_list_tells_its_digest(web: Web, tmp_path: Path) -> None:
    line = f"{web.url('/1.png')}\tname=one.png\tsha256={hashlib.sha256(body(1)).hexdigest()}\n"
    (tmp_path / "urls.txt").write_text(line)
    one = tmp_path / "files" / "one.png"
    assert Command(tmp_path, "-i", "urls.txt").end()[0] == Exit.OK
    before = one.stat()
    one.write_bytes(bytes(len(body(1))))
    os.utime(one, ns=(before.st_atime_ns, before.st_mtime_ns))
    code, out, err = Command(tmp_path, "-i", "urls.txt").end()
    assert (code, out[0]) == (Exit.OK, "1 url: 1 saved, 0 already there, 0 failed")
    assert "one.png was not what its list tells any more: it is one.spoilt.png now, and saved anew" in err
    assert one.read_bytes() == body(1)
    assert Command(tmp_path, "-i", "urls.txt").end()[1][0] == "1 url: 0 saved, 1 already there, 0 failed"
