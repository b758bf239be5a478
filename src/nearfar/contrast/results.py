"""The document of a run: where, how, and every outcome. It is what ``--json`` writes, and all that a report
needs."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgpack
import zmq

from nearfar import __version__
from nearfar.contrast.runner import Outcome
from nearfar.contrast.settings import LEASE, Settings


def document(
    settings: Settings, outcomes: Sequence[Outcome], *, planned: int, took: float, load: float
) -> dict[str, Any]:
    """As JSON takes it. `planned`: how many outcomes there were to be; `took`: seconds; `load`: the
    machine's, in the minute before."""
    return {
        "machine": machine() | {"load": round(load, 2)},
        "settings": asdict(settings) | {"lease": LEASE},
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "planned": planned,
        "took": round(took, 1),
        "outcomes": [
            asdict(outcome.job) | {"result": outcome.result, "trouble": outcome.trouble}
            for outcome in outcomes
        ],
    }


def machine() -> dict[str, Any]:
    """Where this is measured, and with what."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(terse=True),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "nearfar": __version__,
        "pyzmq": zmq.pyzmq_version(),
        "libzmq": zmq.zmq_version(),
        "msgpack": ".".join(map(str, msgpack.version)),
    }


def processor() -> str:
    """Its name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
