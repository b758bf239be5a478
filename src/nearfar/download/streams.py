"""The large files that are coming in at a consumer, each a draft that grows."""

from __future__ import annotations

from dataclasses import dataclass

from nearfar.download.model import Failure, Reason
from nearfar.download.store import Draft, Store, StoreError
from nearfar.download.words import Chunk, Finish, Lost, Open, Written

FORGOTTEN = 900.0
"""Seconds without a word after which a stream's producer counts as gone. Were it only slow, it would hear
`Lost` and send the file again."""


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

    @property
    def size(self) -> int:
        """Bytes that have come of all."""
        return sum(stream.draft.size for stream in self._streams.values())

    @property
    def files(self) -> float:
        """How many whole files they amount to, where lengths are announced."""
        drafts = [stream.draft for stream in self._streams.values()]
        return sum(min(1.0, each.size / each.head.length) for each in drafts if each.head.length)

    def open(self, request: Open, now: float) -> Failure | None:
        """Start a draft; None if that went well. A second request for the same stream starts it afresh."""
        self.abandon(request.stream)
        try:
            draft = self._store.open(request.job, request.head)
        except StoreError as error:
            return error.failure
        self._streams[request.stream] = _Stream(draft, now)
        return None

    def write(self, request: Chunk, now: float) -> Written | Lost | Failure:
        stream = self._streams.get(request.stream)
        if stream is None:
            return Lost()
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
        return Written()

    def finish(self, request: Finish) -> Draft | Lost | Failure:
        """Hand out the draft, finished: the stream is over."""
        stream = self._streams.pop(request.stream, None)
        if stream is None:
            return Lost()
        try:
            stream.draft.finish(request.body)
        except StoreError as error:
            return error.failure
        return stream.draft

    def abandon(self, stream: str) -> None:
        """Drop a stream and what came of it."""
        known = self._streams.pop(stream, None)
        if known is not None:
            known.draft.discard()

    def forget_silent(self, now: float) -> None:
        """Abandon the streams that were not heard of for `FORGOTTEN` seconds."""
        silent = [name for name, stream in self._streams.items() if now - stream.heard > FORGOTTEN]
        for name in silent:
            self.abandon(name)
