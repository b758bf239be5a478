"""The takes and acks of a client of a far queue."""

from __future__ import annotations

import time
from _thread import get_ident
from contextlib import suppress
from typing import Any

from nearfar.errors import Empty, ProducerLost, ShutDown
from nearfar.net.interrupts import deferred_call_here, safe, soon
from nearfar.net.session import SessionStage
from nearfar.queues.base import Delivery, left, waits
from nearfar.queues.client.connection import ClientConnection
from nearfar.queues.client.consumer import LINGER
from nearfar.queues.client.deliveries import DeliveredChunk, DeliveredItem
from nearfar.queues.client.protocol import ClientProtocol
from nearfar.queues.messages import QueueMessageType

Runs = list[tuple[int, int, int]]
"""Items that the program holds: (session, first, last) each."""
DELIVERY = 0
"""The holder of items taken by `receive`: a later `get` of the same thread does not ack them."""


def run_of(one: DeliveredItem) -> tuple[int, int, int]:
    """A run of one item."""
    return one.session, one.position, one.position


class ConsumerCalls:
    """Takes and acks. The caller identifies items by their position in a session (`DeliveredItem`)."""

    def __init__(self, client: ClientConnection) -> None:
        self._client = client
        self.hand = client.machine.hand
        """The items that can be taken, and the acks, without the lock."""
        self._taker = 0
        """The thread that last took a single item."""

    # -- taking ----------------------------------------------------------------------------------

    @safe
    def take(
        self, most: int, holder: int, *, block: bool, timeout: float | None, to_the_end: bool = False
    ) -> list[DeliveredItem]:
        """At least one item and up to `most`, for `holder` (a thread, or any other number).

        Raises `Empty`, `ShutDown` after a shutdown, and the error of decoding the item. With `to_the_end`
        also at the end of the queue: `ShutDown`, or `ProducerLost` if a producer was lost.
        """
        return self.take_now(most, holder, block=block, timeout=timeout, to_the_end=to_the_end)

    def take_now(
        self,
        most: int,
        holder: int,
        *,
        block: bool,
        timeout: float | None,
        to_the_end: bool = False,
        hand_out: bool = False,
        settles: bool = False,
        runs: Runs | None = None,
    ) -> list[Any]:
        """As `take`, with signals deferred.

        With `settles`, everything that `holder` took before is acked. With `hand_out` this thread may take
        the next items without the lock (see `ItemReceiver.hand_out`), if it also took the last one. Not in a
        deferred call, which may still return items afterwards. With `runs`, returns the items themselves, and
        adds their runs there.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        taken: list[Any] = []
        try:
            with self._client.hold:
                if settles:
                    self._done_by(holder)
                machine = self._ready_to_take(most, block, deadline, to_the_end)
                if runs is None:
                    self._take_buffered(machine, most, holder, taken)
                else:
                    self._take_runs(machine, most, holder, taken, runs)
                if not taken:
                    self._explain_nothing(machine, to_the_end)
                tell = self._tell_of_takes(machine)
                if hand_out and machine.receiver.buffered and deferred_call_here() is None:
                    self._hand_out(machine, holder, settles, told=tell)
            if tell:
                self._client.need_driver().help()
            return taken
        except BaseException:
            self.let_go([run_of(one) for one in taken] if runs is None else runs)
            raise

    def take_items(
        self,
        most: int,
        holder: int,
        *,
        block: bool,
        timeout: float | None,
        to_the_end: bool = False,
        settles: bool = False,
    ) -> tuple[list[Any], Runs]:
        """As `take_now`, but returns the items themselves, and the runs for `let_go` if these are not
        delivered."""
        runs: Runs = []
        items = self.take_now(
            most, holder, block=block, timeout=timeout, to_the_end=to_the_end, settles=settles, runs=runs
        )
        return items, runs

    def take_batch(
        self, most: int, least: int, holder: int, *, timeout: float | None, settles: bool = False
    ) -> list[DeliveredItem]:
        """As `take_now` with `to_the_end`, but once there is an item, waits for `least` of them.

        Returns fewer after `timeout` seconds, at the end, or before an item that cannot be read.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        wait = waits(True, timeout)
        taken = self.take_now(most, holder, block=wait, timeout=timeout, to_the_end=True, settles=settles)
        try:
            with suppress(Empty, ShutDown, ProducerLost):  # at the end, the next call raises
                while len(taken) < least and not self._next_is_unreadable():
                    more = most - len(taken)
                    rest = left(deadline)
                    taken += self.take_now(more, holder, block=True, timeout=rest, to_the_end=True)
        except BaseException:
            self.let_go([run_of(one) for one in taken])
            raise
        return taken

    def _next_is_unreadable(self) -> bool:
        with self._client.hold:
            return self._client.machine.receiver.next_is_unreadable()

    def _ready_to_take(
        self, most: int, block: bool, deadline: float | None, to_the_end: bool
    ) -> ClientProtocol:
        machine = self._client.machine
        if (
            machine.calling.stage is not SessionStage.OPEN
            or self._client.closed
            or not machine.roles.consumes
        ):
            self._client.open(consumes=True)
        assert machine.session is not None
        if machine.session.shut_immediately:
            raise ShutDown
        if not machine.receiver.at_hand():
            self._await_items(machine, most, block, deadline, to_the_end)
        return machine

    @safe
    def let_go(self, runs: Runs) -> None:
        """Return runs of taken items (session, first, last) that never reached the caller."""
        with self._client.hold:
            for session, first, last in runs:
                if session == self._client.machine.calling.number:
                    for position in range(first, last + 1):
                        self._client.machine.receiver.let_go(position)

    @safe
    def let_go_taken(self, chunk: DeliveredChunk, lying: int) -> None:
        """Return the item that an interrupted thread took from `chunk` when it had `lying` items."""
        with self._client.hold:
            if chunk.session == self._client.machine.calling.number:
                receiver = self._client.machine.receiver
                receiver.let_go(receiver.taken_from(chunk, lying))

    def _await_items(
        self, machine: ClientProtocol, most: int, block: bool, deadline: float | None, to_the_end: bool
    ) -> None:
        def ready() -> bool:
            return machine.receiver.buffered > 0 or self._client.session.ended(counted=to_the_end)

        def done() -> bool:
            return ready() and (machine.receiver.at_hand() or ready())

        since = time.monotonic()
        machine.receiver.waiters += most
        try:
            if block:
                self._client.wait_until(done, deadline, ready=ready)
            else:
                self._client.ask_now(
                    QueueMessageType.REPORT,
                    until=machine.receiver.at_hand,
                    ready=lambda: bool(machine.receiver.buffered),
                )
        finally:
            machine.receiver.waiters -= most
            machine.receiver.waited(since, time.monotonic())

    def _take_buffered(
        self, machine: ClientProtocol, most: int, holder: int, taken: list[DeliveredItem]
    ) -> None:
        while len(taken) < most and not (taken and machine.receiver.next_is_unreadable()):
            try:
                one = machine.receiver.take(holder, time.monotonic())
            except Exception:
                self._client.need_driver().wake()
                raise
            if one is None:
                break
            taken.append(one)

    def _take_runs(
        self, machine: ClientProtocol, most: int, holder: int, items: list[Any], runs: Runs
    ) -> None:
        while len(items) < most:
            first, some = machine.receiver.take_run(most - len(items), holder, time.monotonic())
            if not some:
                break
            runs.append((machine.calling.number, first, first + len(some) - 1))
            items += some
        if not items:  # the next one may be unreadable, and raise
            taken: list[DeliveredItem] = []
            self._take_buffered(machine, 1, holder, taken)
            runs += map(run_of, taken)
            items += [one.item for one in taken]

    def _explain_nothing(self, machine: ClientProtocol, to_the_end: bool) -> None:
        if not self._client.session.ended(counted=to_the_end):
            raise Empty
        if to_the_end and self._client.session.lost:
            raise ProducerLost(self._client.session.lost)
        raise ShutDown

    def _tell_of_takes(self, machine: ClientProtocol) -> bool:
        """Whether to report takes to the broker now: then call `help` of the driver.

        Takes may be collected for a moment, but not until the buffer is empty, nor if they free much of the
        room that puts may wait for.
        """
        if machine.receiver.takes_press():
            return True
        self._client.need_driver().wake_within(LINGER, time.monotonic())
        return False

    def _hand_out(self, machine: ClientProtocol, holder: int, settles: bool, *, told: bool) -> None:
        """`told`: all takes up to now are reported next."""
        thread, before = get_ident(), self._taker
        receiver, self._taker = machine.receiver, thread
        if thread == before and not receiver.waiters:
            most = self._step(machine, 0 if told else receiver.taken - receiver.told_taken)
            receiver.hand_out(holder, thread, most, settles=settles, whole=holder == DELIVERY)

    def _step(self, machine: ClientProtocol, untold: int) -> int:
        """The number of takes until the next check whether to report them; `untold` are not reported yet."""
        receiver = machine.receiver
        most = min(receiver.due, receiver.few, receiver.little // (receiver.average or 1))
        return max(1, most - untold)

    def tell_of_acks(self) -> None:
        """Report the acks in `hand` to the broker. Never waits, and never raises."""
        soon(self._count_acks)

    def _count_acks(self) -> None:
        client = self._client
        if client.hold.here and client.driver is not None:  # in a finalizer: the next turn counts them
            client.driver.help()
            return
        with client.hold:
            if self._client.machine.session is not None:
                self._client.machine.hand.called = True
                self._client.machine.receiver.count()
                self._tell_of_done()

    # -- settling --------------------------------------------------------------------------------

    @safe
    def session_name(self) -> str:
        """The name by which this client's consumer can be addressed, in this session."""
        with self._client.hold:
            return self._client.open(consumes=True).session_name

    @safe
    def done(self, session: int, position: int, answer: bytes | None = None) -> None:
        """Ack an item. One of an earlier session is ignored: it goes to another consumer."""
        with self._client.hold:
            if session == self._client.machine.calling.number:
                self._client.machine.receiver.done(position, answer)
                self._tell_of_done()

    @safe
    def failed(self, session: int, position: int) -> None:
        """Nack an item, for another attempt."""
        with self._client.hold:
            if session == self._client.machine.calling.number:
                self._client.session.fail(position)
                self._client.need_driver().wake()

    @safe
    def done_by(self, holder: int | None = None) -> None:
        """Ack everything that `holder` took (None: everything that was taken, except deliveries)."""
        with self._client.hold:
            self._done_by(holder)

    def _done_by(self, holder: int | None) -> None:
        machine = self._client.machine
        if machine.session is not None:
            machine.session.receiver.done_by(holder)
        if machine.superseded:
            machine.superseded = [h for h in machine.superseded if h != holder and holder is not None]

    @safe
    def done_oldest(self, holder: int) -> bool:
        """Ack the oldest item of `holder`, or else of any thread; False if there is none."""
        with self._client.hold:
            if holder in self._client.machine.superseded:  # its item goes to another consumer
                self._client.machine.superseded.remove(holder)
                return True
            if self._client.machine.session is None:
                return False
            found = self._client.session.receiver.done_oldest(holder)
            self._tell_of_done()
            return found

    def _tell_of_done(self) -> None:
        """Report the acks: at once if others may wait for them, else in a moment, with more."""
        if self._client.driver is not None:
            if self._client.session.receiver.rests:
                self._client.driver.wake()
            else:
                self._client.driver.wake_within(LINGER, time.monotonic())


class FarDelivery(Delivery):
    """A delivery of a far queue."""

    def __init__(self, takes: ConsumerCalls, taken: DeliveredItem) -> None:
        self._takes, self._taken, self._hand = takes, taken, takes.hand
        _, self.item, self.attempt, _ = taken

    def let_go(self) -> None:
        """Return the item: it never reached the caller."""
        self._takes.let_go([run_of(self._taken)])

    def ack(self) -> None:
        hand = self._hand
        hand.acks.append(self._taken)
        if not hand.called or not hand.receiving[1]:  # no report is due soon, or this was the last item here
            self._takes.tell_of_acks()

    def nack(self) -> None:
        self._takes.failed(self._taken.session, self._taken.position)
