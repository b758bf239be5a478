"""A module with a global, and tasks that read and change it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nearfar import Pool, WorkerInfo, current_worker
from tests.support.waiting import eventually

value: Any = "untouched"


def put(new: Any) -> WorkerInfo:
    """Change the global; as a task or as an initializer."""
    global value
    value = new
    return here()


def look(_: Any = None) -> Any:
    return value


def here(_: Any = None) -> WorkerInfo:
    worker = current_worker()
    assert worker is not None
    return worker


def meet(folder: str, count: int, func: Callable[[], Any]) -> tuple[WorkerInfo, Any]:
    """Wait until `count` tasks run at the same time, which needs as many workers."""
    own = here()
    (Path(folder) / own.name).touch()
    if not eventually(lambda: len(list(Path(folder).iterdir())) >= count, 20):
        raise TimeoutError(folder)
    return own, func()


def everyone(pool: Pool, count: int, folder: Path, func: Callable[[], Any] = look) -> dict[str, Any]:
    """The results of `func` in each of `count` workers, by the worker's name."""
    folder.mkdir()
    # With a limit, each travels alone: of two in one batch, the second would wait for the first.
    asked = [pool.apply_async(meet, (str(folder), count, func), timeout=30) for _ in range(count)]
    return {worker.name: found for worker, found in (result.get(30) for result in asked)}
