"""What a long job counts, and how a reader is told: counts, sizes, pace and time left. No clock, no I/O."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

UNITS = ("B", "kB", "MB", "GB", "TB")


SILENT = 5.0
"""Seconds without any progress after which it is said who is waited for."""
LONGEST_LEFT = 360_000.0
"""Seconds: of a time left beyond a hundred hours nothing is known but that it is long."""


@dataclass(slots=True)
class Counts:
    """What the caller counts; the caller changes it, nobody here does."""

    saved: int = 0
    already: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """By reason."""
    bytes: int = 0
    """Received so far, those of unfinished files included."""
    total: int | None = None
    """How many there will be in all; None while nobody knows."""
    underway: float = 0.0
    """How many whole ones what has come of unfinished ones amounts to."""
    waits_for: str = ""
    """Who has to answer before anything goes on, such as ``host``; empty where nobody has to."""

    @property
    def done(self) -> int:
        """How many have ended, in whatever way."""
        return self.saved + self.already + self.failed.total()

    @property
    def progress(self) -> float:
        """`done`, and the parts of those that are under way."""
        return self.done + self.underway


class Pace:
    """Files and bytes a second over the last `window` seconds, parts of unfinished files counted."""

    def __init__(self, window: float = 10.0) -> None:
        self._window = window
        self._seen: deque[tuple[float, float, int]] = deque()
        self._last: tuple[float, int] | None = None
        self._changed = 0.0

    def note(self, counts: Counts, now: float) -> None:
        """Remember where `counts` stands at `now` (seconds, of any clock that does not go back)."""
        if (counts.progress, counts.bytes) != self._last:
            self._last = (counts.progress, counts.bytes)
            self._changed = now
        if self._seen and now - self._seen[-1][0] < self._window / 100:
            return
        self._seen.append((now, counts.progress, counts.bytes))
        while len(self._seen) > 2 and now - self._seen[1][0] >= self._window:
            self._seen.popleft()

    def rates(self, counts: Counts, now: float) -> tuple[float, float]:
        """Files and bytes a second at `now`; zeros before any time has passed."""
        if not self._seen or now <= self._seen[0][0]:
            return 0.0, 0.0
        then, files, size = self._seen[0]
        # What came of a file that failed counts no more.
        return max(0.0, counts.progress - files) / (now - then), max(0, counts.bytes - size) / (now - then)

    def left(self, counts: Counts, now: float) -> float | None:
        """Seconds to the end if the pace stays; None when the total or the pace is unknown, or too small to
        tell anything."""
        files, _ = self.rates(counts, now)
        if counts.total is None or files <= 0:
            return None
        left = max(counts.total - counts.progress, 0) / files
        return left if left < LONGEST_LEFT else None

    def silence(self, now: float) -> float:
        """Seconds since anything changed."""
        return now - self._changed if self._seen else 0.0


def describe(counts: Counts) -> str:
    """``1,204 of 5,000: 1,200 saved, 4 failed (dns 3, http-4xx 1), 26.1 MB``."""
    parts = [f"{counts.saved:,} saved"]
    if counts.already:
        parts.append(f"{counts.already:,} already there")
    if failed := counts.failed.total():
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in counts.failed.most_common())
        parts.append(f"{failed:,} failed ({reasons})")
    total = "" if counts.total is None else f" of {counts.total:,}"
    return f"{counts.done:,}{total}: {', '.join([*parts, size(counts.bytes)])}"


def describe_pace(pace: Pace, counts: Counts, now: float) -> str:
    """``312 files/s, 14.0 MB/s, 0:28 left``, as far as it is known; instead of the time left, who has not
    answered for `SILENT` seconds or more."""
    files, volume = pace.rates(counts, now)
    left, silence = pace.left(counts, now), pace.silence(now)
    parts = [f"{files:,.0f} files/s" if files >= 10 else f"{files:.1f} files/s", f"{size(volume)}/s"]
    if counts.waits_for and silence >= SILENT:
        return ", ".join([*parts, f"no {counts.waits_for} has answered for {silence:.0f} s"])
    return ", ".join(parts if left is None else [*parts, f"{duration(left)} left"])


def number(count: int, noun: str) -> str:
    """``1 worker``, ``1,204 workers``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def size(count: float) -> str:
    """Bytes for a reader, in powers of 1,000."""
    power = 0
    while count >= 999.95 and power < len(UNITS) - 1:
        count /= 1000
        power += 1
    return f"{count:,.1f} {UNITS[power]}" if power else f"{count:.0f} B"


def duration(seconds: float) -> str:
    """``0:28``, ``12:05`` or ``3:00:00``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
