"""What is to be measured, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nearfar.contrast.faults.stories import STORIES
from nearfar.contrast.job import Job
from nearfar.contrast.pools.deaths import DEATHS
from nearfar.contrast.pools.openings import POOLS
from nearfar.contrast.settings import Settings
from nearfar.contrast.transports import TRANSPORTS

PARTS = ("queue", "faults", "download", "pool")
"""What ``--only`` may name."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs that may run side by side: what is timed has the machine to itself, what is counted need not."""

    jobs: Sequence[Job]
    width: int = 1


WIDTH = 5
"""What is counted and not timed, side by side: it waits most of the time."""


def plan(parts: Sequence[str], settings: Settings) -> Iterator[Batch]:
    """Everything, in turns that take all contestants, begun by another one each time."""
    if "queue" in parts:
        for work in ("throughput", "latency", "start-up"):
            yield Batch(turns_of("queue", work, list(TRANSPORTS), settings.rounds))
        yield Batch(turns_of("queue", "memory", list(TRANSPORTS), 1), WIDTH)
    if "faults" in parts:
        for name, story in STORIES.items():
            able = [each.name for each in TRANSPORTS.values() if each.hosted or not story.needs_host]
            yield Batch(turns_of("faults", name, able, settings.trials), WIDTH)
    if "download" in parts:
        yield Batch(turns_of("download", "getfile", list(TRANSPORTS), settings.rounds))
        yield Batch(turns_of("download", "getfile killed", list(TRANSPORTS), settings.trials), WIDTH)
    if "pool" in parts:
        yield Batch(turns_of("pool", "speed", list(POOLS), settings.rounds))
        for name in DEATHS:
            yield Batch(turns_of("pool", name, list(POOLS), settings.trials), WIDTH)


def turns_of(part: str, work: str, contestants: Sequence[str], turns: int) -> list[Job]:
    """`turns` rounds of all contestants."""
    jobs: list[Job] = []
    for turn in range(turns):
        shift = turn % len(contestants)
        order = (*contestants[shift:], *contestants[:shift])
        jobs += [Job(part, work, contestant, turn) for contestant in order]
    return jobs
