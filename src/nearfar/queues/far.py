"""The far queue: hosted by one process at an address, used from any other, on any machine."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from multiprocessing import util
from threading import get_ident
from typing import Any, Self

from nearfar.errors import Full, QueueLost, ShutDown
from nearfar.net import codec, forks, shapes
from nearfar.net.access import Access, admit, approach
from nearfar.net.addresses import Address, parse_ports
from nearfar.net.deputy import Errand, safe, struck_anywhere, whose
from nearfar.queues.base import BaseJoinableQueue, BaseQueue, BatchDelivery, Promises
from nearfar.queues.deadlines import waits
from nearfar.queues.ends.delivery import DELIVERY, FarDelivery
from nearfar.queues.ends.end import End, Runs, run_of
from nearfar.queues.ends.loans import Taken
from nearfar.queues.ends.tray import MANY, Tray
from nearfar.queues.finish import finish
from nearfar.queues.host.ledger import Ledger
from nearfar.queues.host.loop import Host

log = logging.getLogger(__name__)

MOST = (1 << 63) - 1
"""Items, and bytes: a larger bound is none, and is no number that can be told."""
MAX_UNSETTLED = 1 << 30
"""Bytes that the consumers of a queue may have and not be done with, unless it is told otherwise."""


class FarQueue(BaseQueue):
    """A queue over ZeroMQ. Creating one hosts it here; `connect` gives an end of it anywhere else.

    ``tcp://host:*`` takes any free port, which `address` then tells.

    Without `keys`, only processes of this user on this machine get in; a folder of `keys` (or the
    environment's ``NEARFAR_KEYS``) lets in who has a key that it names, from anywhere. `insecure` lets in
    everyone who can reach the address, and refuses pickle.

    * `maxsize`, `maxbytes`: bounds on what was put and not taken, in items, and in bytes as they travel (0:
      none). `put` raises ValueError for an item larger than `maxbytes`. Items that were given back may stand
      above the bound, until as many were taken.
    * `max_unsettled`: bytes that consumers may have in all and not be done with (0: no bound). One that has
      as many as it leaves to the others (half of all, if it is alone) gets nothing more until it settles
      some: its `get` waits, or raises `Empty`. The others go on.
    * `lease`: seconds of silence after which an end counts as dead, and what it held goes to others. A dead
      process on the host's own machine is seen at once.
    * `max_attempts`: consumers that an item may be lost with before it goes to the `dead_letters`.
    * `producers`: how many must have come and said goodbye before iteration ends by itself.
    * `standing`: after that end, once everybody has left, count anew for those who come next; otherwise a
      latecomer's iteration ends at once.
    * `lanes`: the ports that the sockets beside the address may use, such as ``"5600-5700"``.
    * `wait`: seconds that a call waits for a host that does not answer before it raises `QueueLost`.

    An item is done when the thread that got it asks for its next one, or when the queue is closed there, at
    the latest by the normal end of the process. Until then it is redelivered if its consumer dies.

    The host's memory holds the items, and a live producer keeps what it put until it is done: items of
    producers that have left are lost with the host.
    """

    _settles = True  # who asks for its next item is done with the one before

    def __init__(
        self,
        maxsize: int = 0,
        address: str = "tcp://127.0.0.1:*",
        *,
        maxbytes: int = 0,
        max_unsettled: int = MAX_UNSETTLED,
        lease: float = 10.0,
        max_attempts: int = 5,
        producers: int = 1,
        standing: bool = False,
        lanes: str | None = None,
        keys: str | os.PathLike[str] | None = None,
        insecure: bool = False,
        wait: float = 60.0,
    ) -> None:
        """Raises `AddressError`, `KeysError`, and `ValueError` for a lease that cannot be."""
        if not shapes.lease(lease):
            least, most = shapes.SHORTEST_LEASE, shapes.LONGEST_LEASE
            raise ValueError(f"a lease is {least:g} to {most:,g} seconds, not {lease!r}")
        place = Address.parse(address)
        access = admit(place, keys, insecure=insecure)
        approach(place, keys, insecure=insecure)  # for this process is an end, too
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
        host = Host(place, ledger, access, lease=lease, ports=ports)
        self._set_up(host.address, access, wait)
        self._host: Host | None = host
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
        """As `Front.connect`."""
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
        self._end: End | None = None
        self._tray = Tray()
        self._finish: Callable[[], None] | None = None
        self._join_at_exit = True
        self._closed = False
        forks.watch(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self)._reach, (self._place, self._access, self._wait)

    @property
    def address(self) -> str:
        """Where other processes find the queue."""
        return str(self._place)

    # -- the standard interface ------------------------------------------------------------------

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        tray = self._tray
        try:
            lying = tray.slip(obj)
            if lying:
                if (lying == MANY or not tray.called) and self._end is not None:
                    tray.called = True
                    self._end.nudge(lying)
                return
        except BaseException:
            if self._end is not None:
                self._end.nudge(MANY)  # it may lie there, and nobody would see that it goes
            raise
        try:
            self._reached().put([obj], block=waits(block, timeout), timeout=timeout)
        except Full:
            raise Full from None

    def put_many(self, items: Iterable[Any], block: bool = True, timeout: float | None = None) -> None:
        items = list(items)
        if items:
            self._reached().put(items, block=waits(block, timeout), timeout=timeout)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if (end := self._end) is not None and not self._closed and not struck_anywhere():
            found = end.snatch(get_ident(), settle=self._settles)
            if found is not None:
                return found[0]
        errand = Errand(partial(self._take, block, timeout, False), self._take_back)
        try:
            return errand.run().item
        except BaseException as error:
            errand.interrupted(error)
            raise

    def get_many(self, most: int, block: bool = True, timeout: float | None = None) -> list[Any]:
        if most < 1:
            raise ValueError(f"most must be at least 1, not {most}")
        errand = Errand(partial(self._take_items, most, block, timeout), self._take_items_back)
        try:
            return errand.run()[0]
        except BaseException as error:
            errand.interrupted(error)
            raise

    def _take_batch(self, most: int, least: int, timeout: float | None) -> list[Any]:
        errand = Errand(partial(self._take_batch_of, most, least, timeout), self._take_items_back)
        try:
            return errand.run()[0]
        except BaseException as error:
            errand.interrupted(error)
            raise

    def _receive_batch(self, most: int, least: int, timeout: float | None) -> BatchDelivery:
        errand = Errand(partial(self._receive_batch_of, most, least, timeout), self._take_items_back)
        try:
            return errand.run()[0]
        except BaseException as error:
            errand.interrupted(error)
            raise

    def receive(self, block: bool = True, timeout: float | None = None) -> FarDelivery:
        errand = Errand(partial(self._receive, block, timeout), FarDelivery.let_go)
        try:
            return errand.run()
        except BaseException as error:
            errand.interrupted(error)
            raise

    def __iter__(self) -> Iterator[Any]:
        """Take items to the end: a shutdown, or that every producer has said goodbye and every item is done;
        `ProducerLost` if one died instead."""
        while True:
            errand = Errand(partial(self._take, True, None, True), self._take_back)
            try:
                item = errand.run().item
            except ShutDown:
                return
            except BaseException as error:
                errand.interrupted(error)
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
        size = self.qsize()  # by then the host knows what every end knows
        return 0 < items <= size or 0 < bytes_ <= int(end.ask("counts")["bytes"])

    def shutdown(self, immediate: bool = False) -> None:
        self._reached().ask("shutdown", immediate)

    def close(self) -> None:
        self._closed = True
        end = self._end
        if end is not None:
            self._settle_rest(end)
            if self._host is not None and self._host.failure is not None:
                end.abandon()  # nobody answers
            end.close()

    def join_thread(self) -> None:
        """After `close`: wait until everything this process put is with the host, at most `wait` seconds.

        Raises `QueueLost` when the host is away for longer. In the process that hosts the queue this does
        not stop the hosting: `stop_hosting` or the end of the process does.
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
            self._end.flush(timeout)

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

    # -- what only a hosted queue has ------------------------------------------------------------

    def dead_letters(self) -> list[tuple[Any, int, tuple[str, ...]]]:
        """The latest items put aside after `max_attempts`: (item, attempts, what happened each time).

        The host keeps 10,000 of them, or 64 MiB, and forgets the oldest; `counts` counts them all.
        """
        end = self._reached()
        trusted = bool(end.facts["trusted"])
        return [
            (item, attempts, tuple(history))
            for count, body, _, attempts, history in end.ask("dead letters")
            for item in codec.decode(body, count, trusted=trusted)
        ]

    def counts(self) -> dict[str, int]:
        """The host's ledger in figures, such as stored, settled, waiting, dead, late."""
        return dict(self._reached().ask("counts"))

    def stop_hosting(self) -> None:
        """Stop being the host, once the other ends have left, or after two seconds; drops what is there."""
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

    def _reached(self) -> End:
        if self._closed:
            raise ValueError(f"{type(self).__name__} is closed")
        self._check_hosting()
        return self._end if self._end is not None else self._make_end()

    def _check_hosting(self) -> None:
        if self._host is not None and self._host.failure is not None:
            raise QueueLost(f"the hosting of {self.address} has failed: {self._host.failure!r}")

    @safe
    def _make_end(self) -> End:
        with self._lock:
            if self._end is None:
                end = End(self._place.seen_from_here(), self._access, wait=self._wait)
                self._tray = end.tray
                end.waited_for = self._join_at_exit
                owner = weakref.ref(self)
                self._finish = util.Finalize(self, finish, args=(end, owner), exitpriority=10)
                self._end = end
            return self._end

    def _take(self, block: bool, timeout: float | None, to_the_end: bool) -> Taken:
        end = self._reached()
        self._settle_previous(end)
        block, thread = waits(block, timeout), whose()
        return end.take(1, thread, block=block, timeout=timeout, to_the_end=to_the_end)[0]

    def _take_back(self, taken: Taken) -> None:
        """It never reached who asked for it."""
        self._reached().let_go([run_of(taken)])

    def _take_items(self, most: int, block: bool, timeout: float | None) -> tuple[list[Any], Runs]:
        end = self._reached()
        self._settle_previous(end)
        return end.take_items(most, whose(), block=waits(block, timeout), timeout=timeout)

    def _take_batch_of(self, most: int, least: int, timeout: float | None) -> tuple[list[Any], Runs]:
        end = self._reached()
        self._settle_previous(end)
        if least > 1:
            taken = end.take_batch(most, least, whose(), timeout=timeout)
            return [one.item for one in taken], [run_of(one) for one in taken]
        return end.take_items(most, whose(), block=waits(True, timeout), timeout=timeout, to_the_end=True)

    def _receive_batch_of(self, most: int, least: int, timeout: float | None) -> tuple[BatchDelivery, Runs]:
        end = self._reached()
        taken = end.take_batch(most, least, DELIVERY, timeout=timeout)
        return BatchDelivery([FarDelivery(end, one) for one in taken]), [run_of(one) for one in taken]

    def _take_items_back(self, found: tuple[object, Runs]) -> None:
        self._reached().let_go(found[1])

    def _receive(self, block: bool, timeout: float | None) -> FarDelivery:
        end = self._reached()
        return FarDelivery(end, end.take(1, DELIVERY, block=waits(block, timeout), timeout=timeout)[0])

    def _settle_previous(self, end: End) -> None:
        if self._settles:
            end.done_by(whose())

    def _settle_rest(self, end: End) -> None:
        if self._settles:
            end.done_by()

    def forget_parent(self) -> None:
        """In the child of a fork: threads, sockets and locks of the parent are not ours."""
        forks.keep(self._end, self._host)
        self._set_up(self._place, self._access, self._wait)


class FarJoinableQueue(FarQueue, BaseJoinableQueue):
    """A `FarQueue` whose items are done when `task_done` says so; a leaving consumer gives back the rest."""

    _settles = False

    def task_done(self) -> None:
        if not self._reached().done_oldest(whose()):
            raise ValueError("task_done() called too many times")

    def join(self) -> None:
        self._reached().join_items()
