"""A complete document of a run, with invented figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nearfar.contrast import settings as names
from nearfar.contrast.runner import PARTS, MeasurementOutcome, document, plan
from nearfar.contrast.settings import QUICK, Measurement, Settings, percentiles

PACE = {
    names.QUEUE: 1.0,
    names.POOL: 1.0,
    names.RAW: 4.8,
    names.EXECUTOR: 0.4,
    names.NEAR: 0.9,
    names.FAR_IPC: 2.1,
    names.FAR_TCP: 0.02,
    names.REDIS: 0.5,
}
"""How quick each contestant is made out to be."""
HOSTED = (names.FAR_IPC, names.FAR_TCP, names.REDIS)
LOSSES = {names.QUEUE: (1, 0), names.RAW: (889, 0), names.NEAR: (0, 1000), names.FAR_IPC: (0, 0)}
"""Lost and stuck, of 2,000."""


def outcomes(parts: Sequence[str] = PARTS, settings: Settings = QUICK) -> list[MeasurementOutcome]:
    return [
        MeasurementOutcome(each, made_up(each))
        for group in plan(parts, settings, names.QUEUES)
        for each in group.measurements
    ]


def sample(
    parts: Sequence[str] = PARTS, *, extra: Sequence[MeasurementOutcome] = (), load: float = 0.0
) -> dict[str, Any]:
    """As `runner.document` makes it on a machine with a Redis server."""
    all_outcomes = [*outcomes(parts), *extra]
    made = document(QUICK, all_outcomes, planned=len(all_outcomes), took=42.0, load=load)
    made["machine"]["redis"] = "7.0.15"
    return made


def without_redis() -> dict[str, Any]:
    """As `sample`, on a machine without a Redis server."""
    made = sample()
    made["outcomes"] = [each for each in made["outcomes"] if each["contestant"] != names.REDIS]
    made["planned"] = len(made["outcomes"])
    made["machine"]["redis"] = ""
    return made


def made_up(job: Measurement) -> Any:
    """A result in the form of this measurement."""
    pace = PACE[job.contestant] * (1.0 + 0.1 * job.turn)
    if job.part == "faults":
        return fault(job)
    if job.work == "throughput":
        return [
            {
                "mode": mode,
                "size": size,
                "batch": 1,
                "rate": pace * 1e8 / (size + 1000),
                "sent": 9,
                "received": 9,
            }
            for mode in ("singly", "batched", "bounded")
            for size in QUICK.sizes
        ]
    if job.work == "latency":
        return {"microseconds": tail(pace)}
    if job.work == "memory":
        return {"producer": 1100.0, "consumer": 2.0} | ({"host": 1080.0} if job.contestant in HOSTED else {})
    if job.work == "start-up":
        return {"milliseconds": 150.0 / pace, "interpreter": 20.0}
    if job.part == "download":
        missing = 8 if job.work == "getfile killed" and job.contestant == names.RAW else 0
        return {
            "rate": 200.0 * pace,
            "wanted": 40,
            "good": 40 - missing,
            "torn": 0,
            "missing": missing,
            "duplicated": 0,
        }
    if job.work == "speed":
        return {"start": 30.0 / pace, "singly": 9000 * pace, "map": 9e5 * pace, "microseconds": tail(pace)}
    hung = int(job.contestant == names.POOL)
    return {
        "tasks": 60,
        "answered": 59,
        "failed": 1 - hung,
        "hung": hung,
        "error": "" if hung else "WorkerLost",
    }


def fault(job: Measurement) -> dict[str, Any]:
    lost, stuck = LOSSES.get(job.contestant, (0, 0)) if job.turn == 0 else (0, 0)
    return {
        "sent": 2000,
        "received": 2000 - lost - stuck,
        "lost": lost,
        "stuck": stuck,
        "duplicated": int(job.contestant in HOSTED),
        "pause": 0.2,
        "stuck_for": 2.5 if stuck else 0.0,
    }


def tail(pace: float) -> dict[str, float]:
    return percentiles([(60.0 + number * number / 2000) / pace for number in range(1000)])
