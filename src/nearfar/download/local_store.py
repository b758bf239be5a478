"""A store in the process that saves: the `Destination` of a producer there, and the files of a consumer."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from nearfar.download.model import Body, Failure, Head, Job, Partial, Reason, Saved, StoreError, StreamLost
from nearfar.download.redact import redact_url
from nearfar.download.watched import LONGEST_WAIT

if TYPE_CHECKING:
    from nearfar.download.producer import Numbered, Settle
    from nearfar.download.store.draft import Draft
    from nearfar.download.store.partials import Resumption
    from nearfar.download.store.store import Store

COMPANY = 0.2
"""Seconds that a file waits for others to be committed with it, while others are being fetched."""

log = logging.getLogger(__name__)


class DraftFile:
    """A large file that is written as it arrives: an `OpenFile`."""

    def __init__(self, job: Job, settle: Settle, owner: LocalStore) -> None:
        self.job = job
        self.draft: Draft | None = None
        self.failure: Failure | None = None
        """Why it could not be written; its file is settled in the next turn."""
        self.resumption: Resumption | None = None
        self.on_opened: Callable[[bool], None] | None = None
        """Called once `draft` continues a partial file, or cannot."""
        self.settle = settle
        self._owner = owner

    @property
    def free_slots(self) -> bool:
        return self.failure is None

    @property
    def keeps(self) -> bool:
        return self.draft is not None and self.draft.keeps

    def write(self, data: bytes | memoryview) -> None:
        if self.draft is not None:
            try:
                self.draft.write(data)
            except StoreError as error:
                self.fail(error)

    def fail(self, error: StoreError) -> None:
        """The file cannot be written."""
        self.draft, self.failure = None, error.failure
        self._owner.look_at(self)

    def push(self) -> None:
        """Does nothing: no bytes are buffered."""

    def finish(self, body: Body) -> None:
        draft, self.draft = self.draft, None
        if draft is None:
            return
        try:
            draft.finish(body)
        except StoreError as error:
            # Parts that do not fit together say nothing about the file: it is fetched from the start.
            joined = error.reason is Reason.CHECKSUM and body.checks is not None
            self.settle(StreamLost(joined=True) if joined else error.failure)
        else:
            self._owner.add(draft, self.settle)

    def abandon(self, *, keep: bool = False) -> None:
        draft, self.draft, self.failure, self.on_opened = self.draft, None, None, None
        if draft is None:
            return
        if keep:
            draft.release()
        else:
            draft.discard()


GROUP = 256
"""Files of a commit at most; each keeps a descriptor open until then."""
GROUP_SIZE = 8 * 1024 * 1024
"""Bytes of a commit of small files: half of a producer's unanswered bytes, so that it need not pause."""


class LocalStore:
    """A `Destination`: saves files in groups. Consumers use it for the files that producers send them."""

    waits_for = ""
    pending = 0
    free_slots = True

    def __init__(
        self, store: Store, *, company: float = COMPANY, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`company`: seconds that a file waits for others to be committed with it. Does not close `store`."""
        self.ready: deque[Numbered] = deque()
        self.partials: dict[int, tuple[str, Partial]] = {}
        self.saved: dict[int, tuple[str, Saved]] = {}
        self.group: dict[Draft, Settle] = {}
        """Complete files, to be committed together."""
        self._store = store
        self._company = company
        self._clock = clock
        self._on_event: Callable[[], None] = lambda: None
        self._on_saved: Callable[[int, Job, Saved], bool]
        self._size = 0
        """Bytes of the group."""
        self._due = 0.0
        """When the group must be committed, if there is one."""
        self._noted: set[DraftFile] = set()
        """The files that `turn` has to look at."""

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
        missing: list[Numbered] = []
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

    def send(
        self,
        job: Job,
        head: Head,
        body: Body,
        data: bytes | memoryview,
        settle: Settle,
        *,
        to: str = "",
    ) -> None:
        try:
            draft = self._store.put(job, head, body, data)
        except StoreError as error:
            settle(error.failure)
        else:
            self.add(draft, settle)

    def upload(self, job: Job, head: Head, settle: Settle, *, to: str = "") -> DraftFile:
        file = DraftFile(job, settle, self)
        try:
            file.draft = self._store.open(job, head)
        except StoreError as error:
            file.fail(error)
        return file

    def resume(
        self, job: Job, partial_file: Partial, to: str, settle: Settle, on_opened: Callable[[bool], None]
    ) -> DraftFile:
        return self.reopen(job, partial_file.file, settle, on_opened)

    def reopen(self, job: Job, name: str, settle: Settle, on_opened: Callable[[bool], None]) -> DraftFile:
        """As `resume`, of the partial file that the store calls `name`."""
        file = DraftFile(job, settle, self)
        file.on_opened = on_opened
        self.look_at(file)
        try:
            file.resumption = self._store.resume(job, name, self._on_event)
        except StoreError as error:
            log.warning("%s cannot be continued: %s", redact_url(job.url), error)
        if file.resumption is None:
            self._on_event()
        return file

    def look_at(self, file: DraftFile) -> None:
        """Settle `file` in the next turn, or open it once its bytes were read again."""
        self._noted.add(file)

    @property
    def looks(self) -> bool:
        """Whether `turn` has files to look at."""
        return bool(self._noted)

    def turn(self) -> None:
        if self._noted:
            for file in tuple(self._noted):
                self._look(file)

    def _look(self, file: DraftFile) -> None:
        on_opened, resumption = file.on_opened, file.resumption
        if on_opened is not None and resumption is not None and not resumption.done:
            return
        self._noted.discard(file)
        if on_opened is not None:
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

    def add(self, draft: Draft, settle: Settle) -> None:
        """Save a file with the next group: all its bytes are in `draft`."""
        if not self.group:
            self._due = self._clock() + self._company
        self.group[draft] = settle
        self._size += draft.size

    def flush(self, *, last: bool = False) -> None:
        if self.group and (last or self.due):
            self.commit()

    @property
    def due(self) -> bool:
        """Whether the group waits for no other file."""
        return (
            not self.group
            or len(self.group) >= GROUP
            or self._size >= GROUP_SIZE
            or self._clock() >= self._due
        )

    def commit(self) -> None:
        """Save the files of the group, and settle them."""
        group, self.group, self._size = self.group, {}, 0
        for draft, verdict in self._store.commit(group):
            group[draft](verdict)

    def patience(self) -> float:
        return max(0.0, self._due - self._clock()) if self.group else LONGEST_WAIT
