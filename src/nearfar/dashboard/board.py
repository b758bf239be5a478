"""Where a program's loop publishes its status, and the dashboard's threads read it.

The loop builds a new snapshot once a second, and hands it over. It never waits for a reader: whatever is
derived from snapshots (rates, percentiles, JSON) is computed in the thread that asks for it first.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, cast

from nearfar.dashboard.figures import percentile
from nearfar.dashboard.model import COUNTERS, Durations, QueueStatus, Status

EVERY = 1.0
"""Seconds between two snapshots."""
HISTORY = 300
"""Snapshots of which the counts are kept, for charts."""
LATELY = 10
"""Snapshots over which rates are taken."""
RECENT = 60
"""Snapshots over which percentiles are taken."""
PARTS = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
GROWING = {"workers": ("name", "tasks"), "hosts": ("host", "bytes")}
"""The sections whose rows have rates: the name of a row, and the figure that grows."""

log = logging.getLogger(__name__)


class _Sample(NamedTuple):
    """What is kept of a snapshot for charts."""

    time: float
    counts: Mapping[str, int]
    durations: Durations | None
    oldest: float | None
    """The age of a queue's oldest item, in seconds."""


class Snapshot:
    """A published status, and what is derived from it. Nothing in it changes after it was made."""

    def __init__(
        self, number: int, made: float, recent: Sequence[Status], history: Sequence[_Sample]
    ) -> None:
        self.number = number
        self.made = made
        """When it was published (`time.monotonic`)."""
        self._recent = recent
        self._history = history

    @cached_property
    def status(self) -> Status:
        """The status, with rates and percentiles."""
        status, before = self._recent[-1], self._recent[0]
        elapsed = status["time"] - before["time"]
        made: dict[str, Any] = dict(status)
        made["rates"] = _rates(before["counts"], status["counts"], elapsed)
        if "queue" in status:
            earlier = before.get("queue", status["queue"])["counts"]
            rates = _rates(earlier, status["queue"]["counts"], elapsed)
            made["queue"] = status["queue"] | {"rates": rates}
        for section, (key, figure) in GROWING.items():
            if section in status:
                rows = {row[key]: row[figure] for row in cast(Any, before.get(section, ()))}
                made[section] = [
                    row | {"rate": _rate(rows.get(row[key], 0), row[figure], elapsed)}
                    for row in cast(Any, status)[section]
                ]
        if (durations := status.get("task_seconds")) is not None:
            made["task_seconds"] = self._percentiles(durations)
        return cast(Status, made)

    def _percentiles(self, now: Durations) -> Durations:
        buckets, window = self._lately(len(self._history) - 1)
        if not any(buckets):  # nothing lately: show all
            buckets, window = now["buckets"], self._recent[-1]["time"] - self._recent[-1]["started"]
        p50, p90, p99 = (percentile(buckets, part) for part in PARTS.values())
        return now | {"window": window, "p50": p50, "p90": p90, "p99": p99}

    def _lately(self, at: int) -> tuple[list[int], float]:
        """The tasks in each bucket in the `RECENT` snapshots before one of the history, and their seconds."""
        now, before = self._history[at], self._history[max(0, at - RECENT)]
        if now.durations is None:
            return [], 0.0
        buckets = now.durations["buckets"]
        earlier = (0,) * len(buckets) if before.durations is None else before.durations["buckets"]
        lately = [count - past for count, past in zip(buckets, earlier, strict=True)]
        return lately, now.time - before.time

    @cached_property
    def json(self) -> bytes:
        """`status` as JSON on one line."""
        return json.dumps(self.status, separators=(",", ":")).encode()

    def history(self) -> bytes:
        """The counts of the last minutes as JSON: a list of times, and by name a list of values (null: it
        was not known then); also the percentiles of durations, and the age of the oldest item."""
        names = sorted({name for sample in self._history for name in sample.counts})
        series = {name: [sample.counts.get(name) for sample in self._history] for name in names}
        times = [sample.time for sample in self._history]
        said: dict[str, Any] = {"time": times, "counts": series, "live": {}}
        if "oldest" in self._recent[-1].get("queue", ()):
            said["live"]["oldest"] = [sample.oldest for sample in self._history]
        if "task_seconds" in self._recent[-1]:
            lately = [self._lately(at)[0] for at in range(len(self._history))]
            said["live"] |= {
                name: [percentile(buckets, part) if any(buckets) else None for buckets in lately]
                for name, part in PARTS.items()
            }
        return json.dumps(said, separators=(",", ":")).encode()


def _rates(before: Mapping[str, int], now: Mapping[str, int], elapsed: float) -> dict[str, float]:
    return {name: _rate(before.get(name, 0), now[name], elapsed) for name in now if name in COUNTERS}


def _rate(before: float, now: float, elapsed: float) -> float:
    return max(0.0, now - before) / elapsed if elapsed > 0 else 0.0


class Board:
    """The status of one program. One thread publishes; any thread reads, and holds the lock only briefly."""

    def __init__(self, program: str, address: str = "") -> None:
        self.due = 0.0
        """When the loop should publish next (`time.monotonic`)."""
        self._facts: Status = {
            "program": program,
            "address": address,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": sys.modules["nearfar"].__version__,  # imported before its parts
            "started": time.time(),
        }
        self._changed = threading.Condition()
        self._recent: deque[Status] = deque(maxlen=LATELY + 1)
        self._history: deque[_Sample] = deque(maxlen=HISTORY)
        self._number = 0
        self._latest: Snapshot | None = None
        self._made = 0.0
        self._closed = self._failed = False

    def look(self, make: Callable[[], Status], now: float) -> None:
        """Publish what `make` returns, if that is due; it is not changed after that. Raises no `Exception`:
        the dashboard must not end the loop that it shows."""
        if now < self.due:
            return
        self.due = now + EVERY
        try:
            self.publish(make(), now)
        except Exception:
            if not self._failed:
                log.exception("the dashboard's status could not be made (further failures are not logged)")
            self._failed = True

    def publish(self, found: Status, now: float) -> None:
        """Publish a status; it must have `counts`."""
        status = self._facts | found | {"time": time.time()}
        with self._changed:
            self._number += 1
            self._recent.append(status)
            queue = status.get("queue", QueueStatus(counts={}))
            counts = status["counts"] | queue["counts"]
            sample = _Sample(status["time"], counts, status.get("task_seconds"), queue.get("oldest"))
            self._history.append(sample)
            self._latest = None
            self._made = now
            self._changed.notify_all()

    def latest(self) -> Snapshot | None:
        """The present snapshot; None before the first."""
        with self._changed:
            return self._look()

    def wait(self, after: int, timeout: float) -> Snapshot | None:
        """A snapshot with a higher number than `after`; None if none came within `timeout` seconds, or the
        board was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._number > after, timeout)
            return self._look() if self._number > after and not self._closed else None

    @property
    def closed(self) -> bool:
        """Whether the dashboard has ended."""
        return self._closed

    def close(self) -> None:
        """End every `wait`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _look(self) -> Snapshot | None:
        """With the lock."""
        if self._latest is None and self._number:
            self._latest = Snapshot(self._number, self._made, tuple(self._recent), tuple(self._history))
        return self._latest
