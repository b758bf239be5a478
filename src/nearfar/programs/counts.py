"""What a long job counts, and how a reader is told: counts, sizes, pace and time left. No clock, no I/O."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

UNITS = ("B", "kB", "MB", "GB", "TB")


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

    @property
    def done(self) -> int:
        """How many have ended, in whatever way."""
        return self.saved + self.already + self.failed.total()


class Pace:
    """Files and bytes a second over the last `window` seconds."""

    def __init__(self, window: float = 10.0) -> None:
        self._window = window
        self._seen: deque[tuple[float, int, int]] = deque()

    def note(self, counts: Counts, now: float) -> None:
        """Remember where `counts` stands at `now` (seconds, of any clock that does not go back)."""
        if self._seen and now - self._seen[-1][0] < self._window / 100:
            return
        self._seen.append((now, counts.done, counts.bytes))
        while len(self._seen) > 2 and now - self._seen[1][0] >= self._window:
            self._seen.popleft()

    def rates(self, counts: Counts, now: float) -> tuple[float, float]:
        """Files and bytes a second at `now`; zeros before any time has passed."""
        if not self._seen or now <= self._seen[0][0]:
            return 0.0, 0.0
        then, files, size = self._seen[0]
        return (counts.done - files) / (now - then), (counts.bytes - size) / (now - then)

    def left(self, counts: Counts, now: float) -> float | None:
        """Seconds to the end if the pace stays; None when the total or the pace is unknown."""
        files, _ = self.rates(counts, now)
        if counts.total is None or files <= 0:
            return None
        return max(counts.total - counts.done, 0) / files


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
    """``312 files/s, 14.0 MB/s, 0:28 left``, as far as it is known."""
    files, volume = pace.rates(counts, now)
    left = pace.left(counts, now)
    parts = [f"{files:,.0f} files/s" if files >= 10 else f"{files:.1f} files/s", f"{size(volume)}/s"]
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
