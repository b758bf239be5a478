"""What the figures say, in sentences; each one only if it was measured, and as it came out."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from nearfar.contrast.faults.stories import STORIES
from nearfar.contrast.names import FAR_IPC, FAR_TCP, POOL, POOLS, QUEUE, QUEUES, RAW
from nearfar.contrast.report import numbers
from nearfar.contrast.report.faults import BAD, trials_of
from nearfar.contrast.report.gather import Gathered, entry
from nearfar.contrast.report.queue import pick_rate
from nearfar.contrast.report.shared import worst


def findings(gathered: Gathered) -> list[str]:
    return [*of_faults(gathered), *of_queues(gathered), *of_downloads(gathered), *of_pools(gathered)]


def of_faults(gathered: Gathered) -> Iterator[str]:
    said = []
    for names in ((QUEUE,), (RAW,), (FAR_IPC, FAR_TCP)):
        found = [
            worst(trials, BAD)
            for name in names
            for story in STORIES
            if (trials := trials_of(gathered, story, name))
        ]
        if found:
            lost, stuck = (sum(trial[each] for trial in found) for each in BAD)
            sent = sum(trial["sent"] for trial in found)
            who = "the far queues" if len(names) > 1 else names[0]
            said.append(f"{who} lost {lost:,} and left {stuck:,} stuck of {sent:,}")
    if said:
        yield f"Items, over all faults, in each one's worst trials: {'; '.join(said)}."


def of_queues(gathered: Gathered) -> Iterator[str]:
    results = [result for result in gathered.of("queue", "throughput", QUEUE).values() for result in result]
    if not results:
        return
    least, most = (pick(row["size"] for row in results) for pick in (min, max))
    said = []
    for size in (least, most):
        ratio = gathered.ratio("queue", "throughput", (FAR_TCP, QUEUE), partial(pick_rate, "singly", size))
        if ratio:
            said.append(f"{numbers.ratio(ratio.median)} at {numbers.bytes_of(size)}")
    trip = gathered.ratio(
        "queue", "latency", (FAR_TCP, QUEUE), lambda result: float(result["microseconds"]["50"])
    )
    if trip:
        said.append(f"{numbers.ratio(trip.median)} the time of a round trip")
    if said:
        yield (
            f"The far queue over tcp, against {QUEUE}: {', '.join(said[:2])} in throughput, item by item; "
            + (f"{said[2]}." if len(said) > 2 else "round trips were not measured.")
        )


def of_downloads(gathered: Gathered) -> Iterator[str]:
    said = []
    for name in QUEUES:
        trials = list(gathered.of("download", "getfile killed", name).values())
        if trials:
            bad = worst(trials, ("torn", "missing"))
            said.append(f"{name} {bad['torn'] + bad['missing']:,}")
    if said:
        wanted = bad["wanted"]
        yield f"Of {wanted:,} files, missing or torn after a getfile was killed: {', '.join(said)}."


def of_pools(gathered: Gathered) -> Iterator[str]:
    said = []
    for name in POOLS:
        trials = list(gathered.of("pool", "worker killed at work", name).values())
        if trials:
            bad = max(trials, key=lambda trial: (trial["hung"], trial["failed"]))
            said.append(f"{name} {bad['failed']:,} and {bad['hung']:,}")
            tasks = bad["tasks"]
    if said:
        yield f"Of {tasks:,} tasks, failed and never answered after one killed its worker: {', '.join(said)}."
    rates = [
        (name, ratio)
        for name in (POOLS[2], FAR_TCP)
        if (ratio := gathered.ratio("pool", "speed", (name, POOL), entry("singly")))
    ]
    if rates:
        shown = ", ".join(f"{name} {numbers.ratio(ratio.median)}" for name, ratio in rates)
        yield f"Tasks submitted one by one, against {POOL}: {shown}."
