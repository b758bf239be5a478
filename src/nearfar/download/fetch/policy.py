"""When to try again, and how fast: pure rules, with the time and the dice as arguments."""

from __future__ import annotations

from random import Random

from nearfar.download.fetch.options import FetchOptions
from nearfar.download.fetch.trouble import Trouble
from nearfar.download.model import Reason

__all__ = ["DNS_TRIES", "Gains", "Throttle", "backoff", "park", "worth_another"]

DNS_TRIES = 2
"""A resolver that is down and a name that does not exist look the same; the second is far more frequent."""


def worth_another(trouble: Trouble, tried: int, options: FetchOptions) -> bool:
    """True if an attempt should follow the `tried` that were made."""
    most = min(options.tries, DNS_TRIES) if trouble.reason is Reason.DNS else options.tries
    return trouble.transient and tried < most


CUT_SHORT = frozenset({Reason.TRUNCATED, Reason.TIMEOUT, Reason.CONNECT})
"""Ends of an attempt that may have brought the file on all the same."""
FREE_GAINS = 100
"""Attempts that may bring little; those that follow must have brought `LEAST_GAIN` on the average."""
LEAST_GAIN = 1024
"""Bytes."""


class Gains:
    """Whether an attempt that was cut short brought the file on: then it does not count as a failure.

    So a line that breaks every few seconds brings a file of any size, and a server that sends a byte each
    time, or lets each attempt run into its timeout, still ends.
    """

    def __init__(self) -> None:
        self._furthest = 0
        self._attempts = 0

    def note(self, came: int, trouble: Trouble, options: FetchOptions) -> bool:
        """An attempt ended by `trouble` with `came` bytes there, from which the next one can go on."""
        gained, self._furthest = came - self._furthest, max(came, self._furthest)
        least = options.least_speed * options.stall_timeout if trouble.reason is Reason.TIMEOUT else 1
        if trouble.reason not in CUT_SHORT or not trouble.transient or gained < least:
            return False
        self._attempts += 1
        return came >= LEAST_GAIN * (self._attempts - FREE_GAINS)


def backoff(tried: int, options: FetchOptions, rng: Random) -> float:
    """Seconds to wait before the next attempt, after `tried` (1 or more): exponential, with full jitter.

    Full jitter is the best of the variants compared in M. Brooker, "Exponential Backoff And Jitter",
    AWS Architecture Blog, 2015: clients that failed together do not return together.
    """
    ceiling = min(options.backoff_cap, options.backoff * 2.0 ** min(tried - 1, 60))
    return rng.uniform(0.0, ceiling)


def park(trouble: Trouble, options: FetchOptions) -> float:
    """Seconds for which the host is left alone; 0 if it did not ask."""
    return min(trouble.retry_after or 0.0, options.retry_after_cap)


class Pace:
    """How many requests at a time a host bears: additive increase, multiplicative decrease.

    The rule by which TCP shares a line (D. Chiu, R. Jain, 1989): whoever asks too much halves, and tries one
    more after each round that went well. A host that never complains is asked as often as it may be.
    """

    __slots__ = ("_most", "_since", "_window")

    def __init__(self, most: int) -> None:
        self._most = most
        self._window = float(most)
        self._since: float | None = None

    @property
    def window(self) -> int:
        """Requests that may be under way."""
        return int(self._window)

    @property
    def calm(self) -> bool:
        """Nothing need be remembered of this host."""
        return self._since is None and self._window >= self._most

    def slow_down(self) -> None:
        """The host asked for fewer requests."""
        self._window = max(1.0, self._window / 2)

    def put_off(self, now: float) -> float:
        """The host put a request off; seconds since it began to do nothing but that."""
        if self._since is None:
            self._since = now
        return now - self._since

    def answered(self) -> None:
        """The host gave an answer that asks for no patience."""
        self._since = None
        if self._window < self._most:
            self._window = min(float(self._most), self._window + 1 / self._window)


class Throttle:
    """A token bucket that may go into debt: bytes are counted after they came, and paid off by waiting."""

    def __init__(self, rate: int | None, now: float) -> None:
        self._rate = rate
        self._debt = 0.0
        self._then = now

    def spend(self, size: int) -> None:
        """Count `size` bytes that came."""
        self._debt += size

    def wait(self, now: float) -> float:
        """Seconds until more may come. An idle time is not saved up: it allows no burst later."""
        if self._rate is None:
            return 0.0
        self._debt = max(0.0, self._debt - (now - self._then) * self._rate)
        self._then = now
        return self._debt / self._rate
