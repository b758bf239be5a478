"""When to try again, and how fast: pure rules, with the time and the dice as arguments."""

from __future__ import annotations

from random import Random

from nearfar.download.fetch.options import FetchOptions
from nearfar.download.fetch.trouble import Trouble
from nearfar.download.model import Reason

__all__ = ["DNS_TRIES", "Throttle", "backoff", "park", "worth_another"]

DNS_TRIES = 2
"""A resolver that is down and a name that does not exist look the same; the second is far more frequent."""


def worth_another(trouble: Trouble, tried: int, options: FetchOptions) -> bool:
    """True if an attempt should follow the `tried` that were made."""
    most = min(options.tries, DNS_TRIES) if trouble.reason is Reason.DNS else options.tries
    return trouble.transient and tried < most


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
