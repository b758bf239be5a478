"""The fetcher on libcurl's multi interface: one thread, many transfers.

`perform` and a `select` over libcurl's descriptors cost about a fifth less CPU per small file here than
the socket interface, which calls back twice per file, to register and to drop a descriptor.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections import deque
from collections.abc import Callable
from threading import RLock
from typing import TYPE_CHECKING

from nearfar.download.fetch.base import HostLimits, Sink, Trouble
from nearfar.download.fetch.curl_handle import ABORTED, Handle, pycurl
from nearfar.download.fetch.headers import is_known
from nearfar.download.fetch.options import FetchOptions
from nearfar.download.fetch.request import RequestFields
from nearfar.download.fetch.schedule import Schedule
from nearfar.download.fetch.shared_hosts import OwnLimits, SharedHosts
from nearfar.download.fetch.transfer import ANSWERED, Step, Throttle, Transfer, backoff, park
from nearfar.download.model import HostNow, Job, Partial, Reason, Saved
from nearfar.download.redact import redact_url
from nearfar.download.urls import UrlError

if TYPE_CHECKING:
    from random import Random

__all__ = ["CurlFetcher"]

GATHERED = 64
"""Pieces of a body, of 16 KiB at most, that are passed on together, so that a megabyte is written at once."""
LOOK = 0.1
"""Seconds after which fewer pieces are passed on."""
WORTH_TELLING = 5.0
"""Lowest Retry-After, in seconds, that is logged."""

SEND_FAILED = 55
"""libcurl's code; it tries again by itself where receiving failed, but not where sending did."""
STALE = Trouble(Reason.CONNECT, "the connection was closed before it was used again", transient=True)
LEASE_LOST = Trouble(Reason.CONNECT, "its permit was taken back", transient=True)

log = logging.getLogger(__name__)


def make_multi(options: FetchOptions) -> pycurl.CurlMulti:
    """A multi handle, with connections of its own."""
    multi = pycurl.CurlMulti()
    multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_MULTIPLEX)
    multi.setopt(pycurl.M_MAXCONNECTS, 2 * options.connections)
    return multi


class CurlFetcher:
    """A `Fetcher`. Sinks are called inside `poll` only, never inside `add` or `resume`.

    A sink may call `add`, `resume` and `wake` of the fetcher that calls it, and nothing else.
    An exception of a sink ends its transfer without a further call; `poll` raises it.
    `add` does not limit the queue: check `in_flight` before.
    """

    def __init__(
        self,
        options: FetchOptions | None = None,
        *,
        rng: Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options or FetchOptions()
        self._rng = rng
        self._clock = clock
        self._fields = RequestFields(self._options)
        self._multi = make_multi(self._options)
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # A ring after `close` must not be written to a file that has got the number meanwhile.
        self._ringing = RLock()
        self._schedule: Schedule[Transfer] = Schedule(
            self._options.connections, self._options.per_host, self._options.host_rate
        )
        self._shared: SharedHosts | None = None
        if self._options.host_rate:
            self.share(OwnLimits(clock))
        self._throttle = Throttle(self._options.rate, clock())
        self._refused: list[tuple[Sink, Trouble]] = []
        self._dropped: set[int] = set()
        self._idle: list[Handle] = []
        self._active: dict[pycurl.Curl, Handle] = {}
        self._resumed: set[int] = set()
        # A decoded body may grow much, and a rate limit must count the bytes at once.
        self._most = 0 if self._options.decode or self._options.rate else GATHERED
        self._look_due = 0.0
        self._over: deque[tuple[pycurl.Curl, int, str]] = deque()
        self._in_flight = 0

    @property
    def in_flight(self) -> int:
        return self._in_flight

    def add(self, job: Job, sink: Sink, partial: Partial | None = None, saved: Saved | None = None) -> None:
        self._in_flight += 1
        try:
            transfer = Transfer(job, sink, self._options, self._fields, partial, saved)
        except UrlError as error:
            self._refused.append((sink, Trouble(Reason.REJECTED, str(error))))
            return
        if job.checksum is not None and not is_known(job.checksum.algorithm):
            detail = f"unknown checksum algorithm {job.checksum.algorithm}"
            self._refused.append((sink, Trouble(Reason.REJECTED, detail)))
            return
        self._schedule.add(transfer.url.host, transfer)

    def resume(self, sink: Sink) -> None:
        self._resumed.add(id(sink))

    def drop(self, sink: Sink) -> None:
        self._in_flight -= 1
        for handle in self._active.values():
            if handle.transfer is not None and handle.transfer.sink is sink:
                self._break_off(handle)
                return
        refused = [(other, trouble) for other, trouble in self._refused if other is not sink]
        if len(refused) < len(self._refused):
            self._refused = refused
        else:
            # It waits in the schedule; `_start` will discard it.
            self._dropped.add(id(sink))

    def give_back(self) -> list[Sink]:
        waiting = [transfer.sink for transfer in self._schedule.take_back()]
        kept = [sink for sink in waiting if id(sink) not in self._dropped]
        self._dropped.clear()
        self._in_flight -= len(kept)
        return kept

    @property
    def has_capacity(self) -> bool:
        return self._schedule.has_capacity

    def hosts(self) -> list[HostNow]:
        return [HostNow(*each) for each in self._schedule.hosts(self._clock())]

    def _break_off(self, handle: Handle) -> None:
        del self._active[handle.curl]
        self._over = deque(over for over in self._over if over[0] is not handle.curl)
        self._multi.remove_handle(handle.curl)
        self._schedule.release(handle.host)
        handle.close()

    def share(self, limits: HostLimits) -> None:
        self._stop_sharing()
        self._shared = SharedHosts(self._schedule, limits)

    def _stop_sharing(self) -> None:
        """End sharing, and close all connections. No transfer may be active."""
        if self._shared is not None:
            self._shared.end()
            self._shared = None
            self._multi.close()
            self._multi = make_multi(self._options)

    def wake(self) -> None:
        with self._ringing:
            if self._bell >= 0:
                os.eventfd_write(self._bell, 1)

    def poll(self, timeout: float) -> None:
        if self._fail_refused():
            timeout = 0.0
        if self._resumed:
            self._unpause()
        self._settle()
        if self._shared is not None:
            self._keep_to_limits(self._shared)
        self._start(self._clock())
        self._wait(timeout)
        if not self._throttle.wait(self._clock()):
            self._multi.perform()
        self._reap()
        self._look()

    def cancel(self) -> None:
        for handle in self._active.values():
            self._multi.remove_handle(handle.curl)
            self._schedule.release(handle.host)
            handle.close()
        # The state of hosts stays: the next work may go to the same hosts.
        self._schedule.take_back()
        self._active.clear()
        self._over.clear()
        self._refused.clear()
        self._resumed.clear()
        self._dropped.clear()
        self._in_flight = 0
        self._stop_sharing()
        if self._options.host_rate:
            self.share(OwnLimits(self._clock))

    def close(self) -> None:
        self.cancel()
        for handle in self._idle:
            handle.close()
        self._idle.clear()
        self._multi.close()
        with self._ringing:
            bell, self._bell = self._bell, -1
            if bell >= 0:
                os.close(bell)

    def _fail_refused(self) -> bool:
        """Report what `add` refused; True if there was something."""
        refused, self._refused = self._refused, []
        self._in_flight -= len(refused)
        for sink, trouble in refused:
            sink.failed(trouble.failure())
        return bool(refused)

    def _unpause(self) -> None:
        resumed, self._resumed = self._resumed, set()
        for handle in list(self._active.values()):
            if handle.paused and handle.transfer is not None and id(handle.transfer.sink) in resumed:
                if code := handle.unpause():
                    self._over.append((handle.curl, code, ""))
                elif handle.pieces:
                    self._pass_on(handle)

    def _start(self, now: float) -> None:
        while (taken := self._schedule.take(now)) is not None:
            host, transfer = taken
            if id(transfer.sink) in self._dropped:
                self._dropped.discard(id(transfer.sink))
                self._schedule.release(host)
                continue
            handle = self._idle.pop() if self._idle else Handle(self._options, self._throttle)
            if transfer.fresh and self._shared is not None:
                self._shared.close_idle(host, self._active.values(), coming=1)
            try:
                handle.load(transfer, host)
            except Exception as error:
                # libcurl rejects this URL, for example a redirect target: fail that URL only.
                self._idle.append(handle)
                self._schedule.release(host)
                self._in_flight -= 1
                transfer.stumble(error)
                transfer.give_up()
                continue
            self._active[handle.curl] = handle
            self._multi.add_handle(handle.curl)

    def _keep_to_limits(self, shared: SharedHosts) -> None:
        """Exchange claims and grants; break off the transfers whose permits were taken back."""
        for host, count in shared.exchange(self._active.values(), self._clock()):
            at_host = [handle for handle in self._active.values() if handle.host == host]
            for handle in at_host[-count:]:
                transfer = handle.transfer
                assert transfer is not None
                self._break_off(handle)
                transfer.trouble = LEASE_LOST
                transfer.again(counts=False)
                self._schedule.add(transfer.url.host, transfer, first=True)

    def _wait(self, timeout: float) -> None:
        """Sleep until libcurl, the rate limit, the schedule or `wake` requires work."""
        now = self._clock()
        deadline = self._schedule.deadline()
        if deadline is not None:
            timeout = min(timeout, deadline - now)
        if self._shared is not None:
            timeout = min(timeout, self._shared.due() - now)
        readers, writers = list[int](), list[int]()
        pause = self._throttle.wait(now)
        if pause:
            timeout = min(timeout, pause)
        else:
            milliseconds = self._multi.timeout()
            if milliseconds == 0:
                return
            if milliseconds > 0:
                timeout = min(timeout, milliseconds / 1000)
            readers, writers, _ = self._multi.fdset()
        ready, _, _ = select.select([self._bell, *readers], writers, [], max(0.0, timeout))
        if self._bell in ready:
            os.eventfd_read(self._bell)

    def _look(self) -> None:
        """Pass on the received bytes of incomplete bodies: large amounts at once, all from time to time."""
        now, most = self._clock(), self._most
        if now >= self._look_due:
            self._look_due, most = now + LOOK, 0
        for handle in list(self._active.values()):
            if len(handle.pieces) > most and not handle.paused:
                self._pass_on(handle)
        if self._over:
            self._settle()

    def _pass_on(self, handle: Handle) -> None:
        """Pass on the received bytes of one body; end the transfer if a sink or a limit does so."""
        if not handle.look():
            self._over.append((handle.curl, ABORTED, ""))
        elif handle.paused:
            handle.pause()

    def _reap(self) -> None:
        left = 1
        while left:
            left, done, failed = self._multi.info_read()
            for curl in done:
                self._over.append((curl, 0, ""))
            self._over.extend(failed)
        self._settle()

    def _settle(self) -> None:
        # A sink may raise: the other finished transfers stay for the next poll.
        while self._over:
            self._conclude(*self._over.popleft())

    def _conclude(self, curl: pycurl.Curl, code: int, message: str) -> None:
        handle = self._active.pop(curl)
        transfer, host = handle.transfer, handle.host
        assert transfer is not None
        step = Step.ENDED
        stale = code == SEND_FAILED and handle.stale()
        try:
            if stale:
                transfer.trouble, step = STALE, Step.RETRY
            elif code or not handle.plain():
                step = transfer.finish(handle.conclude(code, message))
        finally:
            if self._shared is not None:
                self._shared.ended(handle)
            self._multi.remove_handle(curl)
            self._idle.append(handle)
            trouble = transfer.trouble
            if trouble is not None and trouble.busy and not trouble.paced:
                self._schedule.slow_down(host, self._clock())
            self._schedule.release(
                host, answered=trouble is None or (trouble.reason in ANSWERED and not trouble.busy)
            )
            if step is Step.ENDED:
                self._in_flight -= 1
        if stale:
            transfer.again(counts=False)
            self._schedule.add(transfer.url.host, transfer, first=True)
        elif step is not Step.ENDED or transfer.trouble is not None:
            self._go_on(transfer, host, step)

    def _go_on(self, transfer: Transfer, host: str, step: Step) -> None:
        """Schedule what follows a request to `host`."""
        now, trouble = self._clock(), transfer.trouble
        if step is Step.WAIT:
            self._wait_for(host, transfer, now)
            return
        if trouble is not None and trouble.retry_after:
            self._schedule.park(host, now + park(trouble, self._options), now)
        if step is Step.FOLLOW:
            self._schedule.add(transfer.url.host, transfer, first=True)
        elif step is Step.RETRY:
            delay = backoff(max(1, transfer.tried), self._options, self._dice())
            _log_retry(transfer, delay)
            transfer.again()
            self._schedule.add_later(transfer.url.host, transfer, now + delay)

    def _dice(self) -> Random:
        if self._rng is None:
            from random import Random  # most runs need none

            self._rng = Random()
        return self._rng

    def _wait_for(self, host: str, transfer: Transfer, now: float) -> None:
        """`host` deferred a request: ask again when it allows, behind the others, or give up."""
        assert transfer.trouble is not None
        # A host that names a very short time is not polled in a tight loop.
        seconds = max(
            park(transfer.trouble, self._options), backoff(transfer.put_off, self._options, self._dice())
        )
        silent = self._schedule.put_off(host, now, seconds)
        if silent == seconds >= WORTH_TELLING:
            log.info(
                "%s asks for patience (%s): waiting %.0f s",
                host,
                transfer.trouble.detail,
                seconds,
                extra={"event": "waiting", "fields": {"host": host, "seconds": round(seconds, 1)}},
            )
        transfer.waited += seconds
        if max(silent, transfer.waited) <= self._options.wait_for_host:
            transfer.again(counts=False)
            self._schedule.add(transfer.url.host, transfer)
            return
        self._in_flight -= 1
        transfer.give_up(
            f", and asks for more patience than {self._options.wait_for_host:g} s (--wait-for-host)"
        )


def _log_retry(transfer: Transfer, delay: float) -> None:
    """The present attempt has failed, and another one follows in `delay` seconds."""
    if transfer.trouble is None or not log.isEnabledFor(logging.DEBUG):
        return
    url, (reason, detail, *_) = redact_url(transfer.job.url), transfer.trouble
    log.debug(
        "%s: attempt %d failed (%s: %s), again in %.1f s",
        url,
        transfer.attempts,
        reason,
        detail,
        delay,
        extra={
            "event": "retry",
            "fields": {
                "url": url,
                "reason": reason,
                "detail": detail,
                "attempt": transfer.attempts,
                "seconds": round(delay, 1),
            },
        },
    )
