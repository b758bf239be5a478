"""A coordinator alone: one thread, which owns its gate, and its crew if it has workers of its own."""

from __future__ import annotations

import logging
import select
import threading
import time
from collections.abc import Callable

from nearfar.coordinator.accounts import LEAST
from nearfar.coordinator.endings import tell
from nearfar.coordinator.gate import Gate
from nearfar.coordinator.local import Hire, LocalWorkers
from nearfar.coordinator.machine import Coordinator
from nearfar.coordinator.parts import Row
from nearfar.net.access import OWN, Access
from nearfar.net.addresses import Address
from nearfar.net.deputy import ours
from nearfar.net.ending import service_failed
from nearfar.net.shortage import PAUSE, Mishaps
from nearfar.net.sockets import FAILURES
from nearfar.net.waker import Waker

log = logging.getLogger(__name__)

MAX_BYTES = 1 << 30
"""Bytes of arguments and results that a coordinator keeps unless it is told otherwise."""


class LoneCoordinator:
    """Coordinates at `address` in a thread of this process, until `stop`.

    `access` says who gets in. `hire` makes a crew of local workers, if there are to be any. `lease` is in
    seconds: how long an agent or a client may be silent. Raises `AddressError` and `KeysError` as `Gate`
    does, and ValueError for a `max_bytes` below `accounts.LEAST`.

    `max_bytes` bounds the arguments and results that it keeps, and that agents keep, in all: half of it each
    way, of which a client may have as much as it leaves free (0: no bound). At the bound nothing is lost:
    arguments wait with their client; a client that does not take its results gets no more workers until it
    does, and what these had begun waits at its agents; other clients are served. A task whose arguments, or
    whose result, have more than a quarter of `max_bytes` fails, and is told why.

    It remembers nothing over a restart, and needs not: agents tell the next one what runs and what is
    answered, and clients submit again what they have no outcome for. No call runs twice, unless its worker
    was lost too; those of `hire` are, with their coordinator.
    """

    def __init__(
        self,
        address: Address,
        hire: Hire | None = None,
        *,
        access: Access = OWN,
        lease: float = 10.0,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        if 0 < max_bytes < LEAST:
            raise ValueError(f"max_bytes must be 0, for no bound, or at least {LEAST}, not {max_bytes}")
        self._coordinator = Coordinator()
        self._gate = Gate(address, self._coordinator, access, lease=lease, clients=True, max_bytes=max_bytes)
        self.address = self._gate.address
        """Where it is found, with the port that it got."""
        self._local = None if hire is None else LocalWorkers(self._coordinator, hire, log.error)
        self._lock = threading.Lock()
        self._waker = Waker()
        self._woken = self._waker.fileno()
        self._poll = select.poll()
        for descriptor in (self._woken, self._gate.fileno()):
            self._poll.register(descriptor, select.POLLIN)
        if self._local is not None:
            self._local.crew.start()
            self._poll.register(self._local.crew.fileno(), select.POLLIN)
        self.failure: BaseException | None = None
        """What has ended the loop before `stop`, if something has."""
        self._mishaps = Mishaps(log, f"the coordinator at {self.address}")
        self._ends: float | None = None
        """Once it is to stop: when it does at the latest."""
        self._thread = threading.Thread(
            target=ours(self._run), name=f"nearfar-coordinator-{self.address}", daemon=True
        )
        self._thread.start()

    def counts(self) -> dict[str, int]:
        """In figures: agents, clients, workers, running, waiting, held, done, lost, stale, malformed."""
        with self._lock:
            return self._gate.counts()

    def status(self) -> list[Row]:
        """A row of each worker: name, host, pid, tasks answered, what it runs (or ""), seconds so far."""
        with self._lock:
            return self._gate.peers.status(time.monotonic())

    def stop(self, grace: float = 5.0) -> None:
        """Stop, once the local workers have finished what they run and its clients have it, or after `grace`
        seconds; what runs elsewhere goes on, for another coordinator. Called again, it stops at once.
        """
        with self._lock:
            self._ends = time.monotonic() + (0.0 if self._ends is not None else grace)
        self._waker.wake()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end that `stop` brings; tells whether it came within `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._ends is None or not self._may_end():
                self._turn()
        except BaseException as error:
            log.error("the loop of the coordinator at %s failed", self.address, exc_info=error)
            self.failure = error
        finally:
            with self._lock:
                self._close()
        if self.failure is not None:
            service_failed(
                f"the coordinator at {self.address} failed, and serves nobody any more: {self.failure!r}"
            )

    def _turn(self) -> None:
        """One turn of the loop. What fails in one of its parts is no reason to leave out the others, or to
        end: what was not read lies here still, and what was not sent is sent again."""
        try:
            self._wait()
        except FAILURES as error:
            self._mishaps.note(error)
            time.sleep(PAUSE)
        with self._lock:
            now = time.monotonic()
            try:
                self._gate.turn(now)
            except FAILURES as error:
                self._mishaps.note(error)
            if self._local is not None:
                self._try(self._local.crew.turn)
                self._try(self._local.crew.tick, now)
                if self._ends is not None:
                    self._local.drain()
            self._coordinator.tick(now)
            self._coordinator.flush(now)
            tell(self._coordinator.outcomes)
            self._gate.say(now)

    def _try(self, do: Callable[..., object], *given: object) -> bool:
        """Whether it could be done."""
        try:
            do(*given)
        except FAILURES as error:
            self._mishaps.note(error)
            return False
        return True

    def _wait(self) -> None:
        """Sleep until there is something to do."""
        if self._gate.pending():
            return
        deadline = self._gate.deadline()
        if self._local is not None and (due := self._local.crew.deadline()) is not None:
            deadline = min(deadline, due)
        if (due := self._coordinator.deadline()) is not None:
            deadline = min(deadline, due)
        if self._ends is not None:
            deadline = min(deadline, self._ends)
        timeout = max(0, int((deadline - time.monotonic()) * 1000) + 1)
        for descriptor, _ in self._poll.poll(timeout):
            if descriptor == self._woken:
                self._waker.clear()

    def _may_end(self) -> bool:
        if self._ends is None:
            return False
        busy = self._local is not None and self._local.busy()
        return time.monotonic() >= self._ends or not (busy or not self._gate.peers.settled())

    def _close(self) -> None:
        if self._local is not None:
            self._try(self._local.crew.close)
        self._try(self._gate.close)
        self._try(self._waker.close)
