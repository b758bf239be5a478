"""What a dashboard shows: the status of one program, as ``/api/status`` sends it.

Each program fills the sections that it has. Times are in seconds: `time` and `started` since the epoch, all
others durations. Sizes are in bytes. `docs/dashboard.md` documents every field, which a test compares.
"""

from __future__ import annotations

from typing import TypedDict


class Durations(TypedDict, total=False):
    """How long tasks ran. A batch of short tasks counts with the mean of its tasks."""

    buckets: list[int]  # tasks since the start, by duration: see `nearfar.dashboard.figures.BOUNDS`
    sum: float  # of all durations
    window: float  # what the percentiles are of: the tasks of the last so many seconds
    p50: float
    p90: float
    p99: float


class WorkerRow(TypedDict, total=False):
    """One worker process."""

    name: str
    host: str
    pid: int
    tasks: int  # answered
    rate: float  # tasks a second, lately
    runs: str  # module:function, or nothing
    seconds: float  # for which it has been running this
    memory: int | None  # resident; None: not known (yet)


class FailureRow(TypedDict):
    """Failures of one kind: of one type of error, raised at one place."""

    count: int
    last: float  # the time of the last one
    title: str  # its last line
    traceback: str  # of the last one


class ConsumerRow(TypedDict):
    """One consumer of a queue."""

    name: str
    taken: int  # items that its program has, and has not acknowledged
    ahead: int  # items delivered ahead of that
    delivered: int  # items since it came


class LetterRow(TypedDict):
    """A dead letter; its content is not shown."""

    items: int
    bytes: int
    producer: str
    attempts: int
    history: list[str]  # the reason of each failure


class QueueStatus(TypedDict, total=False):
    """A hosted queue."""

    address: str
    counts: dict[str, int]  # as `FarQueue.counts`
    rates: dict[str, float]  # of its counters, a second, lately
    oldest: float  # seconds since the oldest item that is not settled came; 0 if there is none
    consumers: list[ConsumerRow]
    dead_letters: list[LetterRow]  # the latest


class HostRow(TypedDict, total=False):
    """One host of a download."""

    host: str
    active: int  # transfers that run
    waiting: int  # transfers that wait for the host
    parked: float  # seconds until the host is asked again, because it deferred requests
    saved: int
    failed: dict[str, int]  # by reason
    bytes: int  # received
    rate: float  # bytes a second, lately


class FileRow(TypedDict):
    """A file that is being received."""

    name: str  # its URL without secrets
    size: int | None  # announced
    bytes: int  # received


class Status(TypedDict, total=False):
    """A program."""

    program: str
    address: str  # of what it hosts, or is connected to
    host: str
    pid: int
    version: str
    started: float
    time: float  # of this snapshot
    ready: bool  # whether it can do its work
    waits_for: str  # the peer that it waits for, if it waits for one
    counts: dict[str, int]
    rates: dict[str, float]  # of its counters, a second, lately
    reasons: dict[str, int]  # failed downloads
    task_seconds: Durations
    workers: list[WorkerRow]
    failures: list[FailureRow]
    queue: QueueStatus
    hosts: list[HostRow]
    files: list[FileRow]


COUNTERS = {
    "done": "tasks that workers answered",
    "raised": "tasks that raised an error",
    "lost": "tasks lost with their worker, or killed after their timeout",
    "stale": "answers to tasks that had been given up",
    "put off": "messages that waited for room for their arguments",
    "malformed": "messages that could not be read or contradict the protocol",
    "nameless": "messages of connections without a name",
    "refused": "peers refused",
    "turned away": "connections whose key was not admitted",
    "stored": "items put",
    "settled": "items done",
    "redelivered": "items delivered again after a consumer failed or was lost",
    "dead": "items that became dead letters",
    "dropped": "items dropped by an immediate shutdown",
    "undeliverable": "items whose addressee was absent",
    "late": "acknowledgements that came too late",
    "urls": "lines of input read",
    "saved": "files saved",
    "already": "files that were saved before",
    "failed": "downloads that failed",
    "received": "bytes of saved files and of those being received",
}
"""The counts that only grow, with their meaning; all others go up and down."""
GAUGES = {
    "agents": "agents connected",
    "clients": "clients connected",
    "workers": "worker processes",
    "running": "workers that run a task",
    "waiting": "tasks that wait for a worker, or lines of input that wait",
    "given": "tasks that workers have and have not answered",
    "held": "tasks that an earlier coordinator may have started",
    "held back": "clients that do not take their results",
    "bytes": "bytes kept: arguments and results, or items that wait",
    "unsettled": "items that are not done",
    "size": "items that no program has taken",
    "maxsize": "items that may wait, 0 for any number",
    "unsettled bytes": "bytes of items that consumers have",
    "ends": "clients of the queue",
    "producers": "producers connected",
    "helpers": "helpers of producers connected",
    "consumers": "consumers connected",
    "lost producers": "producers lost and not replaced",
    "underway bytes": "bytes of files received by producers and not put yet",
    "underway parts": "millionths of such files",
    "unread letters": "dead letters that no client has read",
    "expected": "lines of input, once all are known",
    "left": "lines of input without an ending",
    "streams": "large files being received",
}
