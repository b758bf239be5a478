"""Runs calls in the workers of other engines: those with a `timeout` in a child process, which can be killed.

The engine's own worker goes on then. It may run other calls in threads, and keep values that were not
fetched; and not every engine replaces a dead one.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, NoReturn, cast

from nearfar.errors import TaskTimeout, WorkerLost
from nearfar.pool.engine_worker import EngineAnswer, PackedCall, Unprepared, enter, prepare, run_packed
from nearfar.pool.near_engine import NearEngine
from nearfar.pool.results import AsyncResult
from nearfar.worker.lifetime import WorkerInfo

__all__ = ["Failed", "run_call"]


class Failed(NamedTuple):
    """Comes instead of an answer: the call was ended, or was not begun because it had begun before."""

    error: WorkerLost | TaskTimeout


def run_call(
    call: PackedCall, me: WorkerInfo, read: Callable[[], PackedCall] | None
) -> EngineAnswer | Unprepared | Failed:
    """Run a call in the worker `me`. `read` fetches the initializer, which runs before the first call of each
    process, and does not count for the `timeout`; None: there is none.
    """
    if call.timeout is None:
        return _run(call, me, read)
    child = _idle.pop() if _idle else _start()
    try:
        while (answer := _in_child(child, call.timeout, _run_in_child, call, me, read is not None)) is None:
            assert read is not None
            _in_child(child, None, prepare, call.client, _Value(read()))
        return cast(EngineAnswer | Unprepared, answer)
    except WorkerLost as death:
        return Failed(WorkerLost(me.name, me.host, death.pid, death.how))
    except TaskTimeout as error:
        return Failed(error)
    finally:
        _idle.append(child)


def _run(
    call: PackedCall, me: WorkerInfo, read: Callable[[], PackedCall] | None
) -> EngineAnswer | Unprepared:
    enter(me)
    if read is not None and (error := prepare(call.client, read)) is not None:
        return Unprepared(error)
    return run_packed(call)


def _start() -> NearEngine:
    # Dask's nannies start workers as daemonic, so that they leave no children: ours end with their parent,
    # however it ends.
    multiprocessing.current_process().daemon = False
    return NearEngine(1, None, (), None, multiprocessing.get_context("spawn"))


def _in_child(child: NearEngine, timeout: float | None, func: Callable[..., Any], *args: Any) -> Any:
    result = AsyncResult(child, None, func, args, limits=(timeout, 0))
    child.submit(result)
    return result.get()


# -- in the child ----------------------------------------------------------------------------------


class _Value(NamedTuple):
    """Returns an initializer that was fetched already."""

    call: PackedCall

    def __call__(self) -> PackedCall:
        return self.call


class _NotHere(Exception):
    """The initializer has not run in this child."""


def _run_in_child(
    call: PackedCall, me: WorkerInfo, with_initializer: bool
) -> EngineAnswer | Unprepared | None:
    """As `_run`; None if the initializer must be sent first."""

    def read() -> NoReturn:
        raise _NotHere

    try:
        return _run(call, replace(me, pid=os.getpid()), read if with_initializer else None)
    except _NotHere:
        return None


_idle: list[NearEngine] = []
"""Engines of one child each that run nothing now; there are as many as have run calls at once."""
