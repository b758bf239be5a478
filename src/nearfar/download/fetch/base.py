"""The seam of `how bytes are fetched`: a fetcher drives many transfers in one thread, each into its sink."""

from __future__ import annotations

from typing import Protocol

from nearfar.download.model import Body, Failure, Head, Job


class Sink(Protocol):
    """Where one transfer goes. Calls come from the thread that calls `Fetcher.poll`, in this order::

    begin (chunk* | restart begin)* (done | failed)      or      failed
    """

    def begin(self, head: Head) -> None:
        """A body starts: an answer of the final URL with a status that carries a file."""

    def chunk(self, data: bytes) -> bool:
        """The next bytes, in order. False asks for a pause: no more come until `Fetcher.resume`.

        The bytes of a refused call are accepted all the same, never repeated.
        """

    def restart(self) -> None:
        """All bytes so far are void: the file changed, or a retry cannot be joined to them."""

    def done(self, body: Body) -> None:
        """The whole body came, and every length and digest that the server or the job named is right."""

    def failed(self, failure: Failure) -> None:
        """There will be no file. Bytes given before are void."""


class Fetcher(Protocol):
    """Drives transfers; not thread-safe except `wake`."""

    def add(self, job: Job, sink: Sink) -> None:
        """Start a transfer, or queue it behind a per-host limit or a parked host."""

    def resume(self, sink: Sink) -> None:
        """Undo a pause that `Sink.chunk` asked for."""

    def drop(self, sink: Sink) -> None:
        """Drop one transfer, added and not yet ended, without calling its sink again. Not inside `poll`."""

    def poll(self, timeout: float) -> None:
        """Move every transfer on; return after at most `timeout` seconds, or once something happened."""

    def wake(self) -> None:
        """Let a `poll` of another thread return now."""

    def cancel(self) -> None:
        """Drop every transfer without calling its sink again."""

    def give_back(self) -> list[Sink]:
        """Drop the transfers that only wait, with no request under way, and return their sinks. Not inside
        `poll`."""

    @property
    def hungry(self) -> bool:
        """True if more transfers could start than there are: those that wait are held up by their hosts."""

    @property
    def in_flight(self) -> int:
        """Transfers added and not yet ended."""

    def close(self) -> None:
        """Cancel everything and close every connection."""
