"""One process's end of a far queue, for any number of threads."""

from __future__ import annotations

import time
from _thread import get_ident
from contextlib import suppress
from typing import Any

from nearfar.errors import Empty, ProducerLost, ShutDown
from nearfar.net.deputy import errand_here, safe, soon
from nearfar.queues.deadlines import left, waits
from nearfar.queues.ends.loans import Chunk, Hand, Taken
from nearfar.queues.ends.machine import EndMachine
from nearfar.queues.ends.putting import Putting
from nearfar.queues.ends.session import LINGER
from nearfar.queues.wire import Kind

Runs = list[tuple[int, int, int]]
"""Items in the program's hands: (session, first, last) each."""
DELIVERY = 0
"""The holder of items taken by `receive`: no thread's next `get` settles them."""


def run_of(one: Taken) -> tuple[int, int, int]:
    """A run of one item."""
    return one.session, one.position, one.position


class End(Putting):
    """Puts and takes. Items are known to the caller by their position in a session (`Taken`)."""

    _taker = 0
    """The thread that last took a single item."""

    # -- taking ----------------------------------------------------------------------------------

    @safe
    def take(
        self,
        most: int,
        holder: int,
        *,
        block: bool,
        timeout: float | None,
        to_the_end: bool = False,
        hand_out: bool = False,
        settles: bool = False,
    ) -> list[Taken]:
        """At least one item and up to `most`, for `holder` (a thread, or any other number).

        Raises `Empty`, `ShutDown` after a shutdown, and what reading the item raises. With `to_the_end`
        also at the counted end: `ShutDown`, or `ProducerLost` if not every producer said goodbye.

        With `hand_out` this thread may have what follows without asking (see `Receiver.hand_out`), if it
        also took what went before. Not through a deputy: what is given back for its caller comes later.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        taken: list[Taken] = []
        try:
            with self._hold:
                machine = self._ready_to_take(most, block, deadline, to_the_end)
                self._take_buffered(machine, most, holder, taken)
                if not taken:
                    self._explain_nothing(machine, to_the_end)
                tell = self._tell_of_takes(machine)
                if hand_out and errand_here() is None:
                    self._hand_out(machine, holder, settles)
            if tell:
                self._need_loop().help()
            return taken
        except BaseException:
            self.let_go([run_of(one) for one in taken])
            raise

    @safe
    def take_items(
        self, most: int, holder: int, *, block: bool, timeout: float | None, to_the_end: bool = False
    ) -> tuple[list[Any], Runs]:
        """As `take`, without what is known of each item; and what to `let_go` where it is not wanted."""
        deadline = None if timeout is None else time.monotonic() + timeout
        items: list[Any] = []
        runs: Runs = []
        try:
            with self._hold:
                machine = self._ready_to_take(most, block, deadline, to_the_end)
                receiver = machine.receiver
                while len(items) < most:
                    first, some = receiver.take_run(most - len(items), holder, time.monotonic())
                    if not some:
                        break
                    runs.append((machine.sessions, first, first + len(some) - 1))
                    items += some
                if items:
                    tell = self._tell_of_takes(machine)
            if items and tell:
                self._need_loop().help()
        except BaseException:
            self.let_go(runs)
            raise
        if items:
            return items, runs
        # it may be one that raises
        (one,) = self.take(1, holder, block=block, timeout=left(deadline), to_the_end=to_the_end)
        return [one.item], [run_of(one)]

    @safe
    def take_batch(self, most: int, least: int, holder: int, *, timeout: float | None) -> list[Taken]:
        """As `take` to the end, but waits for `least` items where there is one.

        Fewer come after `timeout` seconds, at the end, or before an item that cannot be read.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        taken = self.take(most, holder, block=waits(True, timeout), timeout=timeout, to_the_end=True)
        try:
            with suppress(Empty, ShutDown, ProducerLost):  # if it is the end, the next call says so
                while len(taken) < least and not self._next_is_unreadable():
                    more = most - len(taken)
                    taken += self.take(more, holder, block=True, timeout=left(deadline), to_the_end=True)
        except BaseException:
            self.let_go([run_of(one) for one in taken])
            raise
        return taken

    def _next_is_unreadable(self) -> bool:
        with self._hold:
            return self._machine.receiver.next_is_unreadable()

    def _ready_to_take(self, most: int, block: bool, deadline: float | None, to_the_end: bool) -> EndMachine:
        machine = self._open(consumes=True)
        if self._session.shut_immediately:
            raise ShutDown
        if not machine.receiver.at_hand():
            self._await_items(machine, most, block, deadline, to_the_end)
        return machine

    @safe
    def let_go(self, runs: Runs) -> None:
        """What was taken (session, first, last) never reached who asked for it: the host has it again."""
        with self._hold:
            for session, first, last in runs:
                if session == self._machine.sessions:
                    for position in range(first, last + 1):
                        self._machine.receiver.let_go(position)

    @safe
    def let_go_taken(self, chunk: Chunk, lying: int) -> None:
        """Who took from `chunk`, with `lying` items in it, was interrupted: the host has that item again."""
        with self._hold:
            if chunk.session == self._machine.sessions:
                receiver = self._machine.receiver
                receiver.let_go(receiver.taken_from(chunk, lying))

    def _await_items(
        self, machine: EndMachine, most: int, block: bool, deadline: float | None, to_the_end: bool
    ) -> None:
        since = time.monotonic()
        machine.receiver.waiters += most
        try:
            if block:
                self._wait_until(
                    lambda: machine.receiver.at_hand() or self._session.ended(counted=to_the_end), deadline
                )
            else:
                self._ask(Kind.REPORT, until=machine.receiver.at_hand)
        finally:
            machine.receiver.waiters -= most
            machine.receiver.waited(since, time.monotonic())

    def _take_buffered(self, machine: EndMachine, most: int, holder: int, taken: list[Taken]) -> None:
        while len(taken) < most and not (taken and machine.receiver.next_is_unreadable()):
            try:
                one = machine.receiver.take(holder, time.monotonic())
            except Exception:
                self._need_loop().wake()
                raise
            if one is None:
                break
            taken.append(one)

    def _explain_nothing(self, machine: EndMachine, to_the_end: bool) -> None:
        if not self._session.ended(counted=to_the_end):
            raise Empty
        if to_the_end and self._session.lost:
            raise ProducerLost(self._session.lost)
        raise ShutDown

    def _tell_of_takes(self, machine: EndMachine) -> bool:
        """Whether to tell the host of takes now: `help` the loop.

        News of takes may gather for a moment, but not until the buffer runs dry, nor while a good part of the
        room is in it that puts may wait for.
        """
        if self._session.takes_press():
            return True
        self._need_loop().wake_within(LINGER, time.monotonic())
        return False

    def _hand_out(self, machine: EndMachine, holder: int, settles: bool) -> None:
        thread, before = get_ident(), self._taker
        receiver, self._taker = machine.receiver, thread
        if thread == before and not receiver.waiters:
            most = self._step(machine)
            receiver.hand_out(holder, thread, most, settles=settles, whole=holder == DELIVERY)

    def _step(self, machine: EndMachine) -> int:
        """Takes until it is to be asked again whether the host is to be told."""
        receiver, facts = machine.receiver, machine.facts
        told = receiver.taken - receiver.told_taken
        most = receiver.due - told
        if facts["maxsize"]:
            most = min(most, facts["maxsize"] // 8 - told)
        if facts["maxbytes"] and receiver.average:
            most = min(most, facts["maxbytes"] // (8 * receiver.average) - told)
        return max(1, most)

    @property
    def hand(self) -> Hand:
        """What can be taken, and said to be done, without the lock."""
        return self._machine.hand

    def tell_of_acks(self) -> None:
        """Have the host told of the acks in `hand`. Never waits, and never raises."""
        soon(self._count_acks)

    def _count_acks(self) -> None:
        with self._hold:
            if self._machine.session is not None:
                self._machine.hand.called = True
                self._machine.receiver.count()
                self._tell_of_done()

    # -- saying what became of it ----------------------------------------------------------------

    @safe
    def session_name(self) -> str:
        """The name by which this end's consumer can be addressed, in this session."""
        with self._hold:
            return self._open(consumes=True).session_name

    @safe
    def done(self, session: int, position: int, answer: bytes | None = None) -> None:
        """An item is done; one of an earlier session is somebody else's by now."""
        with self._hold:
            if session == self._machine.sessions:
                self._machine.receiver.done(position, answer)
                self._tell_of_done()

    @safe
    def failed(self, session: int, position: int) -> None:
        """An item was given up."""
        with self._hold:
            if session == self._machine.sessions:
                self._session.fail(position)
                self._need_loop().wake()

    @safe
    def done_by(self, holder: int | None = None) -> None:
        """All that `holder` took is done (None: all that anyone took, but for deliveries)."""
        with self._hold:
            if self._machine.session is not None:
                self._session.receiver.done_by(holder)
            self._machine.superseded = [
                h for h in self._machine.superseded if h != holder and holder is not None
            ]

    @safe
    def done_oldest(self, holder: int) -> bool:
        """The oldest item that `holder`, or else anyone here, took is done; False if there is none."""
        with self._hold:
            if holder in self._machine.superseded:  # somebody else's by now
                self._machine.superseded.remove(holder)
                return True
            if self._machine.session is None:
                return False
            found = self._session.receiver.done_oldest(holder)
            self._tell_of_done()
            return found

    def _tell_of_done(self) -> None:
        """Have the host told: at once where others may wait for just that, else in a moment, with more."""
        if self._loop is not None:
            if self._session.receiver.rests:
                self._loop.wake()
            else:
                self._loop.wake_within(LINGER, time.monotonic())
