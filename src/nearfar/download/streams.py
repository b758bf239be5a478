"""The large files that a consumer receives, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

from nearfar.download.messages import ChunkAck, Finish, Open, StreamChunk
from nearfar.download.model import Failure, Reason, StoreError, StreamLost
from nearfar.download.store.draft import Draft
from nearfar.download.store.store import Store
from nearfar.download.watched import Transfer

FORGOTTEN = 900.0
"""Seconds without a message after which a stream counts as abandoned. A producer that is only slow receives
`StreamLost`, and sends the file again."""
SILENT = 3.0
"""Seconds without a message after which another producer may continue the file of a stream. A producer that
lives sends one more often (`outgoing.BEAT`), except over a line that needs longer for a chunk."""


@dataclass(slots=True)
class _Stream:
    draft: Draft
    heard: float


class Streams:
    """Open streams by their id. `now` is a time in seconds of any one clock."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._streams: dict[str, _Stream] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def __contains__(self, stream: str) -> bool:
        return stream in self._streams

    def transfers(self) -> list[Transfer]:
        """The files that are being received."""
        drafts = (stream.draft for stream in self._streams.values())
        return [(draft.job, draft.head, draft.size) for draft in drafts]

    def silent(self, now: float) -> bool:
        """Whether the producer of any stream may be dead."""
        return any(now - stream.heard > SILENT for stream in self._streams.values())

    def of(self, files: Set[tuple[bytes, str | None]]) -> list[str]:
        """The streams that another producer could continue, of files with these keys (`Draft.key`) and names
        (`Job.name`)."""
        drafts = {name: stream.draft for name, stream in self._streams.items()}
        return [name for name, each in drafts.items() if each.keeps and (each.key, each.job.name) in files]

    def let_go_of(self, names: Iterable[str], now: float) -> None:
        """Release those of the streams whose producer is silent."""
        for name in names:
            if now - self._streams[name].heard > SILENT:
                self.abandon(name, keep=True)

    def adopt(self, name: str, draft: Draft, now: float) -> None:
        """Add a stream for the rest of a partial file."""
        self._streams[name] = _Stream(draft, now)

    def let_go(self, files: Set[str], now: float) -> None:
        """Release those of the partial `files` that no producer feeds any more, for another one."""
        self.let_go_of([name for name, each in self._streams.items() if each.draft.recorded in files], now)

    def open(self, request: Open, now: float) -> Failure | None:
        """Start a draft; return None on success. A second request for the same stream starts it again."""
        self.abandon(request.stream)
        try:
            draft = self._store.open(request.job, request.head)
        except StoreError as error:
            return error.failure
        self._streams[request.stream] = _Stream(draft, now)
        return None

    def write(self, request: StreamChunk, now: float) -> ChunkAck | StreamLost | Failure:
        stream = self._streams.get(request.stream)
        if stream is None:
            return StreamLost()
        stream.heard = now
        if request.offset != stream.draft.size:
            self.abandon(request.stream)
            detail = f"{stream.draft.size} bytes came, the next say they follow {request.offset}"
            return Failure(Reason.TRUNCATED, detail)
        try:
            stream.draft.write(request.data)
        except StoreError as error:
            del self._streams[request.stream]
            return error.failure
        return ChunkAck()

    def finish(self, request: Finish) -> Draft | StreamLost | Failure:
        """Return the finished draft, and remove the stream."""
        stream = self._streams.pop(request.stream, None)
        if stream is None:
            return StreamLost()
        try:
            stream.draft.finish(request.body)
        except StoreError as error:
            # Parts that do not fit together say nothing about the file: it is fetched from the start.
            joined = error.reason is Reason.CHECKSUM and request.body.checks is not None
            return StreamLost(joined=True) if joined else error.failure
        return stream.draft

    def abandon(self, stream: str, *, keep: bool = False) -> None:
        """End a stream. `keep`: its bytes may be continued by another one."""
        known = self._streams.pop(stream, None)
        if known is None:
            return
        if keep:
            known.draft.release()
        else:
            known.draft.discard()

    def release_kept(self) -> None:
        """End the streams that another transfer can continue."""
        for name in [name for name, stream in self._streams.items() if stream.draft.keeps]:
            self.abandon(name, keep=True)

    def forget_silent(self, now: float) -> None:
        """Abandon the streams without a message for `FORGOTTEN` seconds."""
        silent = [name for name, stream in self._streams.items() if now - stream.heard > FORGOTTEN]
        for name in silent:
            self.abandon(name, keep=True)
