"""A store in the process that fetches, as a producer's `Destination`."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from nearfar.download.model import Body, Failure, Head, Job, Partial, Reason, Saved, StoreError, StreamLost
from nearfar.download.producer import LONGEST_WAIT, Numbered, Settle
from nearfar.download.redact import redact_url
from nearfar.download.store.draft import Draft
from nearfar.download.store.partials import Resumption
from nearfar.download.store.store import Group, Store

COMPANY = 0.2
"""Seconds that a file waits for others to be committed with it, while others are being fetched."""

log = logging.getLogger(__name__)


class DraftFile:
    """A large file that is written as it arrives: an `OpenFile`."""

    def __init__(self, job: Job, settle: Settle, on_finished: Callable[[Draft, Settle], None]) -> None:
        self.job = job
        self.draft: Draft | None = None
        self.failure: Failure | None = None
        """Why it could not be written; its file is settled in the next turn."""
        self.resumption: Resumption | None = None
        self.on_opened: Callable[[bool], None] | None = None
        """Called once `draft` continues a partial file, or cannot."""
        self.settle = settle
        self._on_finished = on_finished

    @property
    def free_slots(self) -> bool:
        return self.failure is None

    @property
    def keeps(self) -> bool:
        return self.draft is not None and self.draft.keeps

    def write(self, data: bytes) -> None:
        if self.draft is not None:
            try:
                self.draft.write(data)
            except StoreError as error:
                self.draft, self.failure = None, error.failure

    def push(self) -> None:
        """Does nothing: no bytes are buffered."""

    def finish(self, body: Body) -> None:
        draft, self.draft = self.draft, None
        if draft is None:
            return
        try:
            draft.finish(body)
        except StoreError as error:
            joined = error.reason is Reason.CHECKSUM and body.checks is not None
            self.settle(StreamLost(joined=True) if joined else error.failure)
        else:
            self._on_finished(draft, self.settle)

    def abandon(self, *, keep: bool = False) -> None:
        draft, self.draft, self.failure, self.on_opened = self.draft, None, None, None
        if draft is None:
            return
        if keep:
            draft.release()
        else:
            draft.discard()


class LocalStore:
    """A `Destination`: saves files in groups."""

    waits_for = ""
    pending = 0
    free_slots = True

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Does not close `store`."""
        self.ready: deque[Numbered] = deque()
        self.partials: dict[int, tuple[str, Partial]] = {}
        self.saved: dict[int, tuple[str, Saved]] = {}
        self._store = store
        self._clock = clock
        self._on_event: Callable[[], None]
        self._on_saved: Callable[[int, Job, Saved], bool]
        self._group = Group(store)
        self._due = 0.0
        """When the present group must be committed, if there is one."""
        self._open: set[DraftFile] = set()

    def begin(
        self,
        on_event: Callable[[], None],
        on_saved: Callable[[int, Job, Saved], bool],
        *,
        refresh: bool = False,
    ) -> None:
        self._on_event, self._on_saved = on_event, on_saved

    def offer(self, batch: Sequence[Numbered]) -> None:
        jobs = [job for _, job in batch]
        try:
            known = self._store.known(jobs)
        except StoreError as error:
            log.warning("cannot tell what is saved already: %s", error)
            known = [None] * len(jobs)
        missing = list[Numbered]()
        for numbered, saved in zip(batch, known, strict=True):
            if saved is None or not self._on_saved(*numbered, saved):
                missing.append(numbered)
                if saved is not None:
                    self.saved[numbered[0]] = "", saved
        self.ready.extend(missing)
        try:
            found, _ = self._store.unfinished([job for _, job in missing])
        except StoreError as error:
            log.warning("cannot tell what is begun already: %s", error)
            return
        for (number, _), partial_file in zip(missing, found, strict=True):
            if partial_file is not None:
                self.partials[number] = "", partial_file

    def send(self, job: Job, head: Head, body: Body, data: bytes, settle: Settle, *, to: str = "") -> None:
        try:
            draft = self._store.put(job, head, body, data)
        except StoreError as error:
            settle(error.failure)
        else:
            self._whole(draft, settle)

    def upload(self, job: Job, head: Head, settle: Settle, *, to: str = "") -> DraftFile:
        file = self._file(job, settle)
        try:
            file.draft = self._store.open(job, head)
        except StoreError as error:
            file.failure = error.failure
        return file

    def resume(
        self, job: Job, partial_file: Partial, to: str, settle: Settle, on_opened: Callable[[bool], None]
    ) -> DraftFile:
        file = self._file(job, settle)
        file.on_opened = on_opened
        try:
            file.resumption = self._store.resume(job, partial_file.file, self._on_event)
        except StoreError as error:
            log.warning("%s cannot be continued: %s", redact_url(job.url), error)
        if file.resumption is None:
            self._on_event()
        return file

    def _file(self, job: Job, settle: Settle) -> DraftFile:
        file = DraftFile(job, settle, self._whole)
        self._open.add(file)
        return file

    def turn(self) -> None:
        if self._open:
            for file in tuple(self._open):
                self._look_at(file)

    def _look_at(self, file: DraftFile) -> None:
        """Open a partial file that was read again; settle a file that could not be written."""
        on_opened, resumption = file.on_opened, file.resumption
        if on_opened is not None and (resumption is None or resumption.done):
            file.on_opened = None
            if resumption is not None:
                try:
                    file.draft = self._store.resumed(file.job, resumption)
                except StoreError as error:
                    log.warning("%s cannot be continued: %s", redact_url(file.job.url), error)
            on_opened(file.draft is not None)
        if file.failure is not None:
            failure, file.failure = file.failure, None
            file.settle(failure)
        if file.draft is None and file.on_opened is None:
            self._open.discard(file)

    def _whole(self, draft: Draft, settle: Settle) -> None:
        """All bytes of a file are in its draft."""
        if not self._group:
            self._due = self._clock() + COMPANY
        self._group.add(draft, settle, draft.size)

    def flush(self, *, last: bool = False) -> None:
        if self._group and (last or self._group.full or self._clock() >= self._due):
            self._group.commit()

    def patience(self) -> float:
        return max(0.0, self._due - self._clock()) if self._group else LONGEST_WAIT
