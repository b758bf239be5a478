"""What a killed worker costs: answered, failed with an error, or never answered."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nearfar.contrast.cast import strike
from nearfar.contrast.pools.openings import POOLS, WORKERS, Answer, Function, Runner
from nearfar.contrast.pools.tasks import pid, same, work_or_die
from nearfar.contrast.settings import Settings

Tell = Callable[[Any], None]
KILLS = 3


def kill_working(runner: Runner, settings: Settings) -> list[Answer]:
    """Tasks of which one kills its worker."""
    return [submit(runner, work_or_die, number) for number in range(settings.doomed)]


def kill_waiting(runner: Runner, settings: Settings) -> list[Answer]:
    """Three times: a worker is killed while it waits for work, and then work comes."""
    answers: list[Answer] = []
    for _ in range(KILLS):
        asked = [submit(runner, pid, 0) for _ in range(2 * WORKERS)]
        answers += asked
        try:
            idle = asked[0](settings.patience)
        except Exception:
            return answers  # it hangs or is broken: `count` says so
        time.sleep(0.2)
        strike(idle, signal.SIGKILL)
        time.sleep(0.1)
        answers += [submit(runner, same, number) for number in range(settings.doomed // KILLS)]
    return answers


def submit(runner: Runner, func: Function, item: int) -> Answer:
    """A call that the pool refuses to take is one that has failed."""
    try:
        return runner.submit(func, item)
    except Exception as error:
        return partial(refuse, error)


def refuse(error: Exception, timeout: float | None) -> Any:
    raise error


DEATHS: dict[str, tuple[str, Callable[[Runner, Settings], list[Answer]]]] = {
    "worker killed at work": ("the seventh of the tasks kills its worker", kill_working),
    "idle worker killed": (
        f"{KILLS} times, kill -9 a worker that waits; then tasks are submitted",
        kill_waiting,
    ),
}


def measure(pool: str, settings: Settings, folder: Path, name: str, tell: Tell) -> None:
    """Tell the counts, before the pool is closed: that may hang, too."""
    with POOLS[pool](folder) as runner:
        for answer in [runner.submit(pid, 0) for _ in range(2 * WORKERS)]:
            answer(None)
        tell(count(DEATHS[name][1](runner, settings), settings.patience))


def count(answers: Sequence[Answer], patience: float) -> dict[str, Any]:
    """How each call ended, within `patience` seconds for all of them."""
    counts: dict[str, Any] = {"tasks": len(answers), "answered": 0, "failed": 0, "hung": 0, "error": ""}
    until = time.monotonic() + patience
    for answer in answers:
        try:
            answer(max(0.0, until - time.monotonic()))
            counts["answered"] += 1
        except Exception as error:
            if is_timeout(error):
                counts["hung"] += 1
            else:
                counts["failed"] += 1
                counts["error"] = type(error).__name__
    return counts


def is_timeout(error: Exception) -> bool:
    """`multiprocessing` has an error of its own for it."""
    return isinstance(error, TimeoutError) or type(error).__name__ == "TimeoutError"
