"""One producer's part in the limits per host that all producers share over a Redis server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path

import msgpack

from nearfar.net.reliable import LEASE
from nearfar.queues.limits import Claim, Grant
from nearfar.queues.redis.client import RedisClient

SCRIPT = Path(__file__).with_name("redis_limits.lua").read_bytes()


class RedisLimits:
    """A `HostLimits` whose holder is ``redis_limits.lua``.

    What is claimed and granted are differences. So a session ends with a call whose reply is lost: in the
    next one, the fetcher declares what it has.
    """

    def __init__(self, client: RedisClient, sender: str, stir: Callable[[], None]) -> None:
        """`stir` is called when `exchange` has something to say."""
        self._client, self._sender, self._stir = client, sender, stir
        self._lock = threading.Lock()
        self._session = 1
        self._former = ""
        self._declared = self._entered = False
        self._claims: list[Claim] = []
        self._grants: list[Grant] = []
        self._until = inf
        """When the server may have given the permits of this member to others."""

    def session(self) -> int:
        return self._session

    def expired(self) -> bool:
        if time.monotonic() < self._until:
            return False
        if not self._declared:  # the fetcher knows now that it has none, and may declare that
            self._until = inf
        return True

    def receive(self) -> Sequence[Grant]:
        if not self._grants:
            return ()
        with self._lock:
            grants, self._grants = self._grants, []
            return grants

    def claim(self, session: int, claims: Sequence[Claim]) -> None:
        with self._lock:
            if session == self._session:
                self._claims += claims
                self._declared = True
        self._stir()

    def due(self) -> float:
        """Never: the sender calls `on_event` when grants arrive."""
        return inf

    # -- in the sender's thread --------------------------------------------------------------------

    def exchange(self) -> float:
        """Send the claims, and receive grants. Returns after how many seconds to do that again.

        Raises `QueueLost`, `NotAdmitted`.
        """
        if not self._declared:
            return LEASE
        with self._lock:
            claims, self._claims = self._claims, []
        now = time.monotonic()
        reply = self._call("limits", claims)
        with self._lock:
            if reply is not None:
                self._until = now + LEASE
            if reply is None or reply[0] == b"unknown":
                self._begin_anew()
                return LEASE
            self._entered = True
            _, again, grants = reply
            self._grants += [Grant(*msgpack.unpackb(grant)) for grant in grants]
        return max(0.0, float(again))

    def leave(self) -> None:
        """Return all that this member has. Raises as `exchange`."""
        if self._entered:
            self._call("depart", ())

    def _call(self, op: str, claims: Sequence[Claim]) -> list[bytes] | None:
        first = int(not self._entered)
        args = self._member, first, self._former, int(LEASE), msgpack.packb(claims)
        return self._client.attempt(SCRIPT, op, args)

    @property
    def _member(self) -> str:
        return f"{self._sender} {self._session}"

    def _begin_anew(self) -> None:
        self._former = self._member
        self._session += 1
        self._declared = self._entered = False
        self._claims.clear()
        self._grants.clear()
