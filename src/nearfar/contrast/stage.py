"""One measurement in a fresh process, which leads a session of its own so that all of it can be killed.

``python -m nearfar.contrast.stage ORDER``, where the order is JSON: see `main`. Started by `runner`.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from nearfar.contrast.job import Job
from nearfar.contrast.settings import Settings
from nearfar.contrast.transports import TRANSPORTS
from nearfar.contrast.works import latency, memory, startup, throughput
from nearfar.worker.life import hang_on

RESULT = "result.json"


def main(order: str) -> None:
    """Do the ``job`` of the order with its ``settings``, and put the result into its ``folder``.

    ``lifeline``: a descriptor whose other end the runner holds; when that is closed, the kernel kills this
    process and all that it started.
    """
    told = json.loads(order)
    hang_on(told["lifeline"])
    fcntl.fcntl(told["lifeline"], fcntl.F_SETOWN, -os.getpgrp())
    folder = Path(told["folder"])
    settings = Settings(**told["settings"] | {"sizes": tuple(told["settings"]["sizes"])})
    perform(Job(**told["job"]), settings, folder, partial(tell, folder))


def perform(job: Job, settings: Settings, folder: Path, tell: Callable[[Any], None]) -> None:
    """Measure, and tell the result once. A stage imports no more than its own work needs."""
    if job.part == "pool":
        measure_pool(job, settings, folder, tell)
    elif job.part == "faults":
        from nearfar.contrast.faults import play

        tell(play.measure(TRANSPORTS[job.contestant], settings, folder, job.work, job.turn))
    elif job.part == "download":
        from nearfar.contrast import getfile

        kill = job.work == "getfile killed"
        tell(getfile.measure(TRANSPORTS[job.contestant], settings, folder, kill=kill, trial=job.turn))
    else:
        works = {"throughput": throughput, "latency": latency, "memory": memory, "start-up": startup}
        tell(works[job.work].measure(TRANSPORTS[job.contestant], settings, folder))


def measure_pool(job: Job, settings: Settings, folder: Path, tell: Callable[[Any], None]) -> None:
    from nearfar.contrast.pools import deaths, speed

    if job.work == "speed":
        tell(speed.measure(job.contestant, settings, folder))
    else:
        deaths.measure(job.contestant, settings, folder, job.work, tell)


def tell(folder: Path, result: Any) -> None:
    """Leave the result where the runner looks for it, whole or not at all."""
    draft = folder / "draft.json"
    draft.write_text(json.dumps(result), encoding="utf-8")
    draft.replace(folder / RESULT)


if __name__ == "__main__":
    main(sys.argv[1])
