"""One process's client of a far queue, for any number of threads."""

from __future__ import annotations

import time
from _thread import get_ident
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from nearfar.errors import Empty, Full, NotAdmitted, ProducerLost, QueueLost, ShutDown
from nearfar.net.addresses import Address
from nearfar.net.auth import OWN, Access
from nearfar.net.interrupts import Abandoned, deferred_call_here, safe, safely, soon
from nearfar.net.process import about_me, left_behind, new_name, new_session_stem
from nearfar.net.resources import CALLER, make_room
from nearfar.queues.base import Delivery, left, waits
from nearfar.queues.client.consumer import DeliveredChunk, DeliveredItem, Hand
from nearfar.queues.client.io import BUSY, ClientLoop, Hold
from nearfar.queues.client.producer import (
    BATCH_BYTES,
    BATCH_ITEMS,
    EASED,
    MANY,
    Batch,
    PutBuffer,
    PutRequest,
    Settled,
    several,
)
from nearfar.queues.client.protocol import ClientProtocol, ClientState
from nearfar.queues.client.session import LINGER, BrokerSession
from nearfar.queues.messages import QueueMessageType
from nearfar.serialization import item_codec
from nearfar.serialization.item_codec import Encoded, joined
from nearfar.serialization.shared_ring import enabled


class ClientConnection:
    """Connects to the queue at `address` on first use, according to `access`.

    `wait` (seconds) is how long the host may be away before calls raise `QueueLost`. `tags` are names by
    which this client's consumer can be addressed, in addition to its own. A `helper` puts for another
    producer that stays for as long: it is not counted for the end of the queue.

    `on_change` is called by the client's thread after anything came from the broker: it must be quick and
    never raise.
    """

    def __init__(
        self,
        address: Address,
        access: Access = OWN,
        *,
        wait: float = 60.0,
        tags: tuple[str, ...] = (),
        helper: bool = False,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self.name = new_name()
        self._wait = wait
        self._address = address
        self._access = access
        self._on_change = on_change
        self._hold = Hold()
        stem = new_session_stem(self.name)
        about = about_me()
        about["shares"] = about["machine"] if enabled() else ""
        self._machine = ClientProtocol(
            self.name, about, tags, helper=helper, stem=stem, trusts=access.trusted
        )
        self._loop: ClientLoop | None = None
        self._closed = False
        self._mentioned: dict[str, int] = {}
        self._glimpse = 0
        self._glimpsed: dict[str, int] = {}
        self.waited_for = True
        """Whether the program waits at its exit until the host has what was put."""
        self.waiting = 0
        """Calls that are waiting now."""

    @safe
    def reach(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for a host; returns whether one answered. Raises `QueueLost`."""
        with self._hold:
            self._begin()
            self._wait_until(lambda: bool(self._machine.facts), time.monotonic() + timeout)
            return bool(self._machine.facts)

    # -- questions -------------------------------------------------------------------------------

    @safe
    def ask(self, what: str, argument: Any = None) -> Any:
        """Ask the broker, and return its answer."""
        with self._hold:
            self._open()
            return self._ask(QueueMessageType.ASK, what, argument)

    @safe
    def mention(self, what: str, figure: int) -> None:
        """Send the broker a figure, one of `session.TOLD`, which it keeps as long as this session.

        Never waits: a figure is skipped while the broker has not confirmed the previous one.
        """
        with self._hold:
            asks = self._machine.asks
            if self._loop is not None and not asks.unanswered(self._mentioned.get(what, 0)):
                self._mentioned[what] = asks.add(QueueMessageType.ASK, what, figure)
                self._loop.wake()

    @safe
    def glimpse_counts(self) -> dict[str, int]:
        """The queue's figures as last received; also requests new ones. Never waits."""
        with self._hold:
            asks = self._machine.asks
            if asks.answered(self._glimpse):
                self._glimpsed = asks.take(self._glimpse) or {}
            if self._loop is not None and not asks.unanswered(self._glimpse):
                self._glimpse = asks.add(QueueMessageType.ASK, "counts")
                self._loop.wake()
            return self._glimpsed

    @property
    def facts(self) -> dict[str, Any]:
        """The broker's facts about the queue; waits for them on first use."""
        return safely(self._facts)

    def _facts(self) -> dict[str, Any]:
        with self._hold:
            return self._open().facts

    def _ask(
        self,
        kind: QueueMessageType,
        what: str = "",
        argument: Any = None,
        until: Callable[[], bool] = lambda: False,
    ) -> Any:
        asks = self._machine.asks
        number = asks.add(kind, what, argument)
        try:
            self._wait_until(lambda: asks.answered(number) or until(), None)
        finally:
            answer = asks.take(number)
        return answer

    def _asked(self, what: str, deadline: float | None) -> bool:
        """Ask a question whose answer has no content; returns whether it was answered in time."""
        asks = self._machine.asks
        number = asks.add(QueueMessageType.ASK, what)
        try:
            self._wait_until(lambda: asks.answered(number), deadline)
            return asks.answered(number)
        finally:
            asks.take(number)

    # -- closing ---------------------------------------------------------------------------------

    @safe
    def close(self) -> None:
        """Send what was put and then BYE, in the background; `join` waits for it. Calls that wait raise
        `ValueError`."""
        with self._hold:
            if self._closed:
                return
            self._closed = True
            self._machine.sender.bar()
            self._hold.notify()
            self._machine.leave()
            if self._loop is not None:
                self._loop.wake()

    @safe
    def abandon(self) -> None:
        """Leave at once, without goodbye."""
        with self._hold:
            self._closed = True
            self._machine.abandon()
            if self._loop is not None:
                self._loop.wake()

    @property
    def gone(self) -> bool:
        """Whether its thread has ended, or never ran."""
        return self._loop is None or not self._loop.running

    @safe
    def join(self, timeout: float | None = None) -> None:
        """After `close`: wait until the broker has answered, or is away and nothing remains to be sent.

        Raises `QueueLost` when the host does not return to take what was put.
        """
        if self._loop is None:
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            with self._hold:
                self._wait_until(self._may_go, deadline, leaving=True)
                if not self._may_go():
                    raise QueueLost(f"the queue at {self._address} did not take all items in {timeout:g} s")
        finally:
            self.abandon()
            self._loop.join(5.0)

    def _may_go(self) -> bool:
        machine = self._machine
        if machine.refused or machine.barred:
            return machine.sender.handed_over
        return machine.may_go(time.monotonic())

    # -- inside (with the lock held) -------------------------------------------------------------

    def _open(self, *, produces: bool = False, consumes: bool = False) -> ClientProtocol:
        """Connect on first use, wait for WELCOME, and add roles."""
        machine = self._machine
        self._begin()
        if not machine.facts:
            self._wait_until(lambda: bool(machine.facts), None)
        machine.roles.produces |= produces
        machine.roles.consumes |= consumes
        return machine

    def _begin(self) -> None:
        if self._closed:
            raise ValueError("the queue is closed")
        self._check_admitted()
        machine = self._machine
        if machine.state is ClientState.NEW:
            make_room(CALLER, "a client of a queue")
            machine.connect(time.monotonic())
            self._loop = ClientLoop(machine, self._address, self._access, self._hold, self._on_change)

    @property
    def _session(self) -> BrokerSession:
        assert self._machine.session is not None
        return self._machine.session

    def _need_loop(self) -> ClientLoop:
        assert self._loop is not None
        return self._loop

    def _wait_until(self, done: Callable[[], Any], deadline: float | None, *, leaving: bool = False) -> None:
        """Wait until `done`, the deadline, or `close`, or until the host has been away for too long. (A put
        that waits for room would otherwise keep `close` from finishing.)"""
        loop, seated, called = self._need_loop(), False, False
        if loop.turning:
            raise RuntimeError(BUSY)
        deferred_call = deferred_call_here()
        if deferred_call is not None:
            deferred_call.stir = loop.stir
        self.waiting += 1
        try:
            while not done():
                if deferred_call is not None and deferred_call.abandoned:
                    raise Abandoned
                patience = self._patience(deadline, leaving)
                if patience <= 0:
                    loop.wake()
                    return
                seated = seated or loop.take_seat()
                if seated:
                    loop.sit(patience)
                else:
                    if not called:
                        loop.wake()
                        called = True
                    self._hold.wait(patience)
        finally:
            self.waiting -= 1
            if seated:
                loop.leave_seat()

    def _patience(self, deadline: float | None, leaving: bool) -> float:
        """Seconds to wait at most; raises if the wait must end for another reason than the deadline."""
        machine, now = self._machine, time.monotonic()
        self._check_host(now)
        if machine.state is ClientState.CLOSED or (self._closed and not leaving):
            raise SystemExit if left_behind() else ValueError("the queue is closed")
        until = (now if machine.state is ClientState.OPEN else machine.greeting_since) + self._wait
        return (until if deadline is None else min(until, deadline)) - now

    def _check_admitted(self) -> None:
        machine = self._machine
        if machine.refused:
            raise QueueLost(f"the queue at {self._address} refused this client: {machine.refused}")
        if machine.barred:
            raise NotAdmitted(f"cannot use the queue at {self._address}: {machine.barred}")

    def _check_host(self, now: float) -> None:
        self._check_admitted()
        machine = self._machine
        if machine.state is ClientState.GREETING and now >= machine.greeting_since + self._wait:
            raise QueueLost(f"no host has answered at {self._address} for {self._wait:g} s")


QUIET = 0.00005
"""Seconds without a turn after which the putting thread sends what it puts."""
CATCH_UP = 0.2
"""Seconds that a put waits for consumers that take nothing, if the ring is crowded."""
GATHER = 0.001
"""Seconds that items may wait for more, while puts follow one another."""


class ProducerCalls(ClientConnection):
    """Puts, for any number of threads."""

    _slept = 0
    """The value of `ClientLoop.sleeps` when items were last sent at once."""

    @safe
    def put(self, items: list[Any], *, block: bool, timeout: float | None, to: str | None = None) -> int:
        """Put `items` in order and return the number of the last. Raises `Full` with the number put."""
        deadline = None if timeout is None else time.monotonic() + timeout
        encoded = self._encode(items)
        with self._hold:
            entry = self._submit(encoded, to, waits=block)
            if entry.items:
                self._wait_for_room(entry, block, deadline)
            if entry.admitted < len(items):
                if self._session.shut:
                    raise ShutDown
                raise Full(entry.admitted)
        self._need_loop().help()
        if block and timeout is None and self._machine.sender.crowded:
            self._let_consumers_catch_up()
        return entry.last

    def _wait_for_room(self, entry: PutRequest, block: bool, deadline: float | None) -> None:
        try:
            if block:
                self._wait_until(lambda: not entry.items or self._session.shut, deadline)
            else:
                while entry.items and not self._session.shut:  # a share at a time, until there is no room
                    if not self._ask(QueueMessageType.NEED, until=lambda: not entry.items):
                        break
        finally:
            if entry.items:
                self._machine.sender.withdraw(entry)
                self._need_loop().wake()  # later items may fit now
                self._hold.notify()

    def schedule_flush(self, lying: int, *, patient: bool = True) -> None:
        """See that the items in the put buffer are sent: `lying` of them, the latest just added. `patient`:
        the caller may wait until its consumers have caught up.

        They are sent at once if there was no turn lately, or if a caller has slept since, because another may
        then wait for them; otherwise when there are many, or after `GATHER` seconds.
        """
        soon(partial(self._schedule_flush, lying, patient))

    def _schedule_flush(self, lying: int, patient: bool) -> None:
        loop = self._need_loop()
        now = time.monotonic()
        if lying >= MANY or now - loop.turned > QUIET or loop.sleeps != self._slept:
            self._slept = loop.sleeps
            loop.help()
            if patient and self._machine.sender.crowded:
                self._let_consumers_catch_up()
        else:
            with self._hold:
                loop.wake_within(GATHER, now)

    def _let_consumers_catch_up(self) -> None:
        """Wait while the ring is crowded and consumers take items: what does not fit into the ring costs them
        more. All that was put is on its way."""
        sender = self._machine.sender
        with suppress(QueueLost, NotAdmitted, ValueError), self._hold:  # the next call raises these
            while sender.backlog > EASED and not (sender.overtaken or self._need_loop().turning):
                before = sender.settled, sender.backlog
                self._wait_until(lambda: sender.backlog <= EASED, time.monotonic() + CATCH_UP)
                sender.overtaken = (sender.settled, sender.backlog) == before

    @property
    def put_buffer(self) -> PutBuffer:
        """Takes small items without the lock; call `schedule_flush` afterwards."""
        return self._machine.sender.put_buffer

    @safe
    def post(self, item: Any, to: str | None = None) -> PutRequest:
        """Queue one item and return at once; `PutRequest.last` is its number once it is admitted."""
        encoded = self._encode([item])
        with self._hold:
            entry = self._submit(encoded, to)
            self._need_loop().wake()
            return entry

    @safe
    def attend(self) -> None:
        """Count as a producer from now on, whether anything is put or not. Raises `QueueLost`."""
        with self._hold:
            self._open(produces=True)
            self._need_loop().wake()

    @safe
    def tags(self) -> frozenset[str]:
        """The tags by which consumers can be addressed now, in addition to their own names."""
        with self._hold:
            return self._session.tags if self._machine.session else frozenset()

    @safe
    def flush(self, timeout: float | None) -> None:
        """Wait until the broker has everything that was put before, and all acks.

        Raises `TimeoutError` after `timeout` seconds, and `QueueLost`.

        A question arrives after everything sent before it, so its answer confirms all of that. A host that
        was restarted meanwhile is sent again what it lacks, and asked again.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._hold:
            sender = self._open().sender
            upto, answered = sender.number(), False
            while sender.unstored(upto) or not answered:
                self._wait_until(lambda: not sender.unsent(upto), deadline)
                answered = not sender.unsent(upto) and self._asked("flush", deadline)
                if not answered and deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError(
                        f"the host at {self._address} may lack {sender.unstored(upto)} of the items put here:"
                        f" it has not confirmed all within {timeout:g} s; what it lacks is still sent"
                    )

    @safe
    def join_items(self) -> None:
        """Wait until every item of the queue is done. Raises `QueueLost`.

        A restarted host has no record of items until their producers have sent them again. So this asks only
        after everything put here is done, and asks again if another host has taken over by then.
        """
        with self._hold:
            machine, epoch = self._open(), None
            while epoch != machine.facts["epoch"]:
                epoch = machine.facts["epoch"]
                self._wait_until(lambda: not machine.sender.unsettled, None)
                self._ask(QueueMessageType.ASK, "join")

    def _submit(self, encoded: deque[Encoded | Batch], to: str | None, *, waits: bool = True) -> PutRequest:
        """Put items of a call that does not wait before those of calls that wait: they may be smaller and
        fit."""
        machine = self._open(produces=True)
        if self._session.shut:
            raise ShutDown
        machine.sender.barred = self._closed
        machine.sender.put_buffer.trusted = bool(machine.facts["trusted"])
        entry = PutRequest(encoded, to)
        machine.sender.put(entry, first=not waits)
        return entry

    def _encode(self, items: list[Any]) -> deque[Encoded | Batch]:
        """Serialize `items`, without the lock: pickling runs the program's code, which may use the queue."""
        with self._hold:
            machine = self._open(produces=True)
            if self._session.shut:
                raise ShutDown
            trusted, most = bool(machine.facts["trusted"]), machine.facts["maxbytes"]
        encoded: deque[Encoded | Batch]
        if len(items) > 1:
            runs = item_codec.encode_many(items, trusted=trusted, most=BATCH_ITEMS, size=BATCH_BYTES // 2)
            encoded = deque(Batch(*run) for run in runs)
        else:
            encoded = deque(item_codec.encode_parts(item, trusted=trusted) for item in items)
        long = [some for some in map(several, encoded) if len(some.body) > most > 0]
        if (largest := max(map(_largest, long), default=0)) > most:
            raise ValueError(f"an item of {largest} bytes is larger than the whole queue: maxbytes is {most}")
        return encoded

    @safe
    def outcomes(self) -> list[Settled]:
        """The outcomes other than "done" since the last call (dead, undeliverable, answered).

        Raises `QueueLost` when there are none and the host has been away for too long.
        """
        with self._hold:
            outcomes = list(self._machine.sender.outcomes)
            self._machine.sender.outcomes.clear()
            if not outcomes:
                self._check_host(time.monotonic())
            return outcomes


def _largest(some: Batch) -> int:
    """Bytes of the largest of these items."""
    return len(some.body) if some.count == 1 else max(map(len, item_codec.split(joined(some.body))))


Runs = list[tuple[int, int, int]]
"""Items that the program holds: (session, first, last) each."""
DELIVERY = 0
"""The holder of items taken by `receive`: no thread's next `get` settles them."""


def run_of(one: DeliveredItem) -> tuple[int, int, int]:
    """A run of one item."""
    return one.session, one.position, one.position


class QueueClient(ProducerCalls):
    """Puts and takes. The caller names items by their position in a session (`DeliveredItem`)."""

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
    ) -> list[DeliveredItem]:
        """At least one item and up to `most`, for `holder` (a thread, or any other number).

        Raises `Empty`, `ShutDown` after a shutdown, and what reading the item raises. With `to_the_end`
        also at the counted end: `ShutDown`, or `ProducerLost` if a producer was lost.

        With `hand_out` this thread may take the next items without the lock (see `ItemReceiver.hand_out`),
        if it also took the last one. Not in a deferred call, which may still give items back afterwards.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        taken: list[DeliveredItem] = []
        try:
            with self._hold:
                machine = self._ready_to_take(most, block, deadline, to_the_end)
                self._take_buffered(machine, most, holder, taken)
                if not taken:
                    self._explain_nothing(machine, to_the_end)
                tell = self._tell_of_takes(machine)
                if hand_out and deferred_call_here() is None:
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
        """As `take`, but returns the plain items, and the runs for `let_go` if they are not wanted."""
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
        # the next one may be unreadable, and raise
        (one,) = self.take(1, holder, block=block, timeout=left(deadline), to_the_end=to_the_end)
        return [one.item], [run_of(one)]

    @safe
    def take_batch(self, most: int, least: int, holder: int, *, timeout: float | None) -> list[DeliveredItem]:
        """As `take` to the end, but once there is an item, waits for `least` of them.

        Returns fewer after `timeout` seconds, at the end, or before an item that cannot be read.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        taken = self.take(most, holder, block=waits(True, timeout), timeout=timeout, to_the_end=True)
        try:
            with suppress(Empty, ShutDown, ProducerLost):  # at the end, the next call raises
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

    def _ready_to_take(
        self, most: int, block: bool, deadline: float | None, to_the_end: bool
    ) -> ClientProtocol:
        machine = self._open(consumes=True)
        if self._session.shut_immediately:
            raise ShutDown
        if not machine.receiver.at_hand():
            self._await_items(machine, most, block, deadline, to_the_end)
        return machine

    @safe
    def let_go(self, runs: Runs) -> None:
        """Give back runs of taken items (session, first, last) that never reached the caller."""
        with self._hold:
            for session, first, last in runs:
                if session == self._machine.sessions:
                    for position in range(first, last + 1):
                        self._machine.receiver.let_go(position)

    @safe
    def let_go_taken(self, chunk: DeliveredChunk, lying: int) -> None:
        """Give back the item that an interrupted thread took from `chunk` when it had `lying` items."""
        with self._hold:
            if chunk.session == self._machine.sessions:
                receiver = self._machine.receiver
                receiver.let_go(receiver.taken_from(chunk, lying))

    def _await_items(
        self, machine: ClientProtocol, most: int, block: bool, deadline: float | None, to_the_end: bool
    ) -> None:
        since = time.monotonic()
        machine.receiver.waiters += most
        try:
            if block:
                self._wait_until(
                    lambda: machine.receiver.at_hand() or self._session.ended(counted=to_the_end), deadline
                )
            else:
                self._ask(QueueMessageType.REPORT, until=machine.receiver.at_hand)
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
                self._need_loop().wake()
                raise
            if one is None:
                break
            taken.append(one)

    def _explain_nothing(self, machine: ClientProtocol, to_the_end: bool) -> None:
        if not self._session.ended(counted=to_the_end):
            raise Empty
        if to_the_end and self._session.lost:
            raise ProducerLost(self._session.lost)
        raise ShutDown

    def _tell_of_takes(self, machine: ClientProtocol) -> bool:
        """Whether to report takes to the broker now: then call `help` of the loop.

        Takes may be collected for a moment, but not until the buffer is empty, nor if they free a good part
        of the room that puts may wait for.
        """
        if self._session.takes_press():
            return True
        self._need_loop().wake_within(LINGER, time.monotonic())
        return False

    def _hand_out(self, machine: ClientProtocol, holder: int, settles: bool) -> None:
        thread, before = get_ident(), self._taker
        receiver, self._taker = machine.receiver, thread
        if thread == before and not receiver.waiters:
            most = self._step(machine)
            receiver.hand_out(holder, thread, most, settles=settles, whole=holder == DELIVERY)

    def _step(self, machine: ClientProtocol) -> int:
        """The number of takes until the next check whether to report them."""
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
        """The items that can be taken, and the acks that can be given, without the lock."""
        return self._machine.hand

    def tell_of_acks(self) -> None:
        """Have the acks in `hand` reported to the broker. Never waits, and never raises."""
        soon(self._count_acks)

    def _count_acks(self) -> None:
        with self._hold:
            if self._machine.session is not None:
                self._machine.hand.called = True
                self._machine.receiver.count()
                self._tell_of_done()

    # -- settling --------------------------------------------------------------------------------

    @safe
    def session_name(self) -> str:
        """The name by which this client's consumer can be addressed, in this session."""
        with self._hold:
            return self._open(consumes=True).session_name

    @safe
    def done(self, session: int, position: int, answer: bytes | None = None) -> None:
        """Mark an item as done. One of an earlier session is ignored: it goes to another consumer."""
        with self._hold:
            if session == self._machine.sessions:
                self._machine.receiver.done(position, answer)
                self._tell_of_done()

    @safe
    def failed(self, session: int, position: int) -> None:
        """Give up an item, for another attempt."""
        with self._hold:
            if session == self._machine.sessions:
                self._session.fail(position)
                self._need_loop().wake()

    @safe
    def done_by(self, holder: int | None = None) -> None:
        """Mark everything that `holder` took as done (None: everything that was taken, except deliveries)."""
        with self._hold:
            if self._machine.session is not None:
                self._session.receiver.done_by(holder)
            self._machine.superseded = [
                h for h in self._machine.superseded if h != holder and holder is not None
            ]

    @safe
    def done_oldest(self, holder: int) -> bool:
        """Mark as done the oldest item of `holder`, or else of any thread; False if there is none."""
        with self._hold:
            if holder in self._machine.superseded:  # its item goes to another consumer
                self._machine.superseded.remove(holder)
                return True
            if self._machine.session is None:
                return False
            found = self._session.receiver.done_oldest(holder)
            self._tell_of_done()
            return found

    def _tell_of_done(self) -> None:
        """Have the acks reported: at once if others may wait for them, else in a moment, with more."""
        if self._loop is not None:
            if self._session.receiver.rests:
                self._loop.wake()
            else:
                self._loop.wake_within(LINGER, time.monotonic())


class FarDelivery(Delivery):
    """A delivery of a far queue."""

    def __init__(self, end: QueueClient, taken: DeliveredItem) -> None:
        _, self.item, self.attempt, _ = self._taken = taken
        self._end = end

    def let_go(self) -> None:
        """Give back the item: it never reached the caller."""
        one = self._taken
        self._end.let_go([(one.session, one.position, one.position)])

    def ack(self) -> None:
        hand = self._end.hand
        hand.acks.append(self._taken)
        if not hand.called or not hand.receiving[1]:  # no report is due soon, or this was the last item here
            self._end.tell_of_acks()

    def nack(self) -> None:
        self._end.failed(self._taken.session, self._taken.position)
