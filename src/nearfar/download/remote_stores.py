"""The stores of consumers behind a queue, as a producer's `Destination`."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from nearfar.download.messages import AlreadySaved, Answer, File, Files, Offer, Open, Resume, Verdicts
from nearfar.download.model import Body, Failure, Head, Job, Partial, Reason, Saved, StreamLost
from nearfar.download.outgoing import KEEPALIVE, ROOM, RequestQueue, Upload, verdict_of
from nearfar.download.producer import Numbered, Settle
from nearfar.download.transport import RequestSender
from nearfar.download.watched import LONGEST_WAIT

LONELY = 5.0
"""Seconds without any consumer, or any worker, after which a warning is logged."""

log = logging.getLogger(__name__)


class WaitWarning:
    """Logs a warning once if workers or consumers are missing for long."""

    def __init__(self, waits_for: str, said: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._fields = {"waits_for": waits_for}
        self._said: str | None = said
        self._clock = clock
        self._since = clock()

    def look(self, come: Callable[[], object]) -> None:
        """Call `come`, which returns whether they are present, until it has returned a true value."""
        if self._said is None:
            return
        late = self._clock() - self._since >= LONELY
        here = come()
        if late and not here:
            log.warning("%s", self._said, extra={"event": "waiting", "fields": self._fields})
        if late or here:
            self._said = None


def no_consumer(clock: Callable[[], float] = time.monotonic) -> WaitWarning:
    """The warning of a producer to whose queue no consumer comes."""
    return WaitWarning("consumer", "no consumer has come to the queue yet: waiting for one", clock)


@dataclass(slots=True)
class _Round:
    """One batch, while stores are queried about it."""

    batch: Sequence[Numbered]
    asked: set[str | None] = field(default_factory=set)
    waiting: int = 0
    heard: bool = False
    """A consumer has answered."""
    missed: set[str] = field(default_factory=set)
    """Stores without a consumer when the query was sent."""
    saved: dict[int, tuple[str, Saved]] = field(default_factory=dict)
    """The file, and the store that has it, if it was addressed."""
    partials: dict[int, tuple[str, Partial]] = field(default_factory=dict)
    """The longest beginning of a file, and the store that has it."""


BATCH = 1024 * 1024
BATCH_FILES = 64
AGE = 0.010
"""Seconds that a small file waits to be batched with others."""


class RemoteStores:
    """A `Destination`: queries the stores, batches small files, and opens streams for large ones.

    A store that joins late is queried about the jobs in `ready`; those being fetched by then may be fetched
    although it has them.
    """

    waits_for = "consumer"

    def __init__(
        self, request_sender: RequestSender, *, room: int = ROOM, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`room`: bytes that may be sent and not answered. Does not close the request sender."""
        self.post = RequestQueue(request_sender, room)
        self._request_sender = request_sender
        self._clock = clock
        self._stores = request_sender.stores
        self._known: frozenset[str] = frozenset()
        """The stores seen so far."""
        self._on_saved: Callable[[int, Job, Saved], bool]
        self._refresh = False
        self.ready: deque[Numbered] = deque()
        self.partials: dict[int, tuple[str, Partial]] = {}
        self.saved: dict[int, tuple[str, Saved]] = {}
        self.pending = 0
        self._no_consumer = no_consumer(clock)
        self._files: list[File] = []
        self._settles: list[Settle] = []
        self._size = 0
        self._since: float | None = None
        self._name = os.urandom(8).hex()
        self._streams = count()
        self._uploads: set[Upload] = set()

    def begin(
        self,
        on_event: Callable[[], None],
        on_saved: Callable[[int, Job, Saved], bool],
        *,
        refresh: bool = False,
    ) -> None:
        self._request_sender.on_event = on_event
        self._on_saved = on_saved
        self._refresh = refresh

    @property
    def free_slots(self) -> bool:
        return self.post.free_slots

    def upload(self, job: Job, head: Head, settle: Settle, *, to: str = "") -> Upload:
        stream = self._stream()
        opening = Open(stream, job, head)
        return self._add(Upload(self.post, stream, opening, settle, to=self._one_of_several(to)))

    def _one_of_several(self, store: str) -> str | None:
        """`store`, if a message to any consumer might come to another one."""
        return store if store and len(self._stores()) > 1 else None

    def resume(
        self, job: Job, partial_file: Partial, to: str, settle: Settle, on_opened: Callable[[bool], None]
    ) -> Upload:
        stream = self._stream()
        opening = Resume(stream, job, partial_file.file)
        return self._add(
            Upload(self.post, stream, opening, settle, to=to, offset=partial_file.size, on_opened=on_opened)
        )

    def _stream(self) -> str:
        return f"{self._name}-{next(self._streams)}"

    def _add(self, upload: Upload) -> Upload:
        self._uploads.add(upload)
        return upload

    def send(self, job: Job, head: Head, body: Body, data: bytes, settle: Settle, *, to: str = "") -> None:
        """Send a small file with the next batch, or alone to the store `to`, if there are several."""
        file = File(job, head, body, data)
        if to and (addressee := self._one_of_several(to)) is not None:
            self.post.hold(len(data))
            self._post([file], [settle], len(data), to=addressee)
            return
        self._files.append(file)
        self._settles.append(settle)
        self._size += len(data)
        self.post.hold(len(data))
        if self._size >= BATCH or len(self._files) >= BATCH_FILES:
            self._flush()

    def turn(self) -> None:
        self._no_consumer.look(self._stores)
        self.post.turn()
        self._query_new_stores()

    def flush(self, *, last: bool = False) -> None:
        """Send the batch if it has waited long enough, or if it is the `last`: nothing is being fetched."""
        if self._uploads:
            now = self._clock()
            self._uploads = {upload for upload in self._uploads if not upload.over}
            for upload in self._uploads:
                upload.turn(now)
        if not self._files:
            return
        now = self._clock()
        if self._since is None:
            self._since = now
        if last or now - self._since >= AGE:
            self._flush(last=last)

    def patience(self) -> float:
        longest = KEEPALIVE if self._uploads else LONGEST_WAIT
        return longest if self._since is None else max(0.0, min(longest, self._since + AGE - self._clock()))

    def _flush(self, *, last: bool = False) -> None:
        files, settles, size = self._files, self._settles, self._size
        self._files, self._settles, self._size, self._since = [], [], 0, None
        self._post(files, settles, size, last=last)

    def _post(
        self,
        files: list[File],
        settles: list[Settle],
        size: int,
        *,
        last: bool = False,
        to: str | None = None,
    ) -> None:
        request = Files(tuple(files), last)
        self.post.send(request, lambda answer: _settle(settles, answer), to=to, size=size)

    # -- what is saved already ------------------------------------------------------------------------

    def offer(self, batch: Sequence[Numbered]) -> None:
        """Query the known stores; if there is none, the first that joins."""
        self.pending += len(batch)
        self._ask(_Round(batch), self._stores() or {None})

    def _query_new_stores(self) -> None:
        """Query stores that have just joined about the ready jobs."""
        stores = self._stores()
        new, self._known = stores - self._known, stores
        if new and self.ready:
            batch = tuple(self.ready)
            self.ready.clear()
            self.pending += len(batch)
            self._ask(_Round(batch), new)

    def _ask(self, asking: _Round, stores: Set[str | None]) -> None:
        asking.asked |= stores
        asking.waiting = len(stores)
        request = Offer(tuple(job for _, job in asking.batch), self._refresh)
        for store in stores:
            self.post.send(request, partial(self._answered, asking, store), to=store)

    def _answered(self, asking: _Round, store: str | None, answer: Answer) -> None:
        asking.waiting -= 1
        if isinstance(answer, StreamLost) and store is not None:
            asking.missed.add(store)
        else:
            asking.heard = True
        if isinstance(answer, AlreadySaved) and len(answer.saved) == len(asking.batch):
            for (number, _), saved in zip(asking.batch, answer.saved, strict=True):
                if saved is not None:
                    asking.saved[number] = store or "", saved
            for index, partial_file in answer.begun:
                number = asking.batch[min(index, len(asking.batch) - 1)][0]
                known = asking.partials.get(number)
                if known is None or known[1].size < partial_file.size:
                    asking.partials[number] = (store or partial_file.store, partial_file)
        if asking.waiting:
            return
        if left := self._left(asking):
            self._ask(asking, left)
        else:
            self._conclude(asking)

    def _left(self, asking: _Round) -> set[str | None]:
        """The stores still to query: after a host's return, consumers may rejoin after the query was sent."""
        stores = self._stores()
        left: set[str | None] = set(stores & asking.missed)
        asking.missed.clear()
        if None in asking.asked:
            left |= stores - asking.asked
        return left if left or asking.heard else {None}

    def _conclude(self, asking: _Round) -> None:
        self.pending -= len(asking.batch)
        for number, job in asking.batch:
            known = asking.saved.get(number)
            if known is not None and self._on_saved(number, job, known[1]):
                self.partials.pop(number, None)
                self.saved.pop(number, None)
                continue
            if known is not None:
                self.saved[number] = known
            if number in asking.partials:
                self.partials[number] = asking.partials[number]
            self.ready.append((number, job))


def _settle(settles: list[Settle], answer: Answer) -> None:
    for settle, verdict in zip(settles, _each(answer, len(settles)), strict=True):
        settle(verdict)


def _each(answer: Answer, count: int) -> tuple[Saved | Failure | StreamLost, ...]:
    match answer:
        case Verdicts(verdicts=verdicts) if len(verdicts) == len(answer.saved) == count:
            return verdicts
        case Verdicts(verdicts=verdicts):
            wrong = Failure(Reason.REJECTED, f"a consumer gave {len(verdicts)} verdicts on {count} files")
            return (wrong,) * count
        case _:
            return (verdict_of(answer),) * count
