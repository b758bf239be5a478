"""What a fault costs: numbered items go from one producer through one queue to two consumers, and a process
is killed, is stopped, or stops reading. Each process records what it did in an event log, and `judge`
compares the logs.

The last part does the same with the two functions of a tutorial, `download` and `getfile`, and real pictures.
"""

from __future__ import annotations

import http.client
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nearfar.contrast.processes import (
    BEGUN,
    FORK,
    GREETED,
    Event,
    EventLog,
    ProcessGroup,
    count_events,
    read_events,
    send_signal,
    wait_for_the_end,
)
from nearfar.contrast.settings import Settings
from nearfar.contrast.transports import ContestedQueue, QueueContestant
from nearfar.contrast.verdict import distinct, judge
from nearfar.demo.gallery import Gallery
from nearfar.demo.server import GalleryServer

BOUND = 1000
"""Items that the queue takes, which is also the default high-water mark of ZeroMQ."""
POLL = 0.005
"""Seconds between two looks at an event log, and between two greetings."""
Numbered = Iterable[tuple[int, Any]]
"""Items to put, each with the number that stands for it in the event logs."""
Handle = Callable[[Any], int]
"""What a consumer does with an item; returns the item's number."""

# -- the processes ---------------------------------------------------------------------------------


def produce(
    queue: ContestedQueue,
    log: Path,
    readers: Sequence[Path],
    parts: Sequence[Numbered],
    cue: Connection,
    die_after: int | None = None,
) -> None:
    """Put the parts, waiting for a cue between two of them, and stay alive.

    Before that, put greetings until each consumer has got one: a PUSH socket would send everything to the
    first consumer that connects. `die_after`: kill this process after so many puts have returned.
    """
    producer = queue.producer()
    while not all(any(event.number == GREETED for event in read_events(reader)) for reader in readers):
        producer.put(None)
        time.sleep(POLL)
    events = EventLog(log)
    events.write(BEGUN)
    put = 0
    for index, part in enumerate(parts):
        if index:
            cue.recv()
        for number, item in part:
            producer.put(item)
            events.write(number)
            put += 1
            if put == die_after:
                os.kill(os.getpid(), signal.SIGKILL)
    wait_for_the_end()


def consume(queue: ContestedQueue, log: Path, handle: Handle, most: int | None = None) -> None:
    """Get and handle items, and record each one after that. After `most` items, get no more, and stay
    alive."""
    consumer = queue.consumer()
    events = EventLog(log)
    done = 0
    while done != most:
        item = consumer.get()
        if item is None:
            events.write(GREETED)
        else:
            events.write(handle(item))
            done += 1
    wait_for_the_end()


def work_briefly(item: int) -> int:
    """Half a millisecond of work."""
    time.sleep(0.0005)
    return item


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """What is put, how it is handled, and the faults that are built in."""

    parts: Sequence[Numbered]
    handle: Handle
    count: int
    """Items of all parts together."""
    quiet: float
    most: int | None = None
    """Items after which the victim reads no more."""
    die_after: int | None = None
    """Puts after which the producer kills itself."""


class Trial:
    """Starts the processes and watches their event logs. The victim is consumer 0 or 1."""

    def __init__(
        self, queue: ContestedQueue, group: ProcessGroup, folder: Path, plan: TrialPlan, victim: int
    ) -> None:
        self.queue = queue
        self.plan = plan
        self._victim = victim
        self._sent = folder / "sent"
        self._got = [folder / "first", folder / "second"]
        self._cue, cue = FORK.Pipe()
        self._consumers = [
            group.start(consume, queue, got, plan.handle, plan.most if index == victim else None)
            for index, got in enumerate(self._got)
        ]
        group.start(produce, queue, self._sent, self._got, plan.parts, cue, plan.die_after)

    def sent(self) -> list[Event]:
        """Every put that returned."""
        return [event for event in read_events(self._sent) if event.number >= 0]

    def begun(self) -> float:
        """When all consumers were connected and the first put began."""
        return next(event.time for event in read_events(self._sent) if event.number == BEGUN)

    def received(self) -> list[Event]:
        """What both consumers have handled, in the order of time."""
        events = [event for got in self._got for event in read_events(got) if event.number >= 0]
        return sorted(events, key=lambda event: event.time)

    def wait_begun(self) -> None:
        """Wait until all consumers are connected."""
        self._wait(lambda: count_events(self._sent) > 0)

    def wait_victim(self, count: int) -> None:
        """Wait until the victim has handled so many items."""
        got = self._got[self._victim]
        self._wait(lambda: sum(event.number >= 0 for event in read_events(got)) >= count)

    def wait_received(self, count: int) -> None:
        """Wait until both consumers together have handled so many items."""
        self._wait(lambda: len(self.received()) >= count)

    def _wait(self, holds: Callable[[], bool]) -> None:
        """No limit here: the runner has one."""
        while not holds():
            time.sleep(POLL)

    def watch(self) -> None:
        """Wait until everything has arrived, or nothing has happened for the quiet time."""
        last, since = -1, time.monotonic()
        whole = self.plan.die_after or self.plan.count
        while time.monotonic() - since < self.plan.quiet:
            count = sum(map(count_events, (self._sent, *self._got)))
            if count != last:
                last, since = count, time.monotonic()
                if len(distinct(self.received())) == whole == len(self.sent()):
                    return
            time.sleep(0.02)

    def signal_victim(self, signum: signal.Signals) -> None:
        """Send the victim a signal."""
        send_signal(self._consumers[self._victim], signum)

    def put_next_part(self) -> None:
        """Let the producer begin its next part."""
        self._cue.send("continue")


# -- the faults ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault, and when it happens."""

    name: str
    text: str
    happen: Callable[[Trial], None]
    """Returns when the fault has happened; at once where it is built into the plan."""
    in_two_parts: bool = False
    """The second half of the items is put after all of the first half has arrived."""
    resumes: bool = False
    """The victim is resumed in the end."""
    victim_lives: bool = False
    """The victim keeps, alive, the items that it was given."""
    producer_dies: bool = False
    stops_reading: bool = False
    needs_host: bool = False

    def plan(self, settings: Settings) -> TrialPlan:
        """Numbers as items, and the faults that are built in."""
        numbers = range(settings.items)
        middle = settings.items // 2 if self.in_two_parts else settings.items
        parts = [
            [(number, number) for number in part] for part in (numbers[:middle], numbers[middle:]) if part
        ]
        return TrialPlan(
            parts,
            work_briefly,
            settings.items,
            settings.quiet,
            most=settings.items // 100 if self.stops_reading else None,
            die_after=settings.items // 2 if self.producer_dies else None,
        )


def kill_at_work(trial: Trial) -> None:
    trial.wait_victim(trial.plan.count // 20)
    trial.signal_victim(signal.SIGKILL)


def kill_waiting(trial: Trial) -> None:
    trial.wait_received(trial.plan.count // 2)
    time.sleep(0.2)  # so that both consumers wait in `get` again
    trial.signal_victim(signal.SIGKILL)
    trial.put_next_part()


def stop(trial: Trial) -> None:
    trial.wait_victim(trial.plan.count // 20)
    trial.signal_victim(signal.SIGSTOP)


def restart_host(trial: Trial) -> None:
    trial.wait_received(trial.plan.count // 4)
    trial.queue.kill_host()
    time.sleep(0.3)
    trial.queue.start_host()


FAULTS = {
    fault.name: fault
    for fault in (
        Fault(
            "consumer killed at work",
            "One of two consumers is killed (kill -9) while both have work.",
            kill_at_work,
        ),
        Fault(
            "consumer killed while waiting",
            "One of two consumers is killed (kill -9) while both wait in get; then more items are put.",
            kill_waiting,
            in_two_parts=True,
        ),
        Fault(
            "consumer frozen",
            "One of two consumers is stopped (SIGSTOP), and resumed once no more items arrive.",
            stop,
            resumes=True,
            victim_lives=True,
        ),
        Fault(
            "consumer stops reading",
            "One of two consumers stays connected, but does not call get any more.",
            Trial.wait_begun,
            victim_lives=True,
            stops_reading=True,
        ),
        Fault(
            "producer killed",
            "The producer is killed (kill -9) right after a put has returned.",
            Trial.wait_begun,
            producer_dies=True,
        ),
        Fault(
            "host killed and restarted",
            "The process that holds the items is killed (kill -9) and started again 0.3 s later.",
            restart_host,
            needs_host=True,
        ),
    )
}


def measure_fault(
    transport: QueueContestant, settings: Settings, folder: Path, name: str, number: int
) -> dict[str, Any]:
    """The verdict on trial `number`, as JSON. The victim alternates from trial to trial."""
    fault = FAULTS[name]
    with ProcessGroup() as group, transport.open(folder, BOUND) as queue:
        trial = Trial(queue, group, folder, fault.plan(settings), victim=number % 2)
        fault.happen(trial)
        happened = time.monotonic()
        trial.watch()
        in_time = trial.received()
        if fault.resumes:
            trial.signal_victim(signal.SIGCONT)
            trial.watch()
        ended = time.monotonic()
        return asdict(
            judge(
                trial.sent(),
                in_time,
                trial.received(),
                happened=happened,
                ended=ended,
                held=_held(queue, fault),
            )
        )


def _held(queue: ContestedQueue, fault: Fault) -> int:
    """How many of the missing items may still be held somewhere.

    A consumer that is alive holds what it was given, of unknown number. What a dead producer had not sent is
    lost, whatever the queue counts. In all other cases the queue itself is asked.
    """
    if fault.producer_dies:
        return 0
    if fault.victim_lives:
        return 1 << 60
    return queue.size() or 0


# -- the tutorial's download -----------------------------------------------------------------------

File = tuple[str, bytes]
DISK = 0.003
"""Seconds that saving takes in addition to writing, as on a slow disk, so that files wait in the queue."""


def measure_download(
    transport: QueueContestant, settings: Settings, folder: Path, *, kill: bool, number: int
) -> dict[str, Any]:
    """Files per second, and what became of the files. `kill`: one `getfile` process is killed halfway."""
    gallery = Gallery(settings.pictures, large=0)
    saved = folder / "saved"
    saved.mkdir()
    here, there = FORK.Pipe()
    with ProcessGroup() as group, here, there, transport.open(folder, BOUND) as queue:
        group.start(_serve, gallery, there)
        urls: list[str] = here.recv()
        handle = partial(getfile, saved, DISK if kill else 0.0)
        plan = TrialPlan([download(urls)], handle, settings.pictures, settings.quiet)
        trial = Trial(queue, group, folder, plan, victim=number % 2)
        if kill:
            trial.wait_victim(settings.pictures // 8)
            trial.signal_victim(signal.SIGKILL)
        else:
            trial.wait_begun()
        trial.watch()
        received = trial.received()
        rate = len(received) / (received[-1].time - trial.begun()) if received else 0.0
    return {"rate": rate, **check(gallery, saved), "duplicated": len(received) - len(distinct(received))}


def _serve(gallery: Gallery, pipe: Connection) -> None:
    """Serve the pictures, which are drawn beforehand."""
    for name in gallery.names():
        gallery.picture(name)
    with GalleryServer(gallery) as server:
        pipe.send([f"{server.url}/images/{name}" for name in gallery.names()])
        wait_for_the_end()


def download(urls: Iterable[str]) -> Iterator[tuple[int, File]]:
    """Fetch the URLs one after the other, over one connection."""
    connection: http.client.HTTPConnection | None = None
    for url in urls:
        place = urlsplit(url)
        connection = connection or http.client.HTTPConnection(place.netloc)
        connection.request("GET", place.path)
        name = Path(place.path).name
        yield number_of(name), (name, connection.getresponse().read())


def getfile(folder: Path, disk: float, file: File) -> int:
    """Save a file, with `disk` seconds spent in the middle of it."""
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
    """Count the files that are saved correctly, those with wrong content, and those that are missing."""
    counts = {"wanted": gallery.count, "good": 0, "torn": 0, "missing": 0}
    for name in gallery.names():
        path = folder / name
        if not path.exists():
            counts["missing"] += 1
        else:
            counts["good" if path.read_bytes() == gallery.picture(name) else "torn"] += 1
    return counts
