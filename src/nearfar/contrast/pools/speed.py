"""What a pool costs while nothing goes wrong."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from nearfar.contrast.pools.openings import POOLS, WORKERS
from nearfar.contrast.pools.tasks import pid, same
from nearfar.contrast.quantiles import percentiles
from nearfar.contrast.settings import Settings

WARM_UP = 20


def measure(pool: str, settings: Settings, folder: Path) -> dict[str, Any]:
    """Milliseconds to the first answer, tasks a second singly and mapped, and microseconds of blocking
    calls."""
    opened = time.perf_counter()
    with POOLS[pool](folder) as runner:
        runner.submit(same, 0)(None)
        start = (time.perf_counter() - opened) * 1e3
        for answer in [runner.submit(pid, 0) for _ in range(2 * WORKERS)]:
            answer(None)

        begun = time.perf_counter()
        answers = [runner.submit(same, number) for number in range(settings.tasks)]
        values = [answer(None) for answer in answers]
        singly = settings.tasks / (time.perf_counter() - begun)

        begun = time.perf_counter()
        mapped = runner.map(same, list(range(settings.ints)))
        map_rate = settings.ints / (time.perf_counter() - begun)

        calls = []
        for number in range(WARM_UP + settings.calls):
            begun = time.perf_counter()
            runner.submit(same, number)(None)
            calls.append((time.perf_counter() - begun) * 1e6)
    if values != list(range(settings.tasks)) or mapped != list(range(settings.ints)):
        raise ArithmeticError(f"{pool} gave wrong answers")
    return {"start": start, "singly": singly, "map": map_rate, "microseconds": percentiles(calls[WARM_UP:])}
