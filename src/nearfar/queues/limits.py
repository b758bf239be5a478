"""Limits that many processes share: how many may use a resource at a time, and how often. Pure.

One process holds a `SharedLimits`, for example the broker of a queue. The others are its members. A resource
is named by a key, such as the host of a download. A member claims what it could use of a key, and is granted
permits, which are leases: it keeps them as long as it uses them, without a message for each use::

    member                                    holder
      | Claim(key, want) ------------------->  |   it could use `want` permits
      | <------------------ Grant(key, +2) --- |   it may use two at a time, as often as it likes
      | <--------- Grant(key, 0, target 1) --- |   another member wants some: use one only
      | Claim(key, returned 1) ------------->  |   once one was not in use; from now on it is another's

Permits are granted and returned as differences, over a channel that loses and reorders nothing, so both
sides agree on them however messages cross. The holder counts a permit as used from its grant to its return.
Where a return crosses a negative grant, both count below zero: the next grant is that much less.

If a member dies, `leave` frees its permits. In a new session with the same holder, or with a new one, a
member first declares the permits that it has; where those are too many, the holder takes some back (a
negative grant).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil, inf
from typing import NamedTuple

from nearfar.base_errors import ProtocolError
from nearfar.net.timers import Timers

__all__ = ["Claim", "Grant", "SharedLimits", "divide"]

TURN = 1.0
"""Seconds after which permits go to other members, where there are more members than permits."""
BATCH = 0.1
"""Seconds whose uses are granted together, where a rate is limited."""
REMEMBERED = 60.0
"""Seconds without a further complaint until a resource has its full limit again."""
ONE_EVENT = 1.0
"""Seconds in which complaints about one resource count as one: all that was under way complains."""
MOST_KEYS = 10_000
"""Keys that one member may claim, and keys of no member whose state is kept."""


class Claim(NamedTuple):
    """What a member says about one key. Every field holds until the member's next claim of the key, except
    for `returned`, which is a difference."""

    key: str
    limit: int = 1
    """Permits of all members together, at most: where members differ, the lowest counts."""
    rate: float = 0.0
    """Uses per second of all members together, at most; 0: any number."""
    want: int = 0
    """Permits that it could use now, those that it has included."""
    returned: int = 0
    """Permits that it returns."""
    held: int = 0
    """In the first claims of a session: permits that it has."""
    tokens: int = 0
    """Uses that it asks for, and was not granted; for a key with a rate only."""
    park: float = 0.0
    """Seconds for which no member may use the resource, from now on."""
    slow: bool = False
    """The resource asked for fewer uses at a time."""


class Grant(NamedTuple):
    """What the holder says to a member about one key."""

    key: str
    permits: int = 0
    """More permits; if negative, it must stop as many uses at once."""
    target: int = 0
    """Permits that it may use, and shall return what it has beyond: others wait for those."""
    tokens: int = 0
    """More uses, to be begun within a second."""
    park: float = 0.0
    """Seconds for which it must not use the resource."""


class _Share:
    """One member's part of one key."""

    __slots__ = ("held", "limit", "parked", "rate", "target", "tokens", "want")

    def __init__(self) -> None:
        self.limit = 1
        self.rate = 0.0
        self.want = 0
        self.held = 0
        """Permits that it has; below 0 if it returned some that were taken back meanwhile."""
        self.tokens = 0
        """Uses that it asked for and was not granted."""
        self.target = 0
        """The target last sent to it."""
        self.parked = 0.0
        """Until when it was last told to wait."""


class _Key:
    """One resource."""

    __slots__ = (
        *("due", "filled", "name", "parked", "rate", "shares", "slowed", "tokens", "turn_ends", "window"),
    )

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.due = inf
        self.shares: dict[str, _Share] = {}
        """By member; where there are more members than permits, the first in this order come first."""
        self.parked = 0.0
        self.window = inf
        """Permits of all members, since the resource complained."""
        self.slowed = -inf
        """When it last complained."""
        self.turn_ends = inf
        self.rate = 0.0
        self.tokens = 1.0
        self.filled = now
        """The time up to which `tokens` has grown."""

    @property
    def used(self) -> int:
        """Permits that members have."""
        return sum(share.held for share in self.shares.values() if share.held > 0)

    def limit(self, now: float) -> int:
        """Permits of all members together."""
        limit = min(share.limit for share in self.shares.values())
        if self.window < inf:
            # A window that was halved grows back by additive increase, to the full limit in a minute.
            window = self.window + limit * (now - self.slowed) / REMEMBERED
            if window < limit:
                return max(1, int(window))
            self.window = inf
        return limit

    def remembered(self) -> float:
        """Until when its state matters, although no member claims it."""
        until = max(self.parked, self.slowed + REMEMBERED if self.window < inf else -inf)
        if self.rate and self.tokens < 1:
            until = max(until, self.filled + (1 - self.tokens) / self.rate)
        return until


class SharedLimits:
    """The holder. Times are seconds of any monotonic clock.

    After `claim`, `leave` or `doubt`, and at the time `due`, call `flush` for the grants to send.
    """

    def __init__(self) -> None:
        self._keys: dict[str, _Key] = {}
        self._members: dict[str, set[str]] = {}
        """The keys that each member claims."""
        self._silent: set[str] = set()
        """Members that are granted nothing before their next claim."""
        self._changed: dict[str, None] = {}
        self._grants: dict[str, list[Grant]] = {}
        self._timers: Timers[_Key] = Timers()
        self._doubtful_until = -inf
        self.due = inf
        """When to call `flush` next."""

    def doubt(self, until: float) -> None:
        """Members of an earlier holder may have permits that this one does not know: until the time `until`
        grant none, except those that members declare."""
        self._doubtful_until = until
        self._changed.update(dict.fromkeys(self._keys))
        self.due = -inf

    def claim(self, member: str, claims: Iterable[Claim], now: float, *, anew: bool = False) -> None:
        """Process the claims of `member`. `anew`: they are all that it has, and replace what was known.

        Raises `ProtocolError` for a member with too many keys.
        """
        if member in self._silent:
            self._silent.discard(member)
            self._changed.update(dict.fromkeys(self._members.get(member, ())))
        if anew:
            self._disown(member)
        for claim in claims:
            self._claim(member, claim, now, anew=anew)
        self.due = -inf

    def _claim(self, member: str, claim: Claim, now: float, *, anew: bool) -> None:
        entry = self._keys.get(claim.key)
        if entry is None:
            entry = self._keys[claim.key] = _Key(claim.key, now)
        share = entry.shares.get(member)
        if share is None:
            share = entry.shares[member] = _Share()
            self._note(member, claim.key)
        share.held += (claim.held if anew else 0) - claim.returned
        share.limit, share.rate, share.want = max(1, claim.limit), claim.rate, claim.want
        share.tokens = claim.tokens
        if claim.slow and now >= max(entry.slowed + ONE_EVENT, entry.parked):
            entry.window = max(1.0, entry.limit(now) / 2)
            entry.slowed = now
        if claim.park and now + claim.park > entry.parked:
            entry.parked = now + claim.park
            share.parked = entry.parked
        if anew and claim.held:
            self._take_excess(member, entry, share, now)
        self._changed[claim.key] = None

    def _note(self, member: str, key: str) -> None:
        keys = self._members.setdefault(member, set())
        if len(keys) >= MOST_KEYS:
            raise ProtocolError(f"{member} claims more than {MOST_KEYS} keys")
        keys.add(key)

    def _take_excess(self, member: str, entry: _Key, share: _Share, now: float) -> None:
        """Take back what a member has declared and others have been granted meanwhile."""
        excess = min(share.held, entry.used - entry.limit(now))
        share.target = share.held
        if excess > 0:
            share.held -= excess
            share.target = share.held
            self._grant(member, Grant(entry.name, -excess, share.held))

    def leave(self, member: str) -> None:
        """`member` has left or died, and uses nothing any more."""
        if member in self._members:
            self._disown(member)
            self.due = -inf
        self._silent.discard(member)
        self._grants.pop(member, None)

    def pause(self, member: str) -> None:
        """A new session with `member` begins: it keeps what it has, and is granted nothing before it declares
        that."""
        self._silent.add(member)
        self._grants.pop(member, None)

    def revoke(self, member: str) -> None:
        """`member` was silent for its lease: take back all that it has, and tell it. It is granted nothing
        more until its next claim, which may be empty."""
        for key in self._members.get(member, ()):
            share = self._keys[key].shares[member]
            if share.held > 0:
                self._grant(member, Grant(key, -share.held))
                share.held = 0
            share.target = 0
            self._changed[key] = None
        self._silent.add(member)
        self.due = -inf

    def flush(self, now: float) -> list[tuple[str, list[Grant]]]:
        """The grants to send, by member."""
        for entry in self._timers.ring(now):
            self._changed[entry.name] = None
        changed, self._changed = self._changed, {}
        for key in changed:
            if (found := self._keys.get(key)) is not None:
                self._distribute(found, now)
        grants, self._grants = self._grants, {}
        deadline = self._timers.deadline()
        self.due = inf if deadline is None else deadline
        return list(grants.items())

    def held(self, key: str) -> int:
        """Permits of `key` that members have."""
        entry = self._keys.get(key)
        return entry.used if entry else 0

    # -- inside ------------------------------------------------------------------------------------

    def _disown(self, member: str) -> None:
        for key in self._members.pop(member, ()):
            del self._keys[key].shares[member]
            self._changed[key] = None

    def _grant(self, member: str, grant: Grant) -> None:
        self._grants.setdefault(member, []).append(grant)

    def _distribute(self, entry: _Key, now: float) -> None:
        """Grant what is free of one key, and ask for the return of what others wait for."""
        for member, share in list(entry.shares.items()):
            if not (share.want or share.held):
                del entry.shares[member]
                self._members[member].discard(entry.name)
        if not entry.shares:
            self._forget(entry, now)
            return
        if entry.parked > now:
            self._tell_parked(entry, now)
            self._timers.set(entry, entry.parked)
            return
        if self._doubtful_until > now:
            self._timers.set(entry, self._doubtful_until)
        else:
            self._grant_permits(entry, entry.limit(now), now)
        rates = [share.rate for share in entry.shares.values() if share.rate]
        if rates:
            self._grant_tokens(entry, min(rates), now)

    def _forget(self, entry: _Key, now: float) -> None:
        """Forget a key that no member claims, once it has nothing to remember."""
        until = entry.remembered()
        if now >= until or len(self._keys) > MOST_KEYS:
            del self._keys[entry.name]
        else:
            self._timers.set(entry, until)

    def _tell_parked(self, entry: _Key, now: float) -> None:
        for member, share in entry.shares.items():
            if share.parked < entry.parked:
                share.parked = entry.parked
                self._grant(member, Grant(entry.name, 0, share.target, park=entry.parked - now))

    def _grant_permits(self, entry: _Key, limit: int, now: float) -> None:
        if entry.window < inf:
            self._timers.set(entry, now + TURN)  # it grows
        self._take_turns(entry, limit, now)
        shares = list(entry.shares.items())
        targets = divide(limit, [self._want(member, share) for member, share in shares])
        free = limit - entry.used
        lacking = free < 0
        granted = []
        for (_, share), target in zip(shares, targets, strict=True):
            debt = max(0, -share.held)
            more = max(0, min(free, target - share.held - debt))
            free -= more
            share.held += more + debt
            granted.append(more + debt)
            lacking = lacking or share.held < target
        for (member, share), target, more in zip(shares, targets, granted, strict=True):
            # What no other member waits for may stay for a while: its user may want it again.
            kept = target if lacking else max(target, share.held)
            if more or (kept != share.target and min(kept, share.target) < share.held):
                share.target = kept
                self._grant(member, Grant(entry.name, more, kept))

    def _want(self, member: str, share: _Share) -> int:
        return 0 if member in self._silent else share.want

    def _take_turns(self, entry: _Key, limit: int, now: float) -> None:
        """If there are more members than permits, those that had their turn go behind the others."""
        shares = entry.shares
        wanting = [member for member, share in shares.items() if self._want(member, share)]
        if len(wanting) <= limit:
            entry.turn_ends = inf
            return
        if now >= entry.turn_ends:
            for member in wanting[:limit]:
                shares[member] = shares.pop(member)
            entry.turn_ends = inf
        if entry.turn_ends == inf:
            entry.turn_ends = now + TURN
        self._timers.set(entry, entry.turn_ends)

    def _grant_tokens(self, entry: _Key, rate: float, now: float) -> None:
        """Grant uses to the members that have a permit, in turn, as the rate allows."""
        entry.tokens = min(max(1.0, rate * BATCH), entry.tokens + (now - entry.filled) * rate)
        entry.filled, entry.rate = now, rate
        asking = [
            (member, share) for member, share in entry.shares.items() if share.tokens and share.held > 0
        ]
        each = ceil(int(entry.tokens) / max(1, len(asking)))
        for member, share in asking:
            more = min(share.tokens, each, int(entry.tokens))
            if more:
                share.tokens -= more
                entry.tokens -= more
                entry.shares[member] = entry.shares.pop(member)
                self._grant(member, Grant(entry.name, 0, share.target, more))
        if any(share.tokens for _, share in asking):
            self._timers.set(entry, now + max(BATCH / 5, (1 - entry.tokens) / rate))


def divide(limit: int, wants: Sequence[int]) -> list[int]:
    """Max-min fair parts of `limit`: no part is larger than wanted, and what one does not want, the others
    get. Where `limit` cannot be divided evenly, the first get one more."""
    parts = [0] * len(wants)
    left, open_ = limit, [index for index, want in enumerate(wants) if want > 0]
    while left and open_:
        each = max(1, left // len(open_))
        for index in open_:
            more = min(each, wants[index] - parts[index], left)
            parts[index] += more
            left -= more
        open_ = [index for index in open_ if parts[index] < wants[index]]
    return parts
