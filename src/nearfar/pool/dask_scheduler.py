"""What runs in Dask's scheduler, so that no call runs twice: it lets each call begin once."""

from __future__ import annotations

from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin

__all__ = ["NAME", "PREFIX", "OnceOnly"]

NAME = "nearfar-1"
"""Of the plugin; another number if the messages below change."""
PREFIX = "nearfar:"
"""How the keys of our calls begin."""


class OnceOnly(SchedulerPlugin):
    """Lets each call begin once, and keeps the initializers of pools.

    Dask runs a call again when its worker has died, or when its value was lost with a worker's memory, and
    may give up a worker that goes on. So a worker asks before it begins a call, and the scheduler, which has
    one thread, says yes once: to the worker that it has given the call to. A call that has not begun is given
    to another worker when its own dies, as often as needed.
    """

    idempotent = True

    def __init__(self) -> None:
        self._begun: dict[str, Any] = {}
        self._initializers: dict[str, Any] = {}
        self._pools: dict[str, list[str]] = {}

    async def start(self, scheduler: Any) -> None:
        """Called by Dask when this is registered."""
        self._scheduler = scheduler
        scheduler.handlers["nearfar_begin"] = self.begin
        scheduler.handlers["nearfar_offer"] = self.offer
        scheduler.handlers["nearfar_initializer"] = self.initializer

    def begin(self, key: str, worker: str, me: Any) -> tuple[bool, Any]:
        """Whether the worker at this address may begin the call now; if not, which one has begun it, if any.

        `me`: the fields of the worker's `WorkerInfo`.
        """
        if key in self._begun:
            return False, self._begun[key]
        task = self._scheduler.tasks.get(key)
        if task is None or task.processing_on is None or task.processing_on.address != worker:
            return False, None  # it was cancelled, or given to another worker
        self._begun[key] = me
        # If the worker dies, the call ends at once, instead of when another worker asks here.
        task.suspicious = self._scheduler.allowed_failures
        return True, None

    def transition(self, key: Any, _start: str, finish: str, *_args: Any, **_options: Any) -> None:
        """Called by Dask when a task changes its state."""
        if not isinstance(key, str) or not key.startswith(PREFIX):
            return
        if finish == "processing" and key not in self._begun:
            # It is not blamed for the death of the worker in whose queue it is, however few Dask allows.
            self._scheduler.tasks[key].suspicious = -1
        elif finish == "forgotten":
            self._begun.pop(key, None)

    def offer(self, client: str, pool: str, initializer: Any) -> None:
        """Keep a pool's initializer while its client is connected."""
        self._initializers[pool] = initializer
        self._pools.setdefault(client, []).append(pool)

    def initializer(self, pool: str) -> Any:
        """What was offered for a pool."""
        return self._initializers.get(pool)

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Called by Dask when a client has left."""
        for pool in self._pools.pop(client, ()):
            self._initializers.pop(pool, None)
