"""An engine that runs nothing by itself: the test ends each call."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

from nearfar.coordinator.task import TaskState
from nearfar.pool.call import Call
from nearfar.pool.engine import PoolPromises
from nearfar.pool.executor_engine import run_call


class ManualEngine:
    """Keeps calls until `run` or `begin`. `wait_until` runs call after call, as `choose` picks them."""

    def __init__(self, size: int = 2, choose: Callable[[int], int] = lambda _count: 0) -> None:
        self.size = size
        self.calls: list[Call] = []
        self.begun: list[Call] = []
        self.choose = choose
        self.refuse: Exception | None = None
        self.closed = self.terminated = self.joined = False
        self.limits: list[tuple[float | None, int]] = []

    @property
    def address(self) -> None:
        """There is no address."""

    def submit(self, call: Call, *, more: bool = False) -> None:
        if self.refuse is not None:
            raise self.refuse
        if self.closed:
            raise RuntimeError("closed")
        self.limits.append((call.timeout, call.retries))
        self.calls.append(call)

    def begin(self, call: Call) -> None:
        self.calls.remove(call)
        self.begun.append(call)
        call.state = TaskState.GIVEN

    def run(self, call: Call) -> None:
        (self.calls if call in self.calls else self.begun).remove(call)
        func, args, kwargs = call.take()
        try:
            value = run_call(func, args, kwargs, call.mode)
        except Exception as error:
            call.settle(None, error)
        else:
            call.settle(value, None)

    def flush(self) -> None:
        """Nothing waits."""

    def check_limits(self, timeout: float | None, retries: int) -> None:
        """All limits are supported."""

    def cancel(self, *calls: Call, wait: bool = True) -> bool:
        dropped = [call for call in calls if call in self.calls]
        for call in dropped:
            self.calls.remove(call)
            call.settle(None, CancelledError())
        return len(dropped) == len(calls)

    def cancel_waiting(self) -> None:
        self.cancel(*self.calls)

    def end_workers(self, signum: int) -> None:
        self.terminate()

    def wait_until(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        while not ready():
            if timeout == 0 or not self.calls:
                return False
            self.run(self.calls[self.choose(len(self.calls))])
        return True

    def close(self) -> None:
        self.closed = True

    def terminate(self) -> None:
        self.closed = self.terminated = True
        self.cancel_waiting()

    def join(self, timeout: float | None = None) -> bool:
        self.joined = True
        return self.wait_until(lambda: not self.calls, timeout)

    def promises(self) -> PoolPromises:
        return PoolPromises("manual")

    def counts(self) -> dict[str, int]:
        counts: dict[str, Any] = {
            "workers": self.size,
            "running": len(self.begun),
            "waiting": len(self.calls),
        }
        return counts
