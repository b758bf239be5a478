"""What the coordinator knows of one client: what waits, how much is given out, its initializer."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Any

from nearfar.coordinator.tasks import State, Task
from nearfar.coordinator.workers import Initializer
from nearfar.errors import InitializerFailed

FEW = 64
"""Stale entries that a heap may have."""


class Client:
    """Whose tasks these are."""

    __slots__ = (
        "eager",
        "error",
        "failures",
        "given",
        "held_back",
        "initializer",
        "name",
        "read_error",
        "waiting",
    )

    def __init__(
        self,
        name: str,
        initializer: Initializer | None = None,
        read_error: Callable[[Any], BaseException] = InitializerFailed,
        *,
        eager: bool = False,
    ) -> None:
        """`read_error` makes an error of what its initializer said when it raised.

        `eager`: the initializer runs at once in every worker with room for it, not only where this client's
        tasks go, just before the first.
        """
        self.name = name
        self.initializer = initializer
        self.read_error = read_error
        self.eager = eager and initializer is not None
        self.waiting: deque[Task] = deque()
        """Cancelled ones are passed over when their turn comes."""
        self.given = 0
        """Batches that workers hold."""
        self.failures = 0
        """Workers in a row that died in its initializer."""
        self.error: BaseException | None = None
        """Why its tasks can't be run."""
        self.held_back = False
        """None of its tasks is to be given to a worker: it does not take what those bring."""

    def next(self) -> Task | None:
        """The task whose turn it is, left where it is; None if none waits, or it is held back."""
        if self.held_back:
            return None
        waiting = self.waiting
        while waiting:
            if waiting[0].state is State.WAITING:
                return waiting[0]
            waiting.popleft()
        return None


class Turns:
    """Whose turn it is: of the clients with waiting tasks, the one with the fewest batches given out.

    So one client's long tasks never keep another from its share of the workers. Among equals, who has
    waited longest. A heap with stale entries: any number of clients cost the logarithm.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Client]] = []
        self._entered: dict[str, tuple[int, int, Client]] = {}
        self._serial = 0

    def enter(self, client: Client) -> None:
        """`client` has tasks waiting, or its count of given batches changed."""
        entry = self._entered.get(client.name)
        if entry is not None and entry[0] == client.given:
            return
        self._serial += 1
        entry = (client.given, self._serial, client)
        self._entered[client.name] = entry
        if len(self._heap) > 2 * len(self._entered) + FEW:
            self._heap = list(self._entered.values())
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, entry)

    def first(self) -> Client | None:
        """Who is next; None if nobody has a task waiting."""
        while self._heap:
            entry = self._heap[0]
            client = entry[2]
            if self._entered.get(client.name) is entry:
                if client.next() is not None:
                    return client
                del self._entered[client.name]
            heapq.heappop(self._heap)
        return None

    def leave(self, client: Client) -> None:
        self._entered.pop(client.name, None)
