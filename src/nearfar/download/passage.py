"""One URL's way through a producer: from the fetcher's hands to a consumer's verdict."""

from __future__ import annotations

from collections.abc import Callable

from nearfar.download.dock import Dock
from nearfar.download.model import Body, Failure, Head, Job
from nearfar.download.upload import Upload
from nearfar.download.words import File, Lost, Verdict


class Passage:
    """The `Sink` of one transfer: gathers a small file whole, turns a large one into a stream.

    `on_end` is called once: with a verdict, with the fetcher's failure, or with `Lost` when the file must
    be fetched again. It may come before the transfer is over; its owner drops the transfer then.
    """

    def __init__(
        self, number: int, job: Job, dock: Dock, on_end: Callable[[Passage, Verdict | Lost], None]
    ) -> None:
        self.number = number
        self.job = job
        self.fetched = False
        """True once the fetcher has nothing more to say."""
        self.paused = False
        self.came = 0
        """Bytes of the present attempt."""
        self.length: int | None = None
        """Bytes of the whole file, as it was announced."""
        self._dock = dock
        self._on_end = on_end
        self._head: Head | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._upload: Upload | None = None

    @property
    def roomy(self) -> bool:
        return self._upload.roomy if self._upload else self._dock.post.roomy

    def begin(self, head: Head) -> None:
        self._head = head
        self.length = head.length

    def chunk(self, data: bytes) -> bool:
        self.came += len(data)
        if self._upload is None:
            self._gather(data)
        else:
            self._upload.write(data)
        self.paused = not self.roomy
        if self.paused and self._upload is not None:
            self._upload.push()
        return not self.paused

    def _gather(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        self._dock.gathered += len(data)
        if not self._dock.fits(self._size):
            assert self._head is not None, "a fetcher begins before it brings bytes"
            self._upload = self._dock.upload(self.job, self._head, self._settle)
            for part in self._ungather():
                self._upload.write(part)

    def _ungather(self) -> list[bytes]:
        parts, self._parts = self._parts, []
        self._dock.gathered -= self._size
        self._size = 0
        return parts

    def restart(self) -> None:
        self.came = 0
        self._ungather()
        if self._upload is not None:
            self._upload.abandon()
            self._upload = None

    def leave(self) -> None:
        """The transfer was dropped; nobody is told."""
        self.fetched = True
        self.restart()

    def done(self, body: Body) -> None:
        self.fetched = True
        if self._upload is not None:
            self._upload.finish(body)
            return
        assert self._head is not None, "a fetcher begins before it is done"
        parts = self._ungather()
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._dock.send(File(self.job, self._head, body, data), self._settle)

    def failed(self, failure: Failure) -> None:
        self.fetched = True
        self.restart()
        self._on_end(self, failure)

    def _settle(self, verdict: Verdict | Lost) -> None:
        self._ungather()
        self._on_end(self, verdict)
