"""Where fetched bytes leave: small files many to a message, large ones each on a stream of its own."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from itertools import count

from nearfar.download.model import Failure, Head, Job, Reason
from nearfar.download.post import Post
from nearfar.download.upload import Upload, verdict_of
from nearfar.download.words import Answer, File, Files, Lost, Verdict, Verdicts

SMALL = 512 * 1024
"""Bytes up to which a file waits to be whole and travels in one piece."""
GATHERING = 8 * 1024 * 1024
"""Bytes of unfinished small files in one producer; past it, even they become streams."""
BATCH = 1024 * 1024
BATCH_FILES = 64
AGE = 0.010
"""Seconds that a small file waits for company."""

Settle = Callable[[Verdict | Lost], None]


class Dock:
    """Batches small files and opens streams, for all transfers of a producer."""

    def __init__(self, post: Post) -> None:
        self.post = post
        self.gathered = 0
        """Bytes of small files that are not whole yet."""
        self._files: list[File] = []
        self._settles: list[Settle] = []
        self._size = 0
        self._since: float | None = None
        self._name = secrets.token_hex(8)
        self._streams = count()

    def fits(self, size: int) -> bool:
        """True if a file of `size` bytes so far may go on waiting to be whole."""
        return size <= SMALL and self.gathered <= GATHERING

    def upload(self, job: Job, head: Head, settle: Settle) -> Upload:
        """Open a stream for a large file."""
        return Upload(self.post, f"{self._name}-{next(self._streams)}", job, head, settle)

    def send(self, file: File, settle: Settle) -> None:
        """Send a small file with the next batch."""
        self._files.append(file)
        self._settles.append(settle)
        self._size += len(file.data)
        self.post.hold(len(file.data))
        if self._size >= BATCH or len(self._files) >= BATCH_FILES:
            self._flush()

    def turn(self, now: float) -> None:
        """Send the batch if it has waited long enough."""
        if not self._files:
            return
        if self._since is None:
            self._since = now
        if now - self._since >= AGE:
            self._flush()

    def deadline(self) -> float | None:
        """When `turn` has something to do even if nothing happens."""
        return None if self._since is None else self._since + AGE

    def _flush(self) -> None:
        files, settles, size = tuple(self._files), self._settles, self._size
        self._files, self._settles, self._size, self._since = [], [], 0, None
        self.post.send(Files(files), lambda answer: self._answered(settles, answer), size=size)

    def _answered(self, settles: list[Settle], answer: Answer) -> None:
        for settle, verdict in zip(settles, _each(answer, len(settles)), strict=True):
            settle(verdict)


def _each(answer: Answer, count: int) -> tuple[Verdict | Lost, ...]:
    match answer:
        case Verdicts(verdicts) if len(verdicts) == count:
            return verdicts
        case Verdicts(verdicts):
            wrong = Failure(Reason.REFUSED, f"a consumer gave {len(verdicts)} verdicts on {count} files")
            return (wrong,) * count
        case _:
            return (verdict_of(answer),) * count
