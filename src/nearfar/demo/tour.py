"""The tour that ``nearfar demo`` gives: the same download near, far, far with a consumer killed, and by a
pool; verified."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

from nearfar.contrast.report_model import Table, promise_table, queue_promises
from nearfar.demo.commands import LONGEST, Command, DemoError, typed
from nearfar.demo.gallery import Gallery
from nearfar.demo.server import GalleryServer
from nearfar.download.model import Saved
from nearfar.download.store.listing import Listing
from nearfar.download.store.store import Store

if TYPE_CHECKING:
    from rich.console import Console

NEAR, FAR = "near", "far"
KILL, POOL = ("kill-1", "kill-2"), ("pool-1", "pool-2")
FOLDERS = (NEAR, FAR, *KILL, *POOL)
"""Where the runs save, below the output folder. Two consumers have a folder each."""
MARK = ".nearfar-demo"
"""A file that marks the folder of a demo. It is locked while a demo is running there."""
LISTS = re.compile(r"urls\.txt|\.?[a-z]+-failures\.txt(\.\d+)?")
SAVED = re.compile(r"\d{4}(-[0-9a-f]+)?\.png|\.nearfar\S*")
ANYWHERE = "tcp://127.0.0.1:*"
SLOW_RATE = "3M"
"""Bytes per second in the run with the kill, so that the kill comes in the middle of it."""
SAVED_BEFORE_KILL = 20
SOME_FAILED = 1
"""The exit code of a producer that did all it could: the dead link failed."""


def say(line: str) -> None:
    print(line, flush=True)


def show(table: Table, console: Console) -> None:
    """Print a table with rich, which comes with the extra ``download``, as pycurl does."""
    console.print(table.drawn())
    console.print()


# -- the output folder -----------------------------------------------------------------------------


class FolderUnusable(DemoError):
    """The folder that was asked for cannot be the demo's."""


@contextmanager
def output_folder(root: Path, names: Sequence[str]) -> Iterator[None]:
    """Make `root`, or remove from it what an earlier demo saved in the folders called `names`.

    Raises `FolderUnusable` when `root` is not empty and not from a demo, when it holds files that no demo
    makes, when another demo is running in it, or when it cannot be written.
    """
    try:
        mark = _take_folder(root, names)
    except OSError as error:
        raise FolderUnusable(f"cannot use {error.filename or root}: {error.strerror or error}") from error
    with mark:
        yield


def _take_folder(root: Path, names: Sequence[str]) -> IO[str]:
    """Lock `root` for as long as the returned file is open, and clean it."""
    root.mkdir(parents=True, exist_ok=True)
    if any(root.iterdir()) and not (root / MARK).is_file():
        raise FolderUnusable(f"{root} is not empty, and not from a demo: name another folder with --output")
    with ExitStack() as undo:
        mark = undo.enter_context(_open_mark(root / MARK))
        try:
            fcntl.flock(mark.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderUnusable(
                f"another demo is running in {root}: wait until it ends, or name another --output"
            ) from None
        _remove_files(root, LISTS)
        for name in names:
            _clean(root / name)
        undo.pop_all()
    return mark


def _open_mark(path: Path) -> IO[str]:
    """Open it only if it is a regular file: not through a link, and not a FIFO, whose reader may not
    exist."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FolderUnusable(f"{path} is not a regular file, so no demo made it: move it away")
    return os.fdopen(descriptor, "w")


def _clean(folder: Path) -> None:
    if folder.is_symlink():
        raise FolderUnusable(f"{folder} is a link, so no demo made it: move it away")
    if not folder.exists():
        return
    _remove_files(folder, SAVED)
    if left := sorted(path.name for path in folder.iterdir()):
        raise FolderUnusable(f"{folder} holds {left[0]!r}, which no demo made: move it away")
    folder.rmdir()


def _remove_files(folder: Path, pattern: re.Pattern[str]) -> None:
    for path in folder.iterdir():
        if pattern.fullmatch(path.name) and not path.is_dir():
            path.unlink()


# -- the check -------------------------------------------------------------------------------------


@dataclass(slots=True)
class CheckedFiles:
    """What was found in the folders of one run."""

    files: Counter[Path] = field(default_factory=Counter)
    """How many correct files each folder holds."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes, by the URL of each correct file."""
    attempts: dict[str, int] = field(default_factory=dict)
    """How often each of them was asked for until it came."""
    complaints: list[str] = field(default_factory=list)

    @property
    def twice(self) -> int:
        """How many correct files are in two folders."""
        return self.files.total() - len(self.sizes)


def check(gallery: Gallery, wanted: list[str], folders: list[Path]) -> CheckedFiles:
    """Compare every file in `folders` with its picture, drawn again, and look for a file of every URL in
    `wanted`.

    Raises `StoreError`.
    """
    checked = CheckedFiles()
    for folder in folders:
        with Store(folder) as store:
            store.sweep()
        with Listing(folder) as listing:
            rows = list(listing.rows())
        for row in rows:
            _check_file(gallery, folder, row, checked)
        known = {row.name for row in rows}
        unknown = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
        checked.complaints += [f"{folder / name} is in no manifest" for name in unknown if name not in known]
    checked.complaints += [f"{url} was not saved" for url in wanted if url not in checked.sizes]
    return checked


def _check_file(gallery: Gallery, folder: Path, row: Saved, checked: CheckedFiles) -> None:
    path = folder / row.name
    picture = gallery.picture(urlsplit(row.url).path.rpartition("/")[2])
    if not path.is_file():
        checked.complaints.append(f"{path} is in the manifest, but is missing")
    elif picture is None or path.read_bytes() != picture:
        checked.complaints.append(f"{path} is not the picture at {row.url}")
    else:
        checked.files[folder] += 1
        checked.sizes[row.url] = len(picture)
        checked.attempts[row.url] = row.attempts


# -- the runs --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DemoRun:
    """How long a run took, and what it saved."""

    name: str
    processes: str
    seconds: float
    failed: list[str]
    """The URLs in the producer's failures file."""
    checked: CheckedFiles

    def complaints(self, dead: str, busy: str) -> list[str]:
        """What is wrong: the URL `dead` alone must have failed, and `busy` been tried again."""
        found = list(self.checked.complaints)
        if self.failed != [dead]:
            found.append(f"{dead} alone should have failed, not {', '.join(self.failed) or 'nothing'}")
        if self.checked.attempts.get(busy, 2) < 2:
            found.append(f"{busy} was saved at the first attempt, although it was busy")
        return found


class DemoRunner:
    """Runs the commands of one run, saves below `root`, and prints what a user would see."""

    def __init__(self, gallery: Gallery, root: Path, server: GalleryServer) -> None:
        self._gallery = gallery
        self._root = root
        self._server = server

    def near(self) -> DemoRun:
        """One command: it starts a producer and a consumer of its own."""
        started = time.perf_counter()
        # With a process of each, for the queue between them is what is shown.
        self._produce(NEAR, "--queue", "local", "-o", str(self._root / NEAR), "-P", "1", "-C", "1")
        return self._run("near", "3", started, NEAR, (NEAR,))

    def far(self) -> DemoRun:
        """Two commands that meet at a TCP address."""
        started = time.perf_counter()
        with self._host(FAR) as (consumer, address):
            self._produce(FAR, "--queue", address)
            consumer.end("the consumer")
        return self._run("far", "2", started, FAR, (FAR,))

    def kill(self) -> DemoRun:
        """A producer and two consumers. The second one is killed when it has saved some files."""
        started = time.perf_counter()
        with self._host(KILL[0]) as (first, address):
            with self._join(KILL[1], address) as victim:
                words = ("--queue", address, "--rate", SLOW_RATE)
                self._produce("kill", *words, meanwhile=lambda producer: self._kill(victim, producer))
            first.end("the first consumer")
        return self._run("far, one killed", "3 - 1", started, "kill", KILL)

    def pool(self) -> DemoRun:
        """A producer that lets the two workers of a pool fetch, and two consumers."""
        with self._pool() as pool:
            started = time.perf_counter()
            with self._host(POOL[0]) as (first, address), self._join(POOL[1], address) as second:
                self._produce("pool", "--queue", address, "--pool", pool)
                first.end("the first consumer")
                second.end("the second consumer")
            return self._run("far, by a pool", "3 + 4", started, "pool", POOL)

    def _kill(self, victim: Command, producer: Command) -> None:
        folder, until = self._root / KILL[1], time.monotonic() + LONGEST
        while (saved := saved_in(folder)) < SAVED_BEFORE_KILL:
            if producer.has_ended() or victim.has_ended() or time.monotonic() > until:
                raise DemoError(
                    f"the second consumer saved only {saved} files: too few to kill it in the middle"
                )
            time.sleep(0.01)
        victim.kill()
        victim.end("the second consumer", -signal.SIGKILL)
        say(f"   $ kill -9 {victim.pid}    (the second consumer, in the middle of its work)")

    def _command(self, *words: str) -> Command:
        say(f"   $ {typed(*words)}")
        return Command(*words)

    @contextmanager
    def _host(self, folder: str) -> Iterator[tuple[Command, str]]:
        """A consumer that hosts the queue, and the address."""
        with self._command("consumer", "--bind", ANYWHERE, "-o", str(self._root / folder)) as consumer:
            address = consumer.queue_address()
            say(f"     hosting the queue at {address}")
            yield consumer, address

    @contextmanager
    def _join(self, folder: str, address: str) -> Iterator[Command]:
        """A second consumer, once it is connected."""
        with self._command("consumer", "--queue", address, "-o", str(self._root / folder)) as consumer:
            consumer.queue_address()
            yield consumer

    @contextmanager
    def _pool(self) -> Iterator[str]:
        """The address of a pool with two workers. They would run without end, and are killed in the end."""
        with self._command("coordinator", "--bind", ANYWHERE, "--workers", "0") as coordinator:
            address = coordinator.pool_address()
            say(f"     coordinating at {address}")
            with self._command("worker", "--connect", address, "--processes", "2") as worker:
                worker.pool_address()
                yield address

    def _produce(
        self, name: str, *words: str, meanwhile: Callable[[Command], None] = lambda producer: None
    ) -> None:
        """Write the list, run a producer on it to its end, and say what it printed."""
        urls = self._root / "urls.txt"
        urls.write_text("".join(f"{url}\n" for url in self._server.urls))
        words = ("producer", *words, "-i", str(urls), "--failures", str(self._failures(name)))
        with self._command(*words) as producer:
            meanwhile(producer)
            ended = producer.end("the producer", SOME_FAILED)
        say(f"     {ended.stdout.partition(chr(10))[0]}")

    def _failures(self, name: str) -> Path:
        return self._root / f"{name}-failures.txt"

    def _run(
        self, name: str, processes: str, started: float, failures: str, folders: Sequence[str]
    ) -> DemoRun:
        seconds = time.perf_counter() - started
        path = self._failures(failures)
        lines = path.read_text().splitlines() if path.exists() else []
        failed = [line.partition("\t")[0] for line in lines]
        checked = check(self._gallery, self._server.urls[:-1], [self._root / folder for folder in folders])
        return DemoRun(name, processes, seconds, failed, checked)


def saved_in(folder: Path) -> int:
    """How many files have their final names."""
    return sum(not path.name.startswith(".") for path in folder.iterdir()) if folder.is_dir() else 0


# -- the tour --------------------------------------------------------------------------------------

Act = tuple[str, Callable[[DemoRunner], DemoRun], Callable[[CheckedFiles], str]]
"""A heading, a run, and what more to say of its files."""


def tell_kill(checked: CheckedFiles) -> str:
    other, killed = checked.files.values()
    twice = f"\n   {checked.twice} are in both: the killed one had saved them, but not acknowledged them."
    return (
        f"   No file is missing: {killed} are from the killed consumer, {other} from the other one, which\n"
        f"   also got the files that the killed one had not acknowledged.{twice if checked.twice else ''}"
    )


def tell_pool(checked: CheckedFiles) -> str:
    shares = " and ".join(map(str, checked.files.values()))
    return f"   Two workers fetched, and the consumers saved {shares} files."


ACTS: tuple[Act, ...] = (
    ("2. Near: one command. Its processes share a pipe", DemoRunner.near, lambda checked: ""),
    (
        "3. Far: two commands with a queue over TCP between them. They could be on two machines",
        DemoRunner.far,
        lambda checked: "",
    ),
    ("4. Far, with two consumers, one of which is killed in the middle", DemoRunner.kill, tell_kill),
    (
        "5. Far, and the workers of a pool fetch. They, too, could be on any machine",
        DemoRunner.pool,
        tell_pool,
    ),
)


def give_tour(root: Path, gallery: Gallery, console: Console) -> list[str]:
    """Run the demo, save below `root`, and print what happens, tables on `console`.

    Returns what went wrong, in sentences.

    Raises `DemoError` when it cannot continue.
    """
    with output_folder(root, FOLDERS):
        say("The same download, near and far. All of it happens on this machine, in a few seconds.")
        sizes = [len(gallery.picture(name) or b"") for name in gallery.names()]
        say("\n1. A web site to download from")
        say(f"   {len(sizes)} pictures are drawn, {sum(sizes) / 1e6:.1f} MB, and served over HTTP.")
        say("   One more link is busy at first (503, retry after a second); one is dead (404).")
        runs, wrong = [], []
        for heading, begin, story in ACTS:
            say(f"\n{heading}")
            with GalleryServer(gallery) as server:  # a new one, whose busy link is busy again
                run = begin(DemoRunner(gallery, root, server))
                *_, busy, dead = server.urls
            complaints = run.complaints(dead, busy)
            tell(run, complaints, story)
            runs.append(run)
            wrong += complaints
    say("\n6. Side by side\n")
    show(run_table(runs), console)
    say("   Seconds are those of whole commands, from start to exit; the pool was started before. One second")
    say("   of each is the wait for the busy link.")
    say(f"   The run with the kill is limited to {SLOW_RATE} bytes per second, so that it has a middle.")
    say("\n7. What each queue promises\n")
    show(promise_table(queue_promises()), console)
    return wrong


def tell(run: DemoRun, complaints: list[str], story: Callable[[CheckedFiles], str]) -> None:
    """What the check of a run found. If nothing is wrong, `story` says more."""
    for complaint in complaints:
        say(f"   WRONG: {complaint}")
    if not complaints:
        say(f"   Checked: {len(run.checked.sizes)} files, equal byte for byte to what was drawn.")
        say("   The busy link was tried again; the dead one is the only failure.")
        if more := story(run.checked):
            say(more)


def run_table(runs: Sequence[DemoRun]) -> Table:
    """A row for each run."""
    rows = []
    for run in runs:
        files, size = len(run.checked.sizes), sum(run.checked.sizes.values())
        speed = (f"{run.seconds:.1f}", f"{files / run.seconds:.0f}", f"{size / run.seconds / 1e6:.1f}")
        rows.append([run.name, run.processes, f"{files}", f"{len(run.failed)}", *speed])
    return Table(["", "processes", "files", "failed", "seconds", "files/s", "MB/s"], rows)


def farewell(root: Path) -> None:
    """What to type next."""
    say(f"All is as expected. The pictures are in {root}.")
    say("\nYour turn. In one terminal:")
    say(f"   {typed('consumer', '-o', 'downloads')}")
    say("and in another one, with any links you like:")
    say(f"   {typed('producer', 'https://www.python.org/static/img/python-logo.png')}")
