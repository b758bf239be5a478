"""One worker process, as its parent sees it."""

from __future__ import annotations

import os
import select
import signal
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext, suppress
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from time import sleep
from typing import Any, NamedTuple

from nearfar.errors import ProtocolError
from nearfar.net.validation import shown
from nearfar.serialization.names import without_stdin
from nearfar.serialization.pickles.calls import dump_bare
from nearfar.serialization.pickles.pickler import name_unreachable_classes
from nearfar.serialization.shared_memory import INLINE
from nearfar.worker import channel, main
from nearfar.worker.channel import (
    READY,
    Buffer,
    ChannelEnd,
    Extra,
    ResultBuffer,
    make_pair,
    scatter,
    unpack_first,
    unread,
)
from nearfar.worker.lifetime import lifeline

REAPED_WITHIN = 5.0
"""Seconds that a process may take from its last sign of life to its end."""
PAUSES = (0.0, 0.02, 0.2)
"""Seconds to wait for a killed fork server's end, before it is tried again whether another can be started."""

Answer = Sequence[Any]
"""Status, blob and buffers; or a value alone, which is there as it is."""


class Answers(NamedTuple):
    """The next tasks ran, in `spent` seconds together."""

    answers: Sequence[Answer]
    spent: float


class WorkerHandle:
    """A process, its channel, and its progress. For one thread at a time."""

    def __init__(
        self, name: str, context: BaseContext, worker_config: main.WorkerConfig, *, daemon: bool
    ) -> None:
        """Make everything but the process itself: `start` does. Raises `OSError`."""
        self.worker_config = worker_config
        self.name = name
        self.ready = False
        self.retiring = False
        self.fault = ""
        """Why its messages are not read any more."""
        with ExitStack() as on_error, ExitStack() as passed_on:
            ours, self.theirs = make_pair()
            self.end = ChannelEnd(ours)
            on_error.callback(self.theirs.close)
            on_error.callback(self.end.close)
            hold, self._lifeline = lifeline()
            passed_on.callback(os.close, hold)
            on_error.callback(os.close, self._lifeline)
            memory = channel.create()
            passed_on.callback(os.close, memory)
            self._outbox = ResultBuffer(os.dup(memory))
            on_error.callback(self._outbox.close)
            self.end.send([], fds=[hold, memory])
            on_error.pop_all()
        self._sent: deque[tuple[int, Extra]] = deque()
        """The messages that the worker has not answered in full: how many tasks are left, and the `extra`."""
        self._given = 0
        """Messages that were given and not taken back."""
        self._answered = 0
        self._seen = 0
        """How many of the answers in the result buffer an earlier look has found."""
        self.pidfd = -1
        self._signalled: set[int] = set()
        self._forks = context.get_start_method() == "fork"
        self.process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=main.main,
            args=(self.theirs, worker_config),
            name=f"nearfar-worker-{worker_config.name}",
            daemon=daemon,
        )

    def start(self) -> None:
        """Start the process. Raises `OSError`."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until the child can take it
        try:
            if self._forks:
                name_unreachable_classes()
            with nullcontext() if self._forks else without_stdin():
                self._launch()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        assert self.process.pid is not None
        self.pidfd = os.pidfd_open(self.process.pid)

    def _launch(self) -> None:
        """A fork server that is killed just now is followed by another, once it is seen to have ended."""
        for pause in PAUSES:
            try:
                return self.process.start()
            except (EOFError, ConnectionError):
                sleep(pause)
        try:
            return self.process.start()
        except (EOFError, ConnectionError) as error:
            raise OSError(
                "the fork server ends whenever a process is asked of it. Python's message above says why; "
                'often a program starts processes outside `if __name__ == "__main__":`'
            ) from error

    @property
    def pid(self) -> int:
        return self.process.pid or 0

    @property
    def gathering(self) -> bool:
        """True if it may have answers that it has not sent yet."""
        return bool(self._sent) and self._sent[0][0] > 1 and not self.fault

    def give(
        self,
        client: str,
        function: bytes,
        mode: int,
        blobs: Sequence[Any],
        beside: Sequence[Sequence[Buffer]],
    ) -> None:
        """Send a batch; `beside`: the buffers of each task. To a worker that is dead it counts as sent and
        never read.

        Raises `OSError` or `MemoryError` where there is no room for large parts; nothing was sent then.
        """
        inline = blobs
        parts: list[Buffer] = []
        if any(beside) or max(map(len, blobs)) > INLINE:
            inline = []
            for blob, buffers in zip(blobs, beside, strict=True):
                if not buffers and len(blob) <= INLINE:
                    inline.append(blob)
                else:
                    inline.append(len(buffers))
                    parts.append(blob)
                    parts.extend(buffers)
        extra = None
        with suppress(BrokenPipeError, ConnectionResetError):
            try:
                extra = self.end.send([client, function, mode, *inline], parts)
            except (OverflowError, ValueError):  # some bare argument is not for msgpack
                inline = [dump_bare(each) if type(each) is tuple else each for each in inline]
                extra = self.end.send([client, function, mode, *inline], parts)
        self._given += 1
        self._sent.append((len(blobs), extra))

    def receive(self) -> Answers | None:
        """Read one message: answers, or None if it was the first, by which the worker is ready.

        Raises `BlockingIOError` if there is none, `EOFError` at the end of the line.
        """
        message = self.end.receive()
        if message is None:
            raise EOFError
        (number, *rest), parts, fds = message
        while fds:  # no worker has a reason to send more than a segment's, which was taken out
            os.close(fds.pop())
        if number == READY:
            if self.ready:
                raise ProtocolError("it is ready twice")
            self.ready = True
            return None
        spent, *answers = rest
        return self._take(number, answers, spent / 1e6, parts)

    def look(self) -> Answers | None:
        """Unsent answers of a worker that runs another task, as the last look found them."""
        first, count, content = self._outbox.look()
        known = self._seen - first
        self._seen = first + count
        if first > self._answered:  # those before them are still on the line
            return None
        if count <= 0 or min(known, count) <= self._answered - first:
            return None
        return self._take(first, unpack_first(content, min(known, count)), 0.0, iter(()))

    def recall(self) -> int | None:
        """Take back the last message if it has not read it; returns how many that were.

        None, and nothing was taken, while it has not begun all the others: while we take the first of
        two, it might read the second, and its answers would be taken for those of the first.
        """
        if self._given - self._outbox.begun() > 1:
            return None
        try:
            return self._take_back(unread(self.theirs))
        except OSError:  # nothing was taken; the next look may be luckier
            return None

    def inherit(self) -> int:
        """Take back the messages that it had not begun when it died; returns how many."""
        with suppress(OSError):  # it only drops what no process will read
            unread(self.theirs)
        return self._take_back(self._given - self._outbox.begun())

    def _take_back(self, count: int) -> int:
        self._given -= count
        for _ in range(count):
            self.end.take_back(self._sent.pop()[1])
        return count

    def last_words(self) -> list[Answers]:
        """All unread answers of a dead worker."""
        found: list[Answers] = []
        if self.fault:  # after an answer that is missing, no other has its place
            return found
        try:
            with suppress(OSError, EOFError):
                while True:
                    words = self.receive()
                    if words is not None:
                        found.append(words)
            first, count, content = self._outbox.look()
            if first + count > self._answered:
                found.append(self._take(first, unpack_first(content, count), 0.0, iter(())))
        except Exception as error:
            self.fault = f"said what cannot be read ({shown(repr(error))})"
        return found

    def kill(self) -> None:
        """End it at once."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def signal(self, signum: int) -> None:
        """Send it `signum`, as its process object does, unless that was done before."""
        if signum not in self._signalled and self.process.is_alive():
            self._signalled.add(signum)
            self.retiring = self.retiring or not self.ready
            self.process.kill() if signum == signal.SIGKILL else self.process.terminate()

    def retire(self) -> None:
        """Let it end by itself; it has nothing to do."""
        self.retiring = True
        with suppress(OSError):
            self.end.socket.shutdown(2)

    def reap(self) -> str:
        """Wait for the end of a process that has ended, or is about to; says how it did."""
        code = None
        with suppress(OSError):  # it has ended, whatever the system says of it
            self.ends_within(REAPED_WITHIN)
            if self.process.exitcode is None:  # a fork server is about to tell it
                self.process.join(REAPED_WITHIN)
            code = self.process.exitcode
            self.process.join(0)
        return self.fault or describe_exit(code)

    def ends_within(self, timeout: float) -> bool:
        """Wait for its end. Not as `join` does: the sentinel of that may be open in the child of another
        thread that forked at the same time, and then shows no end before that child's.
        """
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def abort(self) -> None:
        """Undo `start`, also if it failed half-way."""
        if self.process.pid is not None:
            self.process.kill()
            self.process.join()
        self.close()

    def close(self) -> None:
        """Release everything. Its process has been reaped."""
        self.let_go()
        # Not the process object itself: a program that holds it may still ask it how its process ended.
        popen = getattr(self.process, "_popen", None)
        if popen is not None:
            popen.close()

    def let_go(self, *, keep_theirs: bool = False) -> None:
        """Close every descriptor, but not the process: also in a child that inherited them by a fork."""
        self.end.close()
        if not keep_theirs:
            self.theirs.close()
        for descriptor in (self._lifeline, self.pidfd):
            if descriptor >= 0:
                with suppress(OSError):  # it is closed all the same
                    os.close(descriptor)
        self._lifeline = self.pidfd = -1
        self._outbox.close()

    def _take(self, number: int, answers: Sequence[Any], spent: float, parts: Any) -> Answers:
        """Answers from number `number` on, without those that were taken before.

        Raises `ProtocolError` where some are missing before, and what their reading raises.
        """
        if number > self._answered:
            raise ProtocolError(f"answer {number} comes where {self._answered} is next")
        fresh = answers[max(0, self._answered - number) :]
        if fresh and set(map(len, fresh)) != _BARE and _kind(fresh) is int:
            fresh = [(status, *scatter(payload, parts)) for status, payload, _ in fresh]
        self._answered += len(fresh)
        left = len(fresh)
        while left > 0 and self._sent:
            unanswered, extra = self._sent.popleft()
            if unanswered > left:
                self._sent.appendleft((unanswered - left, extra))
            left -= unanswered
        return Answers(fresh, spent)


def describe_exit(code: int | None) -> str:
    """What became of a process, as the end of a sentence about it."""
    if code is None:
        return "ended in an unknown way"
    if code >= 0:
        return f"exited with code {code}"
    with suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


_BARE = {1}
"""How long answers are that are values alone."""


def _kind(answers: Sequence[Any]) -> type:
    """Whether the payloads of those that are not bare are blobs, or numbers of buffers.

    Raises `ProtocolError`, and what comes of answers of any other form.
    """
    others = [answer for answer in answers if len(answer) != 1]
    kind = type(others[0][1])
    if kind is int and len(others) != len(answers):
        raise ProtocolError("a large answer among others")
    for status, payload, _ in others:
        if type(payload) is not kind or status not in (0, 1):
            raise ProtocolError("an answer of the wrong kind")
    if kind is not bytes and kind is not int:
        raise ProtocolError("an answer without a payload")
    return kind
