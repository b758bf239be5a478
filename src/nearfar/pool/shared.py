"""A part of an engine that others use, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from nearfar.pool.call import Call
from nearfar.pool.engine import SHUT, Closed, Engine
from nearfar.pool.weak import WeakBag

__all__ = ["NOT_OURS", "SharedEngine"]

NOT_OURS = "these workers belong to the executor that was given, whose own methods end them"


class SharedEngine:
    """One user's calls on an engine of somebody else, which outlives it.

    `close` and `terminate` end this user's part only. What has begun cannot be stopped: after `terminate` it
    runs to its end.
    """

    def __init__(self, engine: Engine, owner: object, workers: int | None = None) -> None:
        """`owner` is kept alive: it closes the engine when it is forgotten. `workers`: for how many the sizes
        of chunks are computed; None: as many as the engine has."""
        self._engine = engine
        self._workers = workers
        self._owner = owner
        self._calls: WeakBag[Call] = WeakBag()  # an outcome that its owner has dropped is not kept
        self._closed = False

    @property
    def size(self) -> int:
        """As `Engine.size`."""
        return self._workers or self._engine.size

    @property
    def address(self) -> str | None:
        """As `Engine.address`."""
        return self._engine.address

    def submit(self, call: Call) -> None:
        """As `Engine.submit`."""
        if self._closed:
            raise Closed(SHUT)
        self._engine.submit(call)
        self._calls.add(call)

    def check_limits(self, timeout: float | None, retries: int) -> None:
        """As `Engine.check_limits`."""
        self._engine.check_limits(timeout, retries)

    def cancel(self, *calls: Call, wait: bool = True) -> bool:
        """As `Engine.cancel`."""
        return self._engine.cancel(*calls, wait=wait)

    def cancel_waiting(self) -> None:
        """As `Engine.cancel_waiting`, for the calls of this user."""
        self._engine.cancel(*self._unsettled(), wait=False)

    def wait_until(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """As `Engine.wait_until`."""
        return self._engine.wait_until(ready, timeout)

    def close(self) -> None:
        """As `Engine.close`, for this user."""
        self._closed = True

    def terminate(self) -> None:
        """As `Engine.terminate`, for what this user has waiting."""
        self._closed = True
        self.cancel_waiting()

    def end_workers(self, signum: int) -> NoReturn:
        """As `Engine.end_workers`: they are not this user's."""
        raise RuntimeError(NOT_OURS)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until every call of this user is settled."""
        return self._engine.wait_until(lambda: not self._unsettled(), timeout)

    def counts(self) -> dict[str, int]:
        """As `Engine.counts`: those of the whole engine."""
        return self._engine.counts()

    def _unsettled(self) -> list[Call]:
        return [call for call in self._calls.members() if not call.settled]
