"""The transport between the processes of one command: near queues, and the bytes of files in shared memory.

::

    producer 0 --+                        +-- consumer 0
                 +--> requests (shared) --+                  for any consumer: an idle one takes it
    producer 1 --+                        +-- consumer 1
                 +--> one queue for each consumer            for this consumer only
    each producer's own answers  <--------+

The bytes of files do not pass through near queues, which would copy them four times (into a pickle, into a
pipe, out of the pipe, out of the pickle). They are in the producer's `Arena`, in shared memory, written once
and read in place. Near queues redeliver nothing: the parent watches the processes, and restarts them when one
dies (`nearfar.download.local`). The queues are unbounded, since producers limit the bytes in flight.
"""

from __future__ import annotations

import math
import mmap
import os
import select
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import DupFd
from threading import Thread
from typing import Any

from nearfar.download.messages import long_bodies
from nearfar.errors import Empty, ShutDown
from nearfar.queues.near import NearQueue
from nearfar.serialization.shared_memory import Ring, allowed, create, map_shared

SIZE = 24 * 1024 * 1024
"""Bytes: a producer's maximum in flight, and some space for the gaps at the end."""

Place = tuple[int, int, int]
"""Index of a part of a message, and start and end of its bytes in the arena."""


class Arena:
    """Shared memory of one producer and all consumers, inherited by them. Only the producer writes.

    Its size is at most the limit of ``ulimit -f``; messages that do not fit are copied.
    """

    def __init__(self, size: int = SIZE) -> None:
        self._size = allowed(size)
        self._descriptor = create(self._size)
        self._map: mmap.mmap | None = None
        self._view = memoryview(b"")
        self._ring = Ring(self._size)

    def __getstate__(self) -> tuple[int, Any]:
        return self._size, DupFd(self._descriptor)

    def __setstate__(self, state: tuple[int, Any]) -> None:
        self._size, given = state
        self._descriptor = given.detach()
        self._map, self._view, self._ring = None, memoryview(b""), Ring(self._size)

    def lay_out(self, message: list[Any]) -> tuple[list[Place], int | None]:
        """Move the long bodies of `message` to this memory.

        Returns their places, and the start to pass to `give_back` later. Without space, nothing is moved.
        """
        found = long_bodies(message)
        total = sum(len(data) for _, data in found)
        start = self._ring.take(total) if total else None
        if start is None:
            return [], None
        view, at, places = self._bytes(), start, list[Place]()
        for index, data in found:
            end = at + len(data)
            view[at:end] = data
            places.append((index, at, end))
            message[index] = None
            at = end
        return places, start

    def give_back(self, start: int) -> None:
        """Release the space that `lay_out` used at `start`: no process reads it any more."""
        self._ring.give_back(start)

    def fill_in(self, message: list[Any], places: list[Place]) -> None:
        """Put views of the bytes in the places of `message`; valid until the producer has the answer."""
        view = self._bytes() if places else self._view
        for index, start, end in places:
            message[index] = view[start:end]

    def close(self) -> None:
        """Unmap the memory in this process. Views of it stay valid."""
        self._view = memoryview(b"")
        if self._map is not None:
            with suppress(BufferError):
                self._map.close()
            self._map = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _bytes(self) -> memoryview:
        if self._map is None:
            self._map = map_shared(self._descriptor, self._size)
            self._view = memoryview(self._map)
        return self._view


HERE = frozenset({"here"})
"""All consumers of one command share one store."""
_LOCKED = 0.005
"""Seconds to wait for a message that may have been taken by another consumer."""


@dataclass(frozen=True, slots=True)
class Routes:
    """The queues of one command, inherited by all its processes."""

    parcels: NearQueue
    private: dict[str, NearQueue]
    """By the consumer's name."""
    answers: Sequence[NearQueue]
    """By the producer's number."""
    arenas: Sequence[Arena]
    """By the producer's number."""

    def close(self) -> None:
        for queue in (self.parcels, *self.private.values(), *self.answers):
            queue.close()
        for arena in self.arenas:
            arena.close()


class NearRequestSender:
    """A producer's side. A second thread waits for answers, since one cannot wait for queue and network."""

    def __init__(self, routes: Routes, number: int) -> None:
        self.on_event: Callable[[], None] = lambda: None
        self._routes = routes
        self._number = number
        self._sent = 0
        self._arena = routes.arenas[number]
        self._places: dict[int, int] = {}
        """Start of the arena space to release, by ticket."""
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
        """Wait until everything sent is in the pipes. The consumers are alive, so `timeout` is not used."""
        self._routes.answers[self._number].put(None)
        self._thread.join(timeout)
        self._routes.close()
        for queue in (self._routes.parcels, *self._routes.private.values()):
            queue.join_thread()

    def _listen(self) -> None:
        while (answer := self._routes.answers[self._number].get()) is not None:
            self._arrived.append(answer)
            self.on_event()


class NearIncomingRequest:
    """A received message that was not answered yet."""

    attempt = 1

    def __init__(self, answers: NearQueue, ticket: int, message: Any) -> None:
        self.message = message
        self._answers = answers
        self._ticket = ticket

    def answer(self, value: Any = None) -> None:
        self._answers.put((self._ticket, value))


class NearRequestReceiver:
    """A consumer's side. A message on `control`, or its end of file, ends the work."""

    def __init__(self, routes: Routes, name: str, control: Connection[Any, Any]) -> None:
        self.name = name
        self._routes = routes
        self._queues = {queue.fileno(): queue for queue in (routes.private[name], routes.parcels)}
        self._control = control.fileno()
        # Kept, since `multiprocessing.connection.wait` creates a new one for each message.
        self._poller = select.poll()
        for descriptor in (*self._queues, self._control):
            self._poller.register(descriptor, select.POLLIN)

    def receive(self, timeout: float | None) -> NearIncomingRequest | None:
        ready = dict(self._poller.poll(None if timeout is None else math.ceil(timeout * 1000)))
        for descriptor, queue in self._queues.items():
            if descriptor in ready:
                try:
                    producer, ticket, message, places = queue.get(timeout=_LOCKED)
                except Empty:
                    continue
                self._routes.arenas[producer].fill_in(message, places)
                return NearIncomingRequest(self._routes.answers[producer], ticket, message)
        if self._control in ready:
            raise ShutDown
        return None

    def close(self, timeout: float | None) -> None:
        """Leave. No answer is awaited: the producers had ended before the end was sent."""
        self._routes.close()
        for queue in self._routes.answers:
            queue.cancel_join_thread()
