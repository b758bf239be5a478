"""Decides which transfer starts next: limits in total and per host, paused hosts, waits before a retry.

The limits of a host may be shared with other processes (`nearfar.queues.limits`). Then an item starts only
with a permit for its host. Permits are claimed for the hosts that come next, a few ahead of need, and are
returned once a host has no more items, or if others wait for them.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterable
from itertools import count
from math import inf
from typing import Generic, TypeVar

from nearfar.download.fetch.transfer import HostConcurrency
from nearfar.queues.limits import BATCH, Claim, Grant

T = TypeVar("T")

REMEMBERED = 60.0
"""Seconds for which an idle host's lower limit is kept after its last 429 or 503."""
LINGER = 0.25
"""Seconds for which the permits of a host without items are kept: more items may come."""
PATIENCE = 0.2
"""Seconds after which a claim that was not granted delays no claim for another host."""
TOKENS_LAST = 1.0
"""Seconds for which a granted request may be sent."""
UNLIMITED = 1 << 62


class _Host(Generic[T]):
    __slots__ = (
        "active",
        "asked_tokens",
        "claimed",
        "idle_at",
        "known_until",
        "offered",
        "pace",
        "parked_until",
        "permits",
        "queued",
        "target",
        "tokens",
        "tokens_until",
        "waiting",
    )

    def __init__(self, pace: HostConcurrency, permits: int) -> None:
        self.pace = pace
        self.waiting: deque[T] = deque()
        self.active = 0
        self.parked_until = 0.0
        self.known_until = 0.0
        """When its limit may be forgotten, if it is idle."""
        self.offered = False
        """It is in the queue of hosts that may have something to start."""
        self.permits = permits
        self.target = permits
        """Permits that may be used: others wait for the rest."""
        self.claimed = 0
        """The permits last claimed, those that it has included."""
        self.queued = False
        """It is in the queue of hosts that need more permits."""
        self.idle_at = 0.0
        """When its unused permits are returned; 0: it has items; `inf`: the time is not set yet."""
        self.tokens = 0
        """Requests that may be sent, until `tokens_until`; for a limited rate only."""
        self.tokens_until = 0.0
        self.asked_tokens = 0
        """Requests asked for and not granted."""

    @property
    def spare(self) -> int:
        """Items that it could start now."""
        return min(self.pace.window, self.permits, self.target) - self.active


class Schedule(Generic[T]):
    """Items by host; pure, with the time as an argument (seconds of any one clock that starts above 0).

    Hosts take turns, so that one with a long queue does not delay the others; the cost of a call does not
    depend on the number of items and hosts that wait.

    With `join`, the limits per host are those of all processes together: pass on what `claims` returns, and
    give what comes back to `grant`. `rate`: requests per second to one host, which needs that, too.
    """

    def __init__(self, total: int, per_host: int, rate: float | None = None) -> None:
        self._total = total
        self._per_host = per_host
        self._rate = rate or 0.0
        self._active = 0
        self._hosts: dict[str, _Host[T]] = {}
        self._row: deque[str] = deque()
        self._later: list[tuple[float, int, str, T | None]] = []
        self._order = count()
        self._joined = False
        self._permits = 0
        """The permits of all hosts."""
        self._needy: deque[str] = deque()
        """Hosts that need more permits, which were not claimed yet."""
        self._pending: dict[str, tuple[float, int]] = {}
        """Hosts whose claim was not answered, with its time, and the permits claimed in addition."""
        self._idle: list[str] = []
        """Hosts that have permits and no more items, since `claims` was last called."""
        self._notes: dict[str, Claim] = {}
        """What to tell about hosts, in addition."""

    def add(self, host: str, item: T, *, first: bool = False) -> None:
        """Queue `item`; with `first`, before the host's other items."""
        entry = self._hosts.get(host) or self._host(host)
        if first:
            entry.waiting.appendleft(item)
        else:
            entry.waiting.append(item)
        if not entry.offered:
            self._settle(host, entry)

    def add_later(self, host: str, item: T, when: float) -> None:
        """`add` at the time `when`."""
        heapq.heappush(self._later, (when, next(self._order), host, item))

    def park(self, host: str, until: float, now: float | None = None) -> None:
        """Start nothing at `host` before the time `until`, or before a later time set earlier.

        With `now`, the other processes are told.
        """
        entry = self._host(host)
        if until > entry.parked_until:
            entry.parked_until = until
            self._ring(host, until)
            if now is not None and self._joined:
                self._note(host, park=until - now)

    def put_off(self, host: str, now: float, seconds: float) -> float:
        """`host` deferred a request: start nothing for `seconds`, and fewer at a time after that.

        Deferrals during such a pause concern earlier requests, and change nothing. Returns for how many
        seconds the host will have only deferred by the end of the pause.
        """
        entry = self._host(host)
        if entry.parked_until <= now:
            self.slow_down(host, now)
        self.park(host, now + seconds, now)
        return entry.pace.put_off(now) + seconds

    def slow_down(self, host: str, now: float) -> None:
        """Start fewer at a time at `host`, which asked for that, and remember it for `REMEMBERED` seconds."""
        entry = self._host(host)
        entry.pace.slow_down()
        entry.known_until = now + REMEMBERED
        self._ring(host, entry.known_until)
        if self._joined:
            self._note(host, slow=True)

    @property
    def has_capacity(self) -> bool:
        """True if more could start now, and no waiting item can: the caller should add more."""
        return self._active < self._total and not self._row and not self._pending

    def take(self, now: float) -> tuple[str, T] | None:
        """The next item that may start, with its host, or None; call `release` when it has ended."""
        if self._later and self._later[0][0] <= now:
            self._wake(now)
        while self._row and self._active < self._total:
            host = self._row.popleft()
            entry = self._hosts.get(host)
            if entry is None:
                continue
            entry.offered = False
            if entry.waiting and entry.spare > 0 and entry.parked_until <= now:
                if self._rate and not self._use_token(host, entry, now):
                    continue
                item = entry.waiting.popleft()
                entry.active += 1
                self._active += 1
                if entry.waiting:
                    self._settle(host, entry)
                return host, item
        return None

    def release(self, host: str, *, answered: bool = False) -> None:
        """An item of `host` has ended, and frees its place. `answered`: the host sent a response, so its
        limit may grow."""
        entry = self._hosts[host]
        if answered:
            entry.pace.answered()
        entry.active -= 1
        self._active -= 1
        if self._joined and entry.permits > entry.active:
            self._return_unused(host, entry)
        if entry.waiting or not entry.active:
            self._settle(host, entry)

    def take_back(self) -> list[T]:
        """Remove and return every item that waits, for its host or its time."""
        back = [item for _, _, _, item in self._later if item is not None]
        self._later = [each for each in self._later if each[3] is None]
        heapq.heapify(self._later)
        for host, entry in list(self._hosts.items()):
            back.extend(entry.waiting)
            entry.waiting.clear()
            self._settle(host, entry)
        return back

    def deadline(self) -> float | None:
        """When an item can start, or `claims` has something to say, because of time alone; None for never."""
        when = self._later[0][0] if self._later else None
        if self._needy and self._pending:
            unanswered = next(iter(self._pending.values()))[0] + PATIENCE
            when = unanswered if when is None else min(when, unanswered)
        return when

    # -- limits that are shared --------------------------------------------------------------------

    def join(self) -> None:
        """From now on, or anew, the limits are shared: no host has a permit. No item may be active."""
        self._forget_permits(0)
        self._joined = True

    def part(self) -> None:
        """The limits are those of this process again. No item may be active."""
        self._joined = False
        self._forget_permits(UNLIMITED)

    def _forget_permits(self, permits: int) -> None:
        assert not self._active, "permits are in use"
        self._permits = 0
        self._needy.clear()
        self._pending.clear()
        self._idle.clear()
        self._notes.clear()
        for host, entry in list(self._hosts.items()):
            entry.permits = entry.target = permits
            entry.claimed = entry.tokens = entry.asked_tokens = 0
            entry.queued = False
            entry.idle_at = 0.0
            self._settle(host, entry)

    def permits(self, host: str) -> int:
        """The permits for `host`."""
        entry = self._hosts.get(host)
        return entry.permits if entry is not None else 0

    def declare(self, now: float) -> list[Claim]:
        """All that this process has and wants, for a new session; those with permits first."""
        self._notes.clear()
        self._pending.clear()
        self._needy.clear()
        claims = []
        for host, entry in list(self._hosts.items()):
            entry.queued = False
            entry.asked_tokens = 0
            if entry.permits < 0:
                self._permits -= entry.permits
                entry.permits = 0
            entry.claimed = max(entry.permits, self._usable(entry))
            parked = max(0.0, entry.parked_until - now)
            if entry.claimed or parked:
                claims.append(self._claim(host, entry)._replace(held=entry.permits, park=parked))
            self._settle(host, entry)
        claims.sort(key=lambda claim: not claim.held)
        return claims

    def claims(self, now: float) -> list[Claim]:
        """What to tell the holder of the limits now."""
        if self._idle:
            for host in self._idle:
                if (idle := self._hosts.get(host)) is not None and idle.idle_at == inf:
                    if self._needy:
                        self._part_with(host, idle)
                        self._settle(host, idle)
                    else:
                        idle.idle_at = now + LINGER
                        self._ring(host, idle.idle_at)
            self._idle.clear()
        if not (self._needy or self._notes):
            return []
        while self._pending:
            host, (since, _) = next(iter(self._pending.items()))
            if since + PATIENCE > now:
                break
            del self._pending[host]
        self._claim_ahead(now)
        notes, self._notes = self._notes, {}
        return list(notes.values())

    def _claim_ahead(self, now: float) -> None:
        """Claim permits for the hosts that need some, until as many are unused, or claimed, as items can run:
        what a process does not use soon, others may need."""
        room = self._total - self._unused - sum(more for _, more in self._pending.values())
        while self._needy and room > 0:
            host = self._needy.popleft()
            entry = self._hosts.get(host)
            if entry is None or not entry.queued:
                continue
            entry.queued = False
            if self._lacks(entry):
                more = min(self._usable(entry) - max(0, entry.permits), room)
                room -= more
                self._pending[host] = now, more
                entry.claimed = max(0, entry.permits) + more
                self._note(host)

    def grant(self, grants: Iterable[Grant], now: float) -> list[tuple[str, int]]:
        """Process grants. Returns the hosts at which too many items are active now, and how many."""
        excess = []
        for host, permits, target, tokens, park in grants:
            self._pending.pop(host, None)
            entry = self._host(host)
            entry.permits += permits
            self._permits += permits
            entry.target = target
            if permits < 0:
                entry.claimed = 0  # the holder has forgotten what was claimed
            if tokens:
                entry.tokens = tokens + (entry.tokens if entry.tokens_until > now else 0)
                entry.tokens_until = now + TOKENS_LAST
                entry.asked_tokens = max(0, entry.asked_tokens - tokens)
            if park:
                self.park(host, now + park)
            self._return_unused(host, entry)
            if entry.active > max(0, entry.permits):
                excess.append((host, entry.active - max(0, entry.permits)))
            self._settle(host, entry)
        return excess

    def revoke(self) -> list[tuple[str, int]]:
        """The lease has ended: no host has a permit. Returns the hosts with active items, and how many."""
        for host, entry in list(self._hosts.items()):
            if entry.permits > 0:
                entry.claimed = entry.tokens = entry.asked_tokens = 0
                self._return(host, entry, entry.permits)
                self._settle(host, entry)
        return [(host, entry.active) for host, entry in self._hosts.items() if entry.active]

    @property
    def _unused(self) -> int:
        """The permits of all hosts that no item uses."""
        return self._permits - self._active

    def _usable(self, entry: _Host[T]) -> int:
        """The permits that a host could use."""
        return min(len(entry.waiting) + entry.active, self._total, entry.pace.window)

    def _lacks(self, entry: _Host[T]) -> bool:
        """A host uses all permits that it has, and could use more than it has claimed."""
        return entry.active >= entry.permits and self._usable(entry) > max(entry.claimed, entry.permits)

    def _claim(self, host: str, entry: _Host[T]) -> Claim:
        return Claim(host, self._per_host, self._rate, entry.claimed, tokens=entry.asked_tokens)

    def _note(self, host: str, *, returned: int = 0, park: float = 0.0, slow: bool = False) -> None:
        """Tell the holder about `host` with the next claims."""
        claim = self._claim(host, self._hosts[host])
        if (note := self._notes.get(host)) is not None:
            returned, park, slow = note.returned + returned, max(note.park, park), note.slow or slow
        self._notes[host] = claim._replace(returned=returned, park=park, slow=slow)

    def _return_unused(self, host: str, entry: _Host[T]) -> None:
        """Return unused permits: those that others wait for, and some if other hosts lack permits because so
        many are unused."""
        unused = entry.permits - max(entry.active, 0)
        others = entry.permits - max(entry.target, entry.active)
        if others > 0:
            self._return(host, entry, others)
        elif unused > 1 and self._needy and self._unused >= self._total:
            entry.claimed = entry.permits - (unused + 1) // 2
            self._return(host, entry, (unused + 1) // 2)

    def _return(self, host: str, entry: _Host[T], permits: int) -> None:
        entry.permits -= permits
        self._permits -= permits
        self._note(host, returned=permits)

    def _use_token(self, host: str, entry: _Host[T], now: float) -> bool:
        """Use one of the requests that the rate allows, and ask for more ahead of need; False without one."""
        if entry.tokens_until <= now:
            entry.tokens = 0
        has = entry.tokens > 0
        entry.tokens -= has
        ahead = max(1, min(len(entry.waiting) - has, int(self._rate * BATCH)))
        if len(entry.waiting) > has and 2 * (entry.tokens + entry.asked_tokens) < ahead:
            entry.asked_tokens = ahead - entry.tokens
            self._note(host)
        return has

    # -- inside ------------------------------------------------------------------------------------

    def _ring(self, host: str, when: float) -> None:
        heapq.heappush(self._later, (when, next(self._order), host, None))

    def hosts(self, now: float) -> list[tuple[str, int, int, float]]:
        """The hosts with transfers, or with a pause: name, how many run, how many wait, seconds of pause."""
        later = Counter(host for _, _, host, item in self._later if item is not None)
        return [
            (host, entry.active, len(entry.waiting) + later[host], max(0.0, entry.parked_until - now))
            for host, entry in self._hosts.items()
        ]

    def _wake(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            _, _, host, item = heapq.heappop(self._later)
            if item is not None:
                self.add(host, item, first=True)
                continue
            entry = self._hosts.get(host)
            if entry is None:
                continue
            if entry.parked_until <= now:
                entry.parked_until = 0.0
            if entry.known_until <= now:
                entry.known_until = 0.0
            if entry.idle_at <= now and self._joined:
                self._part_with(host, entry)
            self._settle(host, entry)

    def _host(self, host: str) -> _Host[T]:
        entry = self._hosts.get(host)
        if entry is None:
            pace = HostConcurrency(self._per_host)
            entry = self._hosts[host] = _Host(pace, 0 if self._joined else UNLIMITED)
        return entry

    def _part_with(self, host: str, entry: _Host[T]) -> None:
        """Return the unused permits of a host that has had no items for a while."""
        entry.idle_at = 0.0
        if not entry.waiting and entry.permits > entry.active:
            entry.claimed = entry.active
            self._return(host, entry, entry.permits - entry.active)

    def _settle(self, host: str, entry: _Host[T]) -> None:
        """Queue a host that may start something; forget an idle one, since there may be millions."""
        if entry.waiting:
            entry.idle_at = 0.0
            if self._joined and not entry.queued and self._lacks(entry):
                entry.queued = True
                self._needy.append(host)
            if not (entry.offered or entry.parked_until) and entry.spare > 0:
                entry.offered = True
                self._row.append(host)
            return
        if self._joined:
            if entry.permits > entry.active:
                if not entry.idle_at:
                    entry.idle_at = inf
                    self._idle.append(host)
                return
            if entry.claimed > entry.active:
                entry.claimed = entry.active
                self._note(host)
            if entry.permits:
                return
        if not entry.active and not entry.parked_until and (entry.pace.calm or not entry.known_until):
            del self._hosts[host]
