"""What bars and a dashboard show of a download: the files that are being received, and each host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from heapq import nlargest
from operator import itemgetter
from typing import TYPE_CHECKING

from nearfar.download.fetch.base import Fetcher
from nearfar.download.model import (
    Ending,
    Failure,
    FileNow,
    Head,
    HostNow,
    Job,
    LargeFile,
    Report,
    StoreError,
    Underway,
)
from nearfar.download.redact import redact_url
from nearfar.download.store.names import wanted
from nearfar.download.urls import UrlError, parse_url

if TYPE_CHECKING:
    from nearfar.dashboard.model import FileRow, HostRow
    from nearfar.download.account import Ended

LONGEST_WAIT = 1.0
"""Seconds between two iterations of a loop when nothing happens, for what is shown."""
MOST_HOSTS, MOST_FILES = 100, 50
"""Rows that are shown: the hosts with the most transfers and bytes, the files with the most bytes."""
MOST_KNOWN = 10_000
"""Hosts that are counted; those of further hosts are counted together."""
OTHERS = "(other hosts)"

LARGE = 4 * 1024 * 1024
"""Bytes from which a file has a bar of its own: smaller ones come and go too fast."""
MOST_BARS = 8
"""Bars at a time: of the files of which most has come."""

Transfer = tuple[Job, Head | None, int]
"""A job, its response, and the bytes that came."""


def underway(transfers: Collection[Transfer], waits_for: str) -> Underway:
    """The progress of `transfers`."""
    size, files = 0, 0.0
    for _, head, came in transfers:
        size += came
        if came and head is not None and head.length:
            files += min(1.0, came / head.length)
    return Underway(size, files, waits_for, _large_files(transfers))


def _large_files(transfers: Iterable[Transfer]) -> tuple[LargeFile, ...]:
    """The large files of `transfers` that have a bar, sorted by name."""
    found = [
        (came, job, head)
        for job, head, came in transfers
        if head is not None and max(came, head.length or 0) >= LARGE
    ]
    shown = nlargest(MOST_BARS, found, key=itemgetter(0))
    files = [LargeFile(_name(job, head), came, head.length) for came, job, head in shown]
    return tuple(sorted(files, key=itemgetter(0)))


def _name(job: Job, head: Head) -> str:
    try:
        return "/".join(wanted(job, head))
    except StoreError:  # it will fail; until then it is shown by its URL
        return redact_url(job.url)


def report(fetcher: Fetcher | None, transfers: Iterable[Transfer]) -> Report:
    """What is under way in one process, for a dashboard."""
    found = () if fetcher is None else fetcher.hosts()
    hosts = merged([Report(tuple(each._replace(host=_usual(each.host)) for each in found))]).hosts
    moving = ((job.url, head.length if head else None, came) for job, head, came in transfers if came)
    return Report(
        tuple(nlargest(MOST_HOSTS, hosts, key=lambda host: (host.active, host.parked, host.waiting))),
        tuple(
            FileNow(redact_url(url), size, came)
            for url, size, came in nlargest(MOST_FILES, moving, key=lambda each: each[1] or each[2])
        ),
    )


def merged(reports: Iterable[Report]) -> Report:
    """The reports of several processes as one."""
    hosts: dict[str, HostNow] = {}
    files: list[FileNow] = []
    for each in reports:
        files += each.files
        for host in each.hosts:
            name, active, waiting, parked = hosts.get(host.host, HostNow(host.host, 0, 0, 0.0))
            hosts[name] = HostNow(
                name, active + host.active, waiting + host.waiting, max(parked, host.parked)
            )
    return Report(tuple(hosts.values()), tuple(files))


class _Tally:
    __slots__ = ("failed", "saved", "size")

    def __init__(self) -> None:
        self.saved = 0
        self.failed: Counter[str] = Counter()
        self.size = 0


class HostTally:
    """How the jobs of each host ended."""

    def __init__(self) -> None:
        self._hosts: dict[str, _Tally] = {}

    def ended(self, job: Job, ended: Ended) -> None:
        """Count one."""
        host = host_of(job.url)
        tally = self._hosts.get(host)
        if tally is None:
            if len(self._hosts) >= MOST_KNOWN:
                host = OTHERS
            tally = self._hosts.setdefault(host, _Tally())
        if isinstance(ended.what, Failure):
            tally.failed[str(ended.what.reason)] += 1
        elif ended.ending is Ending.SAVED:
            tally.saved += 1
            tally.size += ended.what.size

    def rows(self, now: Report) -> list[HostRow]:
        """The hosts that are shown, those with transfers first."""
        came: Counter[str] = Counter()
        for file in now.files:
            came[host_of(file.name)] += file.came
        active = {host.host: host for host in now.hosts}
        others = (name for name in self._hosts if name not in active)
        room = max(0, MOST_HOSTS - len(active))
        names = [*active, *nlargest(room, others, key=lambda name: self._hosts[name].size)]
        return [self._row(name, active.get(name), came[name]) for name in names[:MOST_HOSTS]]

    def _row(self, name: str, now: HostNow | None, came: int) -> HostRow:
        tally = self._hosts.get(name) or _Tally()
        _, active, waiting, parked = now or HostNow(name, 0, 0, 0.0)
        return {
            "host": name,
            "active": active,
            "waiting": waiting,
            "parked": parked,
            "saved": tally.saved,
            "failed": dict(tally.failed),
            "bytes": tally.size + came,
        }


def host_of(url: str) -> str:
    """The host in a URL, with its port unless that is a usual one."""
    try:
        return _usual(parse_url(url).host)
    except UrlError:
        return "(no host)"


def _usual(place: str) -> str:
    return place.removesuffix(":443").removesuffix(":80")


def file_rows(now: Report) -> list[FileRow]:
    """The files that are being received."""
    return [{"name": name, "size": size, "bytes": came} for name, size, came in now.files[:MOST_FILES]]
