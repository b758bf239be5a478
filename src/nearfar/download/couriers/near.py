"""The courier between the processes of one command, over near queues.

::

    producer 0 --+                        +-- consumer 0
                 +--> parcels (shared) ---+                  to nobody in particular: who is idle takes it
    producer 1 --+                        +-- consumer 1
                 +--> one queue for each consumer            to just this one
    each producer's own answers  <--------+

The bytes of files do not travel in the queues, but lie in the producer's `Arena` meanwhile.
Nothing is redelivered here: whoever runs the processes watches them, and begins anew when one dies
(`nearfar.download.near`). The queues have no bound of their own, since producers bound what they have on
the way in bytes.
"""

from __future__ import annotations

import math
import select
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any

from nearfar.download.couriers.arena import Arena
from nearfar.errors import Empty, ShutDown
from nearfar.queues.near import NearQueue

HERE = frozenset({"here"})
"""All consumers of one command share one store."""
_LOCKED = 0.005
"""Seconds to wait for a message that may have gone to another consumer."""


@dataclass(frozen=True, slots=True)
class Routes:
    """The queues of one command, inherited by all its processes."""

    parcels: NearQueue
    private: dict[str, NearQueue]
    """By the consumer's name."""
    answers: Sequence[NearQueue]
    """By the producer's number."""
    arenas: Sequence[Arena]
    """As well."""

    def close(self) -> None:
        for queue in (self.parcels, *self.private.values(), *self.answers):
            queue.close()
        for arena in self.arenas:
            arena.close()


class NearOutbound:
    """A producer's end. A thread waits for answers, since nobody can wait for a queue and for the network."""

    def __init__(self, routes: Routes, number: int) -> None:
        self.on_event: Callable[[], None] = lambda: None
        self._routes = routes
        self._number = number
        self._sent = 0
        self._arena = routes.arenas[number]
        self._places: dict[int, int] = {}
        """What to give back to the arena, by the ticket of what is there."""
        self._arrived: deque[tuple[int, Any]] = deque()
        self._thread = Thread(target=self._listen, name="answers", daemon=True)
        self._thread.start()

    def send(self, message: Any, *, to: str | None = None) -> int:
        self._sent += 1
        queue = self._routes.parcels if to is None or to in HERE else self._routes.private[to]
        places, start = self._arena.lay_out(message)
        if start is not None:
            self._places[self._sent] = start
        queue.put((self._number, self._sent, message, places))
        return self._sent

    def answers(self) -> list[tuple[int, Any]]:
        arrived = self._arrived
        answers = [arrived.popleft() for _ in range(len(arrived))]
        for ticket, _ in answers:
            start = self._places.pop(ticket, None)
            if start is not None:
                self._arena.give_back(start)
        return answers

    def stores(self) -> frozenset[str]:
        return HERE

    def close(self, timeout: float | None) -> None:
        """Wait until all that was sent is in the pipes. The consumers are known to be there: no `timeout`."""
        self._routes.answers[self._number].put(None)
        self._thread.join(timeout)
        self._routes.close()
        for queue in (self._routes.parcels, *self._routes.private.values()):
            queue.join_thread()

    def _listen(self) -> None:
        while (answer := self._routes.answers[self._number].get()) is not None:
            self._arrived.append(answer)
            self.on_event()


class NearLetter:
    """A message in hand."""

    attempt = 1

    def __init__(self, answers: NearQueue, ticket: int, message: Any) -> None:
        self.message = message
        self._answers = answers
        self._ticket = ticket

    def answer(self, value: Any = None) -> None:
        self._answers.put((self._ticket, value))


class NearInbound:
    """A consumer's end. Anything on `control`, or its end, is the end of the work."""

    def __init__(self, routes: Routes, name: str, control: Connection[Any, Any]) -> None:
        self.name = name
        self._routes = routes
        self._queues = {queue.fileno(): queue for queue in (routes.private[name], routes.parcels)}
        self._control = control.fileno()
        # Kept: `multiprocessing.connection.wait` makes one of its own for each message.
        self._poller = select.poll()
        for descriptor in (*self._queues, self._control):
            self._poller.register(descriptor, select.POLLIN)

    def receive(self, timeout: float | None) -> NearLetter | None:
        ready = dict(self._poller.poll(None if timeout is None else math.ceil(timeout * 1000)))
        for descriptor, queue in self._queues.items():
            if descriptor in ready:
                try:
                    producer, ticket, message, places = queue.get(timeout=_LOCKED)
                except Empty:
                    continue
                self._routes.arenas[producer].fill_in(message, places)
                return NearLetter(self._routes.answers[producer], ticket, message)
        if self._control in ready:
            raise ShutDown
        return None

    def close(self, timeout: float | None) -> None:
        """Leave. No answer is waited for: the producers were gone before the end was said."""
        self._routes.close()
        for queue in self._routes.answers:
            queue.cancel_join_thread()
