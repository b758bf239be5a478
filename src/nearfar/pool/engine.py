"""The seam under `Pool` and `Executor`: whatever runs calls is an engine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

from nearfar.coordinator.tasks import State
from nearfar.net.deputy import safely, struck_anywhere
from nearfar.pool.call import Call

__all__ = ["Engine", "describe", "hand_in"]


@runtime_checkable
class Engine(Protocol):
    """Runs calls somewhere, and settles each exactly once.

    Every method may be called from any thread. `close` and `terminate` may also be called by a garbage
    collection, so in the middle of any other method, in the same thread: locks must be reentrant.
    """

    @property
    def size(self) -> int:
        """Workers now; at least 1, since chunk sizes are computed from it."""

    @property
    def address(self) -> str | None:
        """Where workers elsewhere may join, or their coordinator is; None if there are none."""

    def submit(self, call: Call) -> None:
        """Take `call`; it will be settled, whatever happens.

        Raises, and has not taken it: what pickling raises, `BrokenExecutor` (or a kind of it) when nothing
        can run any more, `RuntimeError` after `close`, `ValueError` for an option that cannot be kept.
        """

    def cancel(self, call: Call) -> bool:
        """Drop `call` if it has not begun. True: it never runs, and is settled with `CancelledError`."""

    def cancel_waiting(self) -> None:
        """Do what `cancel` does for every call that has not begun."""

    def wait_until(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """Wait, and work while waiting, until `ready()`; False after `timeout` seconds (None: no limit).

        `ready` is asked after each change, perhaps by another thread: it must be cheap and not raise.
        """

    def close(self) -> None:
        """Take no more calls; those that it has still run, and the workers end after them."""

    def terminate(self) -> None:
        """Stop now: every call that is not settled is settled with `CancelledError`."""

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end after `close` or `terminate`; False after `timeout` seconds."""

    def counts(self) -> dict[str, int]:
        """``workers``, ``running``, ``waiting`` and ``done``, and what else an engine counts."""


def hand_in(engine: Engine, call: Call) -> None:
    """Submit `call`; what `submit` raises becomes the call's own error. What interrupts it is raised."""
    if struck_anywhere():
        safely(partial(_hand_in, engine, call))
        return
    what = call.func, call.args, call.kwargs
    try:
        engine.submit(call)
    except Exception as error:
        safely(partial(_hand_in_again, engine, call, what, error))


def _hand_in(engine: Engine, call: Call) -> None:
    try:
        engine.submit(call)
    except Exception as error:
        call.settle(None, error)


def _hand_in_again(engine: Engine, call: Call, what: tuple[Any, Any, Any], error: Exception) -> None:
    """Was that the call's own error, or a signal handler's? Behind a shield only the first comes again."""
    if call.state is State.NEW and not hasattr(call, "client"):  # it has not been taken
        call.func, call.args, call.kwargs = what
        try:
            engine.submit(call)
        except Exception as own:
            call.settle(None, own)
            return
    raise error


def describe(engine: Engine) -> str:
    """``4 workers, 2 running, 7 waiting``"""
    counts = engine.counts()
    return ", ".join(f"{counts[name]} {name}" for name in ("workers", "running", "waiting"))
