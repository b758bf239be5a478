"""How far a long job is: counts, rates, the time left, and these in words; tables. `display` shows them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from nearfar.readable import readable

UNITS = ("B", "kB", "MB", "GB", "TB")
SILENT = 5.0
"""Seconds without progress after which the line shows what the job waits for."""
LONGEST_LEFT = 360_000.0
"""Seconds: a remaining time above a hundred hours is not shown exactly."""


class Counts:
    """The counts of a job, which only the program changes."""

    def __init__(
        self,
        saved: int = 0,
        already: int = 0,
        failed: Counter[str] | None = None,
        size: int = 0,
        total: int | None = None,
        underway: float = 0.0,
        waits_for: str = "",
        large: Sequence[tuple[str, int, int | None]] = (),
        *,
        stopping: bool = False,
    ) -> None:
        """`waits_for`: the peer that the job waits for, such as ``host``; empty if it does not wait.

        `large`: name, received bytes and length of the files to show by themselves. `stopping`: a user has
        asked the program to stop.
        """
        self.saved = saved
        self.already = already
        self.failed: Counter[str] = Counter() if failed is None else failed
        """Failures, by reason."""
        self.bytes = size
        """Received so far, with those of unfinished files."""
        self.total = total
        """The total number of files; None while it is not known."""
        self.underway = underway
        """The received parts of unfinished files, in files."""
        self.waits_for = waits_for
        self.large = large
        self.stopping = stopping

    @property
    def done(self) -> int:
        """The number of ended files, successful or not."""
        return self.saved + self.already + self.failed.total()

    @property
    def progress(self) -> float:
        """`done`, and the received parts of unfinished files."""
        return self.done + self.underway


class TransferRate:
    """Files and bytes per second over the last `window` seconds, including parts of unfinished files."""

    def __init__(self, window: float = 10.0) -> None:
        self._window = window
        self._seen: deque[tuple[float, float, int]] = deque()
        self._last: tuple[float, int] | None = None
        self._changed = 0.0

    def note(self, counts: Counts, now: float) -> None:
        """Record `counts` at `now` (seconds of any monotonic clock)."""
        if (counts.progress, counts.bytes) != self._last:
            self._last = (counts.progress, counts.bytes)
            self._changed = now
        if self._seen and now - self._seen[-1][0] < self._window / 100:
            return
        self._seen.append((now, counts.progress, counts.bytes))
        while len(self._seen) > 2 and now - self._seen[1][0] >= self._window:
            self._seen.popleft()

    def rates(self, counts: Counts, now: float) -> tuple[float, float]:
        """Files and bytes per second at `now`; zeros before any time has passed."""
        if not self._seen or now <= self._seen[0][0]:
            return 0.0, 0.0
        then, files, size = self._seen[0]
        # The received part of a file that has failed does not count any more.
        return max(0.0, counts.progress - files) / (now - then), max(0, counts.bytes - size) / (now - then)

    def left(self, counts: Counts, now: float) -> float | None:
        """Seconds to the end at this rate; None if the total or the rate is unknown, or the rate too low."""
        files, _ = self.rates(counts, now)
        if counts.total is None or files <= 0:
            return None
        left = max(counts.total - counts.progress, 0) / files
        return left if left < LONGEST_LEFT else None

    def silence(self, now: float) -> float:
        """Seconds since anything changed."""
        return now - self._changed if self._seen else 0.0


# -- in words --------------------------------------------------------------------------------------


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


def describe_rate(rate: TransferRate, counts: Counts, now: float) -> str:
    """``312 files/s, 14.0 MB/s, 0:28 left``, as far as it is known.

    After `SILENT` seconds without an answer, it shows what the job waits for instead of the time left.
    """
    files, volume = rate.rates(counts, now)
    left, silence = rate.left(counts, now), rate.silence(now)
    parts = [f"{files:,.0f} files/s" if files >= 10 else f"{files:.1f} files/s", f"{size(volume)}/s"]
    if counts.waits_for and silence >= SILENT:
        return ", ".join([*parts, f"no {counts.waits_for} has answered for {silence:.0f} s"])
    return ", ".join(parts if left is None else [*parts, f"{duration(left)} left"])


def describe_briefly(rate: TransferRate, counts: Counts, now: float, room: int) -> str:
    """The longest of several descriptions of `counts` and `rate` that fits into `room` characters."""
    total = "" if counts.total is None else f" of {counts.total:,}"
    failed = f", {counts.failed.total():,} failed" if counts.failed else ""
    left, (_, volume) = rate.left(counts, now), rate.rates(counts, now)
    speed = f"{size(volume)}/s" + ("" if left is None else f", {duration(left)}")
    stop, halt = ("stopping (again: at once): ", "stopping: ") if counts.stopping else ("", "")
    choices = (
        f"{stop}{describe(counts)}; {describe_rate(rate, counts, now)}",
        f"{stop}{counts.done:,}{total}{failed}, {size(counts.bytes)}; {describe_rate(rate, counts, now)}",
        f"{halt}{counts.done:,}{total}{failed}, {size(counts.bytes)}; {speed}",
        f"{halt}{counts.done:,}{total}{failed}; {speed}",
        f"{halt}{counts.done:,}{total}; {speed}",
        f"{halt}{counts.done:,}{total}",
    )
    return next((each for each in choices if len(each) <= room), choices[-1])


def number(count: int, noun: str) -> str:
    """``1 worker``, ``1,204 workers``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def size(count: float) -> str:
    """Bytes, in powers of 1,000."""
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


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Heads and rows in columns, numbers to the right, without spaces at the ends of lines.

    Programs read this output, too, and it needs no package: what the demo and the contrast print is drawn by
    rich.
    """
    lines = [heads, *([readable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    right = [all(_is_number(row[column]) for row in rows) for column in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def _is_number(cell: str) -> bool:
    return cell.replace(",", "").replace(".", "").isdigit()
