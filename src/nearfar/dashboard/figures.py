"""Durations in buckets, and failures in groups. Pure."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence

from nearfar.dashboard.model import Durations, FailureRow

BOUNDS = tuple(1e-5 * 2 ** (step / 2) for step in range(55))
"""Seconds: the upper bounds of the buckets, from 10 us to 22 minutes; one more bucket is above."""


class Histogram:
    """Counts of durations, in buckets that grow by the square root of 2."""

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def add(self, seconds: float, count: int) -> None:
        """Count `count` tasks of that duration each."""
        self.buckets[bisect_left(BOUNDS, seconds)] += count
        self.sum += seconds * count

    def status(self) -> Durations:
        """A copy of the present state, for a snapshot."""
        return {"buckets": self.buckets[:], "sum": self.sum}


def percentile(buckets: Sequence[int], part: float) -> float:
    """The duration below which this part of the tasks is, 0 for no task; exact to the half of a bucket."""
    wanted, seen = part * sum(buckets), 0
    for index, count in enumerate(buckets):
        seen += count
        if count and seen >= wanted:
            upper = BOUNDS[min(index, len(BOUNDS) - 1)]
            return upper / 2 ** ((seen - wanted) / count / 2)  # the tasks of a bucket count as spread evenly
    return 0.0


MOST_GROUPS = 50
MOST_EXAMINED = 100
"""New texts a second that are assigned to groups, which takes some 50 us each."""
MOST_KNOWN = 256
LONGEST_TEXT = 8000
"""Characters of a traceback; of a longer one, the beginning and the end are kept."""
LONGEST_TITLE = 300

_FRAME = re.compile(r"^ +File .*$|^ *\| *File .*$", re.MULTILINE)
_USERINFO = re.compile(r"(?<=//)[^/\s@]+(?=@)")
_NAMED = re.compile(
    r"\b([\w-]*(?:api_?key|token|secret|passwo?r?d|passphrase|signature|credential|authorization|cookie)[\w-]*"
    r"[\"']?\s*[=:]\s*[\"']?(?:bearer |basic )?)[^\s\"'&,;)]+",
    re.IGNORECASE,
)


def without_secrets(text: str) -> str:
    """`text` of an error, with ``***`` for user names and passwords in URLs, and for the values of what is
    named as a secret: ``token=...``, ``Authorization: ...``."""
    return _NAMED.sub(r"\1***", _USERINFO.sub("***", text))


class FailureGroups:
    """Failures of tasks, grouped by their error's type and the places in their traceback."""

    def __init__(self) -> None:
        self.count = 0
        self._groups: dict[tuple[str, ...], FailureRow] = {}
        self._known: dict[str, tuple[str, ...]] = {}
        """The groups of texts that came before."""
        self._since = 0.0
        self._examined = 0

    def add(self, text: str, when: float) -> None:
        """Count one: `text` is a traceback, or a sentence; `when` is the time in seconds since the epoch."""
        self.count += 1
        if text.startswith("In worker "):  # the process that ran it: it differs
            text = text.partition("\n")[2]
        key = self._known.get(text) or self._examine(text, when)
        row = self._groups.pop(key)  # the latest comes last
        self._groups[key] = row | {"count": row["count"] + 1, "last": when}

    def _examine(self, text: str, when: float) -> tuple[str, ...]:
        """The group of a new text, whose example it becomes."""
        if when - self._since >= 1:
            self._since, self._examined = when, 0
        self._examined += 1
        if self._examined > MOST_EXAMINED:
            title = text = "further failures in the same second, which were not examined"
            key: tuple[str, ...] = (title,)
        else:
            title = _title(text)
            frames = _FRAME.findall(text)
            key = (title.partition(":")[0], *frames) if frames else (re.sub(r"\d+", "#", title),)
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[text] = key
        row = self._groups.pop(key, None)
        if row is None and len(self._groups) >= MOST_GROUPS:
            oldest = next(iter(self._groups))
            del self._groups[oldest]
            self._known = {text: known for text, known in self._known.items() if known != oldest}
        if len(text) > LONGEST_TEXT:
            text = f"{text[: LONGEST_TEXT // 2]}\n[...]\n{text[-LONGEST_TEXT // 2 :]}"
        self._groups[key] = {
            "count": 0 if row is None else row["count"],
            "last": when,
            "title": without_secrets(title[:LONGEST_TITLE]),
            "traceback": without_secrets(text.strip()),
        }
        return key

    def status(self) -> list[FailureRow]:
        """The groups, for a snapshot: the latest first. Rows are replaced, and never changed."""
        return list(reversed(self._groups.values()))


def _title(text: str) -> str:
    """The line of a traceback that names the error: the last one that is not indented, without its notes."""
    lines = text.splitlines()
    return next((line for line in reversed(lines) if line[:1] not in ("", " ")), lines[-1] if lines else "?")
