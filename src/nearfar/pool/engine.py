"""The seam under `Pool` and `Executor`: whatever runs calls is an engine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

from nearfar.coordinator.tasks import State
from nearfar.net.deputy import safely
from nearfar.pool.call import Call

__all__ = ["SHUT", "Closed", "Engine", "check_callable", "describe", "hand_in"]

SHUT = "cannot schedule new futures after shutdown"


class Closed(RuntimeError):
    """An engine was closed, or the program ends: it takes no more calls."""


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

        Raises, and has not taken it: what pickling raises, `TypeError` for what cannot be called,
        `BrokenExecutor` (or a kind of it) when nothing can run any more, `Closed` after `close`, `ValueError`
        for an option that cannot be kept.
        """

    def check_limits(self, timeout: float | None, retries: int) -> None:
        """Raise `ValueError` if calls with these limits cannot be kept to them here."""

    def cancel(self, *calls: Call, wait: bool = True) -> bool:
        """Drop those of `calls` that have not begun. True: none ever runs, and each is settled with
        `CancelledError`.

        Whether one has begun, a worker elsewhere may have to be asked: that is waited for, some seconds for
        all of them together. Without `wait` they are dropped as far as that can be, and the answer says
        nothing.
        """

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

    def end_workers(self, signum: int) -> None:
        """Close, drop what has not begun, and send `signum` (SIGTERM, SIGKILL) to every worker process.

        Raises `RuntimeError` where the workers belong to an executor of others.
        """

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end after `close` or `terminate`; False after `timeout` seconds."""

    def counts(self) -> dict[str, int]:
        """``workers``, ``running``, ``waiting`` and ``done``, and what else an engine counts."""


def check_callable(func: Any) -> None:
    """Raise `TypeError` for what cannot be called."""
    if not callable(func):
        raise TypeError(f"the first argument is the function to call; {func!r} cannot be called")


def hand_in(engine: Engine, call: Call, but: tuple[type[Exception], ...] = ()) -> None:
    """Submit `call`; what `submit` raises becomes the call's own error, `but` for these, which are raised as
    is what interrupts it."""
    what = call.function, call.blob, call.buffers
    try:
        engine.submit(call)
    except but:
        raise
    except Exception as error:
        safely(partial(_hand_in_again, engine, call, what, error))


def _hand_in_again(engine: Engine, call: Call, what: tuple[Any, Any, Any], error: Exception) -> None:
    """Was that the call's own error, or a signal handler's? Done safely only the first comes again."""
    if call.state is State.NEW and not hasattr(call, "client"):  # it has not been taken
        call.function, call.blob, call.buffers = what
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
