"""What is measured of a queue while nothing goes wrong: throughput, round trips, memory and start-up."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from nearfar.contrast.processes import FORK, ProcessGroup
from nearfar.contrast.redis_server import redis_server
from nearfar.contrast.settings import FAR_IPC, FAR_TCP, KIB, NEAR, QUEUE, RAW, REDIS, Settings, percentiles
from nearfar.contrast.transports import ContestedQueue, QueueContestant

WARM_UP = 20
"""Round trips and calls that are not counted."""

# -- throughput ------------------------------------------------------------------------------------

FIRST, END = b"first", b""
MOST = 64
"""Items of a batch at most."""
LARGEST = 1024 * KIB
"""Bytes of a batch at most."""
BOUND = 1000
"""Items that a bounded queue takes, of at most `ROOM` bytes together."""
ROOM = 8 * LARGEST
LONG = 10 * KIB
"""Bytes of an item above which bounded queues are not measured: there the message itself dominates the
cost."""


@dataclass(frozen=True, slots=True)
class PutMode:
    """How items are put."""

    name: str
    size: int
    batch: int = 1
    bound: int = 0


def put_modes(sizes: tuple[int, ...]) -> list[PutMode]:
    """Every size, in each mode that makes sense for it."""
    singly = [PutMode("singly", size) for size in sizes]
    batched = [PutMode("batched", size, batch_of(size)) for size in sizes if batch_of(size) > 1]
    bounded = [PutMode("bounded", size, bound=min(BOUND, ROOM // size)) for size in sizes if size <= LONG]
    return [*singly, *batched, *bounded]


def batch_of(size: int) -> int:
    """How many items of `size` bytes travel together."""
    return min(MOST, LARGEST // size)


def measure_throughput(transport: QueueContestant, settings: Settings, folder: Path) -> list[dict[str, Any]]:
    """A row for each size and mode. Queue and processes are new for each row."""
    rows = []
    for mode in put_modes(settings.sizes):
        place = folder / f"{mode.name}-{mode.size}"
        place.mkdir()
        rate, sent, received = one_producer_one_consumer(transport, settings, place, mode)
        rows.append(
            {"mode": mode.name, "size": mode.size, "batch": mode.batch, "rate": rate}
            | {"sent": sent, "received": received}
        )
    return rows


def one_producer_one_consumer(
    transport: QueueContestant, settings: Settings, folder: Path, mode: PutMode
) -> tuple[float, int, int]:
    """Items per second as the consumer saw them, and the items sent and received."""
    here, there = FORK.Pipe()
    started, starting = FORK.Pipe()
    with (
        ProcessGroup() as group,
        here,
        there,
        started,
        starting,
        transport.open(folder, mode.bound) as queue,
    ):
        group.start(_consume_all, queue, mode.batch, there, starting)
        group.start(_produce, queue, mode, settings, there, started)
        counts = dict(here.recv() for _ in range(2))
    received, seconds = counts["received"]
    return received / seconds, counts["sent"], received


def _produce(
    queue: ContestedQueue, mode: PutMode, settings: Settings, result: Connection, started: Connection
) -> None:
    """Once a first item has arrived, put for the time or the volume of the settings; then put the end."""
    producer = queue.producer()
    items = _endless_items(mode.size)
    put = producer.put if mode.batch == 1 else lambda item: producer.put_many([item])
    put(FIRST)
    started.recv()
    most = max(1, settings.volume // mode.size // mode.batch)
    until = time.perf_counter() + settings.traffic
    batches = 0
    if mode.batch == 1:
        while batches < most and time.perf_counter() < until:
            producer.put(next(items))
            batches += 1
    else:
        while batches < most and time.perf_counter() < until:
            producer.put_many([next(items) for _ in range(mode.batch)])
            batches += 1
    put(END)
    producer.finish()
    result.send(("sent", batches * mode.batch))


def _endless_items(size: int) -> Iterator[bytes]:
    """Random bytes. The items of a batch differ: one object repeated would favour pickling them together."""
    return cycle([os.urandom(size) for _ in range(min(MOST, max(4, ROOM // size)))])


def _consume_all(queue: ContestedQueue, batch: int, result: Connection, starting: Connection) -> None:
    """Get all items, and time it from the first one to the end."""
    consumer = queue.consumer()
    received = 0
    if batch == 1:
        consumer.get()
        starting.send("first")
        begun = time.perf_counter()
        while consumer.get() != END:
            received += 1
    else:
        consumer.get_many(batch)
        starting.send("first")
        begun = time.perf_counter()
        while (items := consumer.get_many(batch))[-1] != END:
            received += len(items)
        received += len(items) - 1
    result.send(("received", (received, time.perf_counter() - begun)))


# -- round trips -----------------------------------------------------------------------------------


def measure_latency(transport: QueueContestant, settings: Settings, folder: Path) -> dict[str, Any]:
    """Percentiles, in microseconds, of round trips: 100 bytes through one queue, and back through a
    second."""
    here, there = FORK.Pipe()
    for name in ("there", "back"):
        (folder / name).mkdir()
    with (
        ProcessGroup() as group,
        here,
        there,
        transport.open(folder / "there", 0) as out,
        transport.open(folder / "back", 0) as back,
    ):
        group.start(_echo, out, back)
        group.start(_ask, out, back, settings.trips, there)
        return {"microseconds": percentiles(here.recv())}


def _echo(out: ContestedQueue, back: ContestedQueue) -> None:
    consumer, producer = out.consumer(), back.producer()
    while True:
        producer.put(consumer.get())


def _ask(out: ContestedQueue, back: ContestedQueue, trips: int, result: Connection) -> None:
    producer, consumer = out.producer(), back.consumer()
    item = os.urandom(100)
    times = []
    for _ in range(WARM_UP + trips):
        begun = time.perf_counter()
        producer.put(item)
        consumer.get()
        times.append((time.perf_counter() - begun) * 1e6)
    result.send(times[WARM_UP:])


# -- memory ----------------------------------------------------------------------------------------

STABLE = 0.3
"""Seconds without change after which all items have arrived. No transport tells when that is."""


def measure_memory(transport: QueueContestant, settings: Settings, folder: Path) -> dict[str, Any]:
    """Bytes for each item by which the memory of each process grows, while items wait in an unbounded
    queue."""
    here, there = FORK.Pipe()
    with ProcessGroup() as group, here, there, transport.open(folder, 0) as queue:
        pids = {"consumer": group.start(_get_one, queue, there)}
        pids["producer"] = group.start(_put_all, queue, settings.waiting, there)
        if queue.host_pid is not None:
            pids["host"] = queue.host_pid
        for _ in pids.keys() & {"consumer", "producer"}:
            here.recv()
        before = _stable_memory(pids)
        here.send("put")
        here.recv()
        after = _stable_memory(pids)
    return {role: max(0.0, (after[role] - before[role]) / settings.waiting) for role in pids}


def _put_all(queue: ContestedQueue, count: int, cue: Connection) -> None:
    producer = queue.producer()
    producer.put(b"first")
    cue.send("ready")
    cue.recv()
    for _ in range(count):
        producer.put(os.urandom(KIB))
    cue.send("done")
    signal.pause()


def _get_one(queue: ContestedQueue, cue: Connection) -> None:
    consumer = queue.consumer()
    consumer.get()
    cue.send("ready")
    signal.pause()


def _stable_memory(pids: dict[str, int]) -> dict[str, int]:
    """The private memory of each process, once it is stable or after 5 seconds."""
    until = time.monotonic() + 5.0
    changed, last = time.monotonic(), {role: _private_bytes(pid) for role, pid in pids.items()}
    while time.monotonic() < until and time.monotonic() - changed < STABLE:
        time.sleep(0.05)
        now = {role: _private_bytes(pid) for role, pid in pids.items()}
        if any(abs(now[role] - last[role]) > 64 * KIB for role in pids):
            changed, last = time.monotonic(), now
    return {role: _private_bytes(pid) for role, pid in pids.items()}


def _private_bytes(pid: int) -> int:
    """Memory that the process shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * KIB


# -- start-up --------------------------------------------------------------------------------------

_MAIN = """
if __name__ == "__main__":
    q = {make}
    child = multiprocessing.get_context("fork").Process(target=put, args=(q,))
    child.start()
    {get}
    print(time.monotonic(), flush=True)
    child.join()
"""
_QUEUE = (
    """
import multiprocessing, time
{imports}
def put(q):
    q.put("first")
"""
    + _MAIN
)
_RAW = """
import multiprocessing, time
import zmq
inbox = zmq.Context().socket(zmq.PULL)
def bind():
    return f"tcp://127.0.0.1:{inbox.bind_to_random_port('tcp://127.0.0.1')}"
def put(address):
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    socket.connect(address)
    socket.send(b"first")
    socket.close()
    context.term()  # otherwise the item is lost with the process, which does not linger
""" + _MAIN.format(make="bind()", get="inbox.recv()")


def _nearfar_program(make: str) -> str:
    return _QUEUE.format(imports="import sys\nfrom nearfar import Queue", make=make, get="q.get()")


PROGRAMS = {
    QUEUE: _QUEUE.format(imports="", make="multiprocessing.get_context('fork').Queue()", get="q.get()"),
    RAW: _RAW,
    NEAR: _nearfar_program("Queue(ctx=multiprocessing.get_context('fork'))"),
    FAR_IPC: _nearfar_program("Queue(0, 'ipc://' + sys.argv[1] + '/first')"),
    FAR_TCP: _nearfar_program("Queue(0, 'tcp://127.0.0.1:*', insecure=True)"),
    REDIS: _nearfar_program("Queue(0, sys.argv[1], insecure=True)"),
}
"""The shortest program for each contestant that sends an item to another process. Each imports only what it
needs. Its argument is a folder, for `REDIS` the address of the queue."""


def measure_start(transport: QueueContestant, settings: Settings, folder: Path) -> dict[str, float]:
    """Milliseconds from the start of an interpreter to the first item; and those of the interpreter alone. A
    Redis server runs beforehand: programs do not start it."""
    with contextlib.ExitStack() as stack:
        place = str(folder)
        if transport.name == REDIS:
            place = stack.enter_context(redis_server(folder)).address
        return {
            "milliseconds": _run_program(PROGRAMS[transport.name], place),
            "interpreter": _run_program("import time; print(time.monotonic())", place),
        }


def _run_program(program: str, place: str) -> float:
    """Milliseconds until `program` prints the time."""
    begun = time.monotonic()
    command = [sys.executable, "-c", program, place]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(ended.stderr)
    return (float(ended.stdout) - begun) * 1e3


WORKLOADS = {
    "throughput": measure_throughput,
    "latency": measure_latency,
    "memory": measure_memory,
    "start-up": measure_start,
}
