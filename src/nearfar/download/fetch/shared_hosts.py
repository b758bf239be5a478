"""Keeps one fetcher to the limits per host that it shares with other processes.

A permit stands for an open connection: before it is returned, a connection that it allowed is closed, even if
it is idle.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from nearfar.download.fetch.base import HostLimits
from nearfar.download.fetch.curl_handle import Handle, shut_connection
from nearfar.download.fetch.schedule import Schedule
from nearfar.download.fetch.transfer import Transfer
from nearfar.queues.limits import Claim, Grant, SharedLimits


class OwnLimits:
    """The limits of a single process, which hold the rate of its requests; a `HostLimits`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._holder = SharedLimits()

    def session(self) -> int:
        return 1

    def expired(self) -> bool:
        return False

    def receive(self) -> Sequence[Grant]:
        now = self._clock()
        if self._holder.due > now:
            return ()
        return [grant for _, grants in self._holder.flush(now) for grant in grants]

    def claim(self, session: int, claims: Sequence[Claim]) -> None:
        self._holder.claim("self", claims, self._clock())

    def due(self) -> float:
        return self._holder.due


class SharedHosts:
    """The permits of one fetcher, and the connections that they allow."""

    def __init__(self, schedule: Schedule[Transfer], limits: HostLimits) -> None:
        self._schedule = schedule
        self._limits = limits
        self._session = 0
        self._open: dict[str, dict[int, int]] = {}
        """By host, the connections that may be open: descriptor and local port."""
        schedule.join()

    def exchange(self, active: Collection[Handle], now: float) -> list[tuple[str, int]]:
        """Process grants, and send claims; returns the hosts where transfers must be broken off, and how many
        of them."""
        limits, schedule = self._limits, self._schedule
        session = limits.session()
        excess: list[tuple[str, int]] = []
        if limits.expired():
            excess = schedule.revoke()
            for host in list(self._open):
                self.close_idle(host, active)
        elif session and session != self._session:
            self._session = session
            limits.receive()
            limits.claim(session, schedule.declare(now))
        elif session:
            if grants := limits.receive():
                excess = schedule.grant(grants, now)
                for grant in grants:
                    if grant.permits < 0:
                        self.close_idle(grant.key, active)
            if claims := schedule.claims(now):
                for claim in claims:
                    if claim.returned:
                        self.close_idle(claim.key, active)
                limits.claim(session, claims)
        return excess

    def due(self) -> float:
        """When to call `exchange`, at the latest."""
        return self._limits.due()

    def ended(self, handle: Handle) -> None:
        """A request has ended; its connection may stay open."""
        if (opened := handle.opened()) is not None:
            port, descriptor = opened
            self._open.setdefault(handle.host, {})[descriptor] = port

    def close_idle(self, host: str, active: Collection[Handle], *, coming: int = 0) -> None:
        """Close connections to `host` that no transfer uses, until there are as few as permits, with those
        that are `coming`. (The connection of a request that was just begun is unknown: it counts.)"""
        idle = self._open.get(host)
        if not idle:
            return
        used = [handle.local_port() for handle in active if handle.host == host]
        known = set(idle.values())
        fresh = sum(port not in known for port in used)
        most = max(0, self._schedule.permits(host)) - fresh - coming
        for descriptor in [descriptor for descriptor, port in idle.items() if port not in used]:
            if len(idle) <= most:
                break
            shut_connection(descriptor, idle.pop(descriptor))
        if not idle:
            del self._open[host]

    def end(self) -> None:
        """End sharing. No transfer may be active, and the caller closes all connections."""
        self._open.clear()
        self._schedule.part()
