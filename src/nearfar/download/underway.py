"""The large files that are being received, for a progress display."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import nlargest
from operator import itemgetter

from nearfar.download.model import Head, Job, LargeFile, StoreError
from nearfar.download.redact import redact_url
from nearfar.download.store.names import wanted

LARGE = 4 * 1024 * 1024
"""Bytes from which a file is shown by itself: smaller ones come and go too fast."""
MOST = 8
"""Files shown at a time: those of which most has come."""


def large_files(transfers: Iterable[tuple[Job, Head | None, int]]) -> tuple[LargeFile, ...]:
    """The large ones of `transfers`, each a job, its response, and the bytes received; sorted by name."""
    found = [
        (came, job, head)
        for job, head, came in transfers
        if head is not None and max(came, head.length or 0) >= LARGE
    ]
    shown = nlargest(MOST, found, key=itemgetter(0))
    files = [LargeFile(_name(job, head), came, head.length) for came, job, head in shown]
    return tuple(sorted(files, key=itemgetter(0)))


def _name(job: Job, head: Head) -> str:
    try:
        return "/".join(wanted(job, head))
    except StoreError:  # it will fail; until then it is shown by its URL
        return redact_url(job.url)
