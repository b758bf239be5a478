"""The far queue: hosted by one process at an address, used from any other."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from multiprocessing import util
from threading import get_ident
from typing import TYPE_CHECKING, Any, Self

from nearfar.errors import Full, QueueLost, ShutDown
from nearfar.net import process, validation
from nearfar.net.addresses import Address, parse_ports
from nearfar.net.auth import Access, admit, approach
from nearfar.net.interrupts import DeferredCall, safe, whose
from nearfar.net.reliable import LEASE
from nearfar.queues.base import (
    BatchDelivery,
    Promises,
    RemoteJoinableQueue,
    RemoteQueue,
    Transport,
    waits,
)
from nearfar.queues.broker.ledger import Ledger
from nearfar.queues.broker.records import DeadLetter
from nearfar.queues.broker.server import Broker
from nearfar.queues.client.client import QueueClient
from nearfar.queues.client.deliveries import NOTHING, DeliveredChunk, DeliveredItem, Hand
from nearfar.queues.client.put_buffer import MANY, PutBuffer
from nearfar.queues.client.takes import DELIVERY, FarDelivery, Runs, run_of
from nearfar.serialization import item_codec

if TYPE_CHECKING:
    from nearfar.dashboard.board import Board
    from nearfar.dashboard.model import QueueStatus
    from nearfar.dashboard.server import Dashboard

_leaving: dict[QueueClient, util.Finalize] = {}
"""Clients of garbage-collected queues that have not said goodbye yet, and what waits for each at the exit of
the process: registered for each, because a forked child forgets what was registered before."""


def finish(end: QueueClient, owner: weakref.ref[Any], settles: bool) -> None:
    """Close the client at the normal exit of the process, or when its queue is garbage-collected. Items taken
    by `get` are done then, if it `settles` any.

    What was put must arrive. A queue may be collected anywhere, so this does not wait there: the client says
    goodbye in the background, and only the exit of the process waits for that.
    """
    for each in list(_leaving):  # a garbage collection meanwhile may change it
        if each.gone and (finalizer := _leaving.pop(each, None)) is not None:
            finalizer.cancel()
    end.between_turns(partial(_leave, end, settles))
    if not end.waited_for:
        return
    if owner() is not None or util.is_exiting():
        _join(end)
    elif not end.gone:
        _leaving[end] = util.Finalize(None, _join, args=(end,), exitpriority=10)


def _leave(end: QueueClient, settles: bool) -> None:
    if settles:
        end.takes.done_by()
    if end.waited_for:
        end.close()
    else:
        end.abandon()


def _join(end: QueueClient) -> None:
    try:
        end.join()
    except QueueLost as error:
        log.error("items may be lost: %s", error)


log = logging.getLogger(__name__)

MOST = (1 << 63) - 1
"""The largest bound, in items and in bytes, that can be sent; a larger one is as good as none."""
MAX_UNSETTLED = 1 << 30
"""The default of `max_unsettled`, in bytes."""


class FarQueue(RemoteQueue):
    """A queue over ZeroMQ. Creating one hosts it here; `connect` makes a client of it in any other process.

    ``tcp://host:*`` takes any free port; `address` has the result.

    Without `keys`, only processes of this user on this machine are admitted. With a folder of `keys` (or
    ``NEARFAR_KEYS`` in the environment), every process with a key that the folder lists is admitted, from
    anywhere. `insecure` admits every process that can reach the address, and refuses pickle.

    * `maxsize`, `maxbytes`: bounds on what was put and not taken, in items, and in bytes as serialized (0:
      none). `put` raises ValueError for an item larger than `maxbytes`. Items that were given back may exceed
      the bound until as many were taken.
    * `max_unsettled`: unsettled bytes that all consumers together may have (0: no bound). A consumer that has
      as many as it leaves to the others (half of all, if it is alone) gets nothing more until it settles
      some: its `get` waits, or raises `Empty`. The others continue.
    * `lease`: seconds of silence after which a client counts as dead, and what it held goes to others. The
      death of a process on the host's own machine is detected at once.
    * `max_attempts`: consumers with which an item may be lost before it goes to the `dead_letters`.
    * `producers`: how many must have come and left before iteration ends by itself.
    * `standing`: after that end, once all clients have left, count again from 0 for the next ones; otherwise
      the iteration of a later client ends at once.
    * `lanes`: the ports that the additional sockets may use, such as ``"5600-5700"``.
    * `wait`: seconds that a call waits for a host that does not answer before it raises `QueueLost`.
    * `dashboard`: serve a page, JSON and metrics at ``HOST:PORT`` while this process hosts the queue; True:
      ``127.0.0.1:8787``, or another port if that is in use (`dashboard_url`). `dashboard_token`: a file with
      the token that a browser must show; needed beyond loopback.

    An item is done when the thread that got it requests its next one, or when the queue is closed there, at
    the latest by the normal exit of the process. Until then it is redelivered if its consumer dies.

    The host's memory holds the items, and a live producer keeps what it put until it is done. Items of
    producers that have left are lost with the host.
    """

    _settles = True  # requesting the next item settles the one before
    _dashboard: Dashboard | None = None

    def __init__(
        self,
        maxsize: int = 0,
        address: str = "tcp://127.0.0.1:*",
        *,
        maxbytes: int = 0,
        max_unsettled: int = MAX_UNSETTLED,
        lease: float = LEASE,
        max_attempts: int = 5,
        producers: int = 1,
        standing: bool = False,
        lanes: str | None = None,
        keys: str | os.PathLike[str] | None = None,
        insecure: bool = False,
        wait: float = 60.0,
        dashboard: bool | str = False,
        dashboard_token: str | os.PathLike[str] | None = None,
    ) -> None:
        """Raises `AddressError`, `KeysError`, and `ValueError` for a lease out of range."""
        if not validation.lease(lease):
            least, most = validation.SHORTEST_LEASE, validation.LONGEST_LEASE
            raise ValueError(f"a lease is {least:g} to {most:,g} seconds, not {lease!r}")
        place = Address.parse(address)
        access = admit(place, keys, insecure=insecure)
        approach(place, keys, insecure=insecure)  # because this process is a client, too
        if insecure:
            log.warning("the queue at %s is open to everyone who can reach it", address)
        ledger = Ledger(
            max(0, min(maxsize, MOST)),
            max(0, min(maxbytes, MOST)),
            max_attempts=max_attempts,
            expected=producers,
            standing=standing,
            max_unsettled=max(0, max_unsettled),
        )
        ports = None if lanes is None else parse_ports(lanes)
        host = Broker(place, ledger, access, lease=lease, ports=ports)
        if dashboard is not False:
            try:
                self._dashboard = _show(host, dashboard, dashboard_token)
            except BaseException:
                host.close(0)
                raise
        self._set_up(host.address, access, wait)
        self._host: Broker | None = host
        # after the children, which may still use the queue, were joined
        self._close_host = util.Finalize(self, host.close, exitpriority=-10)

    @classmethod
    def connect(
        cls,
        address: str,
        *,
        keys: str | os.PathLike[str] | None = None,
        insecure: bool = False,
        wait: float = 60.0,
    ) -> Self:
        place = Address.parse_remote(address)
        return cls._reach(place, approach(place, keys, insecure=insecure), wait)

    @classmethod
    def _reach(cls, place: Address, access: Access, wait: float) -> Self:
        made = cls.__new__(cls)
        made._set_up(place, access, wait)
        return made

    def _set_up(self, place: Address, access: Access, wait: float) -> None:
        self._place = place
        self._access = access
        self._wait = wait
        self._host = None
        self._lock = threading.RLock()
        self._end: QueueClient | None = None
        self._put_buffer = PutBuffer()
        self._hand = Hand()
        self._finish: Callable[[], None] | None = None
        self._join_at_exit = True
        self._closed = False
        process.watch(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self)._reach, (self._place, self._access, self._wait)

    @property
    def address(self) -> str:
        return str(self._place)

    # -- the standard interface ------------------------------------------------------------------

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        put_buffer = self._put_buffer
        try:
            lying = put_buffer.append_now(obj)
            if lying:
                if (lying == MANY or not put_buffer.called) and self._end is not None:
                    put_buffer.called = True
                    self._end.puts.schedule_flush(lying)
                return
        except BaseException:
            if self._end is not None:
                self._end.puts.schedule_flush(
                    MANY
                )  # it may be in the buffer, and would not be sent otherwise
            raise
        try:
            self._reached().puts.put([obj], block=waits(block, timeout), timeout=timeout)
        except Full:
            raise Full from None

    def put_many(self, items: Iterable[Any], block: bool = True, timeout: float | None = None) -> None:
        items = list(items)
        if items:
            self._reached().puts.put(items, block=waits(block, timeout), timeout=timeout)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        thread, items, chunk = self._hand.getting
        if items and thread == get_ident():
            lying = len(items)
            try:
                return items.popleft()
            except BaseException as error:
                self._struck(error, chunk, lying)
        deferred_call = DeferredCall(partial(self._take, block, timeout, False), self._take_back)
        try:
            return deferred_call.run().item
        except BaseException as error:
            deferred_call.interrupted(error)
            raise

    def get_many(self, most: int, block: bool = True, timeout: float | None = None) -> list[Any]:
        if most < 1:
            raise ValueError(f"most must be at least 1, not {most}")
        deferred_call = DeferredCall(partial(self._take_items, most, block, timeout), self._take_items_back)
        try:
            return deferred_call.run()[0]
        except BaseException as error:
            deferred_call.interrupted(error)
            raise

    def _take_batch(self, most: int, least: int, timeout: float | None) -> list[Any]:
        deferred_call = DeferredCall(
            partial(self._take_batch_of, most, least, timeout), self._take_items_back
        )
        try:
            return deferred_call.run()[0]
        except BaseException as error:
            deferred_call.interrupted(error)
            raise

    def _receive_batch(self, most: int, least: int, timeout: float | None) -> BatchDelivery:
        deferred_call = DeferredCall(
            partial(self._receive_batch_of, most, least, timeout), self._take_items_back
        )
        try:
            return deferred_call.run()[0]
        except BaseException as error:
            deferred_call.interrupted(error)
            raise

    def receive(self, block: bool = True, timeout: float | None = None) -> FarDelivery:
        thread, items, chunk = self._hand.receiving
        if items and thread == get_ident() and self._end is not None:
            lying = len(items)
            try:
                return FarDelivery(self._end.takes, items.popleft())
            except BaseException as error:
                self._struck(error, chunk, lying)
        deferred_call = DeferredCall(partial(self._receive, block, timeout), FarDelivery.let_go)
        try:
            return deferred_call.run()
        except BaseException as error:
            deferred_call.interrupted(error)
            raise

    def __iter__(self) -> Iterator[Any]:
        """Take items until a shutdown, or until every producer has left and every item is done. Raises
        `ProducerLost` if a producer died instead."""
        while True:
            thread, items, chunk = self._hand.getting
            if items and thread == get_ident():
                lying = len(items)
                try:
                    item = items.popleft()
                except BaseException as error:
                    self._struck(error, chunk, lying)
                else:
                    yield item
                    continue
            deferred_call = DeferredCall(partial(self._take, True, None, True), self._take_back)
            try:
                item = deferred_call.run().item
            except ShutDown:
                return
            except BaseException as error:
                deferred_call.interrupted(error)
                raise
            yield item

    def qsize(self) -> int:
        return int(self._reached().ask("size"))

    def empty(self) -> bool:
        return self.qsize() == 0

    def full(self) -> bool:
        end = self._reached()
        items, bytes_ = int(end.facts["maxsize"]), int(end.facts["maxbytes"])
        if not (items or bytes_):
            return False
        size = self.qsize()  # after this, the host has the reports of all clients
        return 0 < items <= size or 0 < bytes_ <= int(end.ask("counts")["bytes"])

    def shutdown(self, immediate: bool = False) -> None:
        self._reached().ask("shutdown", immediate)

    def close(self) -> None:
        self._closed = True
        end = self._end
        if end is not None:
            self._settle_rest(end)
            if self._host is not None and self._host.failure is not None:
                end.abandon()  # the broker no longer answers
            end.close()

    def join_thread(self) -> None:
        """After `close`: wait until the host has everything this process put, at most `wait` seconds.

        Raises `QueueLost` when the host is away for longer. In the process that hosts the queue this does
        not stop the hosting: `stop_hosting` or the exit of the process does.
        """
        if not self._closed:
            raise ValueError("the queue is not closed")
        self._check_hosting()
        if self._end is not None and self._join_at_exit:
            self._end.join()

    def cancel_join_thread(self) -> None:
        self._join_at_exit = False
        if self._end is not None:
            self._end.waited_for = False

    def flush(self, timeout: float | None = None) -> None:
        if self._closed:
            raise ValueError(f"{type(self).__name__} is closed")
        if self._end is not None:
            self._end.puts.flush(timeout)

    def promises(self) -> Promises:
        return Promises(
            self._place.transport,
            crosses_machines=not self._place.local,
            redelivers=True,
            survives_killed_consumer=True,
            survives_killed_host=True,
            counts_end=True,
            dead_letters=True,
        )

    # -- only for far queues ---------------------------------------------------------------------

    def dead_letters(self) -> list[tuple[Any, int, tuple[str, ...]]]:
        trusted = bool(self._reached().facts["trusted"])
        return [
            (item, letter.attempts, letter.history)
            for letter in self.encoded_dead_letters()
            for item in item_codec.decode(letter.body, letter.count, trusted=trusted)
        ]

    def encoded_dead_letters(self) -> list[DeadLetter]:
        """As `dead_letters`, without reading the items, which may be pickles: each letter is of one or more
        of a producer."""
        return [
            DeadLetter(count, body, producer, attempts, tuple(history))
            for count, body, producer, attempts, history in self._reached().ask("dead letters")
        ]

    def requeue_dead_letters(self) -> int:
        """Put the dead letters that the host keeps into the queue again, each with new attempts; returns how
        many items that were. The bound does not apply to them, and their producers are not told of them."""
        return int(self._reached().ask("requeue"))

    @property
    def dashboard_url(self) -> str | None:
        """Where a browser finds the dashboard; None if there is none."""
        return None if self._dashboard is None else self._dashboard.url

    def show(self, board: Board, close: Callable[[], None] = lambda: None) -> None:
        """In the process that hosts the queue: publish its status on `board` from now on, and call `close` at
        the end of the hosting."""
        if self._host is not None:
            self._host.show(board, close)

    def status(self) -> QueueStatus | None:
        """The status of the queue for a dashboard; None in a process that does not host it."""
        return None if self._host is None else self._host.status()

    def counts(self) -> dict[str, int]:
        return dict(self._reached().ask("counts"))

    def stop_hosting(self) -> None:
        """Stop hosting, once the other clients have left, or after two seconds; drops the items left."""
        if self._host is not None:
            self._host = None
            self._close_host()

    def __repr__(self) -> str:
        if self._host is None:
            return f"<{type(self).__name__} connected to {self.address}>"
        counts = self._host.counts() if self._closed else self.counts()
        bound = f" of {counts['maxsize']}" if counts["maxsize"] else ""
        return f"<{type(self).__name__} {counts['size']}{bound} items, hosted at {self.address}>"

    def __exit__(self, *error: Any) -> None:
        try:
            super().__exit__(*error)
        finally:
            self.stop_hosting()

    # -- inside ----------------------------------------------------------------------------------

    def _reached(self) -> QueueClient:
        if self._closed:
            raise ValueError(f"{type(self).__name__} is closed")
        self._check_hosting()
        return self._end if self._end is not None else self._make_end()

    def _check_hosting(self) -> None:
        if self._host is not None and self._host.failure is not None:
            raise QueueLost(f"the hosting of {self.address} has failed: {self._host.failure!r}")

    @safe
    def _make_end(self) -> QueueClient:
        with self._lock:
            if self._end is None:
                place = self._place.seen_from_here()
                end = QueueClient(place, self._access, wait=self._wait, host=self._host)
                self._put_buffer, self._hand = end.puts.put_buffer, end.takes.hand
                end.waited_for = self._join_at_exit
                owner = weakref.ref(self)
                self._finish = util.Finalize(self, finish, args=(end, owner, self._settles), exitpriority=10)
                self._end = end
            return self._end

    def _take(self, block: bool, timeout: float | None, to_the_end: bool) -> DeliveredItem:
        taken: list[DeliveredItem] = self._reached().takes.take_now(
            1,
            whose(),
            block=waits(block, timeout),
            timeout=timeout,
            to_the_end=to_the_end,
            hand_out=True,
            settles=self._settles,
        )
        return taken[0]

    def _struck(self, error: BaseException, chunk: DeliveredChunk, lying: int) -> None:
        """Handle an exception raised while an item was taken from `chunk`, with `lying` items in it.

        An item that was taken is given back. Raises `error`, unless it only means that the items were
        withdrawn meanwhile.
        """
        self._hand.getting = self._hand.receiving = NOTHING
        if self._end is not None:
            self._end.takes.let_go_taken(chunk, lying)
        if type(error) is not IndexError or chunk.left < 0:
            raise error

    def _take_back(self, taken: DeliveredItem) -> None:
        """Give back an item that never reached the caller."""
        self._reached().takes.let_go([run_of(taken)])

    def _take_items(self, most: int, block: bool, timeout: float | None) -> tuple[list[Any], Runs]:
        wait, settles = waits(block, timeout), self._settles
        return self._reached().takes.take_items(most, whose(), block=wait, timeout=timeout, settles=settles)

    def _take_batch_of(self, most: int, least: int, timeout: float | None) -> tuple[list[Any], Runs]:
        takes, settles = self._reached().takes, self._settles
        if least > 1:
            taken = takes.take_batch(most, least, whose(), timeout=timeout, settles=settles)
            return [one.item for one in taken], [run_of(one) for one in taken]
        wait = waits(True, timeout)
        return takes.take_items(most, whose(), block=wait, timeout=timeout, to_the_end=True, settles=settles)

    def _receive_batch_of(self, most: int, least: int, timeout: float | None) -> tuple[BatchDelivery, Runs]:
        takes = self._reached().takes
        taken = takes.take_batch(most, least, DELIVERY, timeout=timeout)
        return BatchDelivery([FarDelivery(takes, one) for one in taken]), [run_of(one) for one in taken]

    def _take_items_back(self, found: tuple[object, Runs]) -> None:
        self._reached().takes.let_go(found[1])

    def _receive(self, block: bool, timeout: float | None) -> FarDelivery:
        takes = self._reached().takes
        block = waits(block, timeout)
        (one,) = takes.take_now(1, DELIVERY, block=block, timeout=timeout, hand_out=True)
        return FarDelivery(takes, one)

    def _settle_rest(self, end: QueueClient) -> None:
        if self._settles:
            end.takes.done_by()

    def forget_parent(self) -> None:
        """Start anew in the child of a fork, which must not use the parent's threads, sockets and locks."""
        process.keep(self._end, self._host)
        self._set_up(self._place, self._access, self._wait)


def _show(host: Broker, where: bool | str, token: str | os.PathLike[str] | None) -> Dashboard:
    # Only here: few queues have one.
    from nearfar.dashboard.board import Board
    from nearfar.dashboard.server import Dashboard

    board = Board("queue", str(host.address))
    made = Dashboard(board, where, token)
    host.show(board, made.close)
    return made


class FarJoinableQueue(FarQueue, RemoteJoinableQueue):
    """A `FarQueue` whose items are done with `task_done`; a leaving consumer gives back the others."""

    _settles = False

    def task_done(self) -> None:
        if not self._reached().takes.done_oldest(whose()):
            raise ValueError("task_done() called too many times")

    def join(self) -> None:
        self._reached().puts.join_items()


TRANSPORT = Transport(FarQueue, FarJoinableQueue)
