"""One process's end of a far queue, for any number of threads."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from nearfar.errors import Empty, Full, ProducerLost, ShutDown
from nearfar.net import codec
from nearfar.queues.ends.connection import Connection
from nearfar.queues.ends.machine import EndMachine
from nearfar.queues.ends.receiver import Taken
from nearfar.queues.ends.sender import Entry, Settled
from nearfar.queues.ends.session import LINGER
from nearfar.queues.wire import Kind


class End(Connection):
    """Puts and takes. Items are known to the caller by their position in a session (`Taken`)."""

    # -- putting ---------------------------------------------------------------------------------

    def put(self, items: list[Any], *, block: bool, timeout: float | None, to: str | None = None) -> int:
        """Put `items` in order and return the number of the last. Raises `Full` with how many went in."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            entry = self._submit(items, to)
            if not entry.items or block:
                self._need_loop().wake()
            if not entry.items:
                return entry.last
            try:
                if block:
                    self._wait_until(lambda: not entry.items or self._session.shut, deadline)
                else:
                    self._ask(Kind.NEED, until=lambda: not entry.items)
            finally:
                if entry.items:
                    self._machine.sender.withdraw(entry)
                    self._need_loop().wake()  # what waits behind it may fit now
                    self._changed.notify_all()
            if entry.admitted < len(items):
                if self._session.shut:
                    raise ShutDown
                raise Full(entry.admitted)
            return entry.last

    def post(self, item: Any, to: str | None = None) -> Entry:
        """Queue one item for sending and return at once; `Entry.last` is its number once it is admitted."""
        with self._changed:
            entry = self._submit([item], to)
            self._need_loop().wake()
            return entry

    def attend(self) -> None:
        """Be counted as a producer from now on, whether anything is put or not. Raises `QueueLost`."""
        with self._changed:
            self._open(produces=True)
            self._need_loop().wake()

    def tags(self) -> frozenset[str]:
        """The names under which consumers can be addressed now, besides their own."""
        with self._changed:
            return self._session.tags if self._machine.session else frozenset()

    def join_items(self) -> None:
        """Wait until every item of the queue is done. Raises `QueueLost`.

        A host that was started again does not know of items until their producers have sent them again: it
        is not asked before all that was put here is done, and asked anew if it is another by then.
        """
        with self._changed:
            machine, epoch = self._open(), None
            while epoch != machine.facts["epoch"]:
                epoch = machine.facts["epoch"]
                self._wait_until(lambda: not machine.sender.unsettled, None)
                self._ask(Kind.ASK, "join")

    def _submit(self, items: list[Any], to: str | None) -> Entry:
        machine = self._open(produces=True)
        if self._session.shut:
            raise ShutDown
        entry = Entry(self._encode(machine, items), to)
        machine.sender.put(entry)
        return entry

    def _encode(self, machine: EndMachine, items: list[Any]) -> deque[bytes]:
        trusted = bool(machine.facts["trusted"])
        encoded = deque(codec.encode(item, trusted=trusted) for item in items)
        most = machine.facts["maxbytes"]
        if most and any(len(item) > most for item in encoded):
            raise ValueError(f"an item is larger than the whole queue may be ({most} bytes)")
        return encoded

    def outcomes(self) -> list[Settled]:
        """What was settled with more than "done" since the last call (dead, undeliverable, answered).

        Raises `QueueLost` when there is none and the host has been away for too long.
        """
        with self._changed:
            outcomes = list(self._machine.sender.outcomes)
            self._machine.sender.outcomes.clear()
            if not outcomes:
                self._check_host(time.monotonic())
            return outcomes

    # -- taking ----------------------------------------------------------------------------------

    def take(
        self, most: int, holder: int, *, block: bool, timeout: float | None, to_the_end: bool = False
    ) -> list[Taken]:
        """At least one item and up to `most`, for `holder` (a thread, or any other number).

        Raises `Empty`, `ShutDown` after a shutdown, and what reading the item raises. With `to_the_end`
        also at the counted end: `ShutDown`, or `ProducerLost` if not every producer said goodbye.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            machine = self._open(consumes=True)
            if self._session.shut_immediately:
                raise ShutDown
            if not machine.receiver.buffered:
                self._await_items(machine, most, block, deadline, to_the_end)
            taken = self._take_buffered(machine, most, holder)
            if not taken:
                self._explain_nothing(machine, to_the_end)
            self._tell_of_takes(machine)
            return taken

    def _await_items(
        self, machine: EndMachine, most: int, block: bool, deadline: float | None, to_the_end: bool
    ) -> None:
        machine.receiver.waiters += most
        try:
            if block:
                self._need_loop().wake()
                self._wait_until(
                    lambda: machine.receiver.buffered or self._session.ended(counted=to_the_end), deadline
                )
            else:
                self._ask(Kind.REPORT, until=lambda: machine.receiver.buffered > 0)
        finally:
            machine.receiver.waiters -= most

    def _take_buffered(self, machine: EndMachine, most: int, holder: int) -> list[Taken]:
        taken: list[Taken] = []
        while len(taken) < most and not (taken and machine.receiver.next_is_unreadable()):
            try:
                one = machine.receiver.take(holder, time.monotonic())
            except Exception:
                self._need_loop().wake()
                raise
            if one is None:
                break
            taken.append(one)
        return taken

    def _explain_nothing(self, machine: EndMachine, to_the_end: bool) -> None:
        if not self._session.ended(counted=to_the_end):
            raise Empty
        if to_the_end and self._session.lost:
            raise ProducerLost(self._session.lost)
        raise ShutDown

    def _tell_of_takes(self, machine: EndMachine) -> None:
        """Puts that wait for room learn of it at once; otherwise news of takes may gather for a moment."""
        receiver, now = machine.receiver, time.monotonic()
        if machine.sender.bounded or receiver.unreported() * 2 > receiver.window(now):
            self._need_loop().wake()
        else:
            self._need_loop().wake_within(LINGER, now)

    # -- saying what became of it ----------------------------------------------------------------

    def session_name(self) -> str:
        """The name by which this end's consumer can be addressed, in this session."""
        with self._changed:
            return self._open(consumes=True).session_name

    def done(self, session: int, position: int, answer: bytes | None = None) -> None:
        """An item is done; one of an earlier session is somebody else's by now."""
        with self._changed:
            if session == self._machine.sessions:
                self._machine.receiver.done(position, answer)
                self._wake_soon()

    def failed(self, session: int, position: int) -> None:
        """An item was given up."""
        with self._changed:
            if session == self._machine.sessions:
                self._session.fail(position)
                self._wake_soon()

    def done_by(self, holder: int | None = None) -> None:
        """All that `holder` took is done (None: all that anyone took, but for deliveries)."""
        with self._changed:
            if self._machine.session is not None:
                self._session.receiver.done_by(holder)
            self._machine.superseded = [
                h for h in self._machine.superseded if h != holder and holder is not None
            ]

    def done_oldest(self, holder: int) -> bool:
        """The oldest item that `holder`, or else anyone here, took is done; False if there is none."""
        with self._changed:
            if holder in self._machine.superseded:  # somebody else's by now
                self._machine.superseded.remove(holder)
                return True
            self._wake_soon()
            return self._machine.session is not None and self._session.receiver.done_oldest(holder)

    def _wake_soon(self) -> None:
        if self._loop is not None:
            self._loop.wake()
