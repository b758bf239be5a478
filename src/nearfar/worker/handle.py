"""One worker process, in its parent."""

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
    Payload,
    ResultBuffer,
    make_pair,
    scatter,
    unpack_first,
    unread,
)
from nearfar.worker.lifetime import lifeline

REAPED_WITHIN = 5.0
"""Seconds that a process may take to end after its channel was closed."""
PAUSES = (0.0, 0.02, 0.2)
"""Seconds to wait for the end of a killed fork server before each attempt to start another."""

Answer = Sequence[Any]
"""Status, blob and buffers; or only a bare value."""


class Answers(NamedTuple):
    """The answers of the next tasks, which took `spent` seconds together."""

    answers: Sequence[Answer]
    spent: float


class WorkerHandle:
    """A process, its channel, and its progress. For one thread at a time."""

    def __init__(
        self, name: str, context: BaseContext, worker_config: main.WorkerConfig, *, daemon: bool
    ) -> None:
        """Make everything except the process, which `start` makes. Raises `OSError`."""
        self.worker_config = worker_config
        self.name = name
        self.ready = False
        self.retiring = False
        self.fault = ""
        """Why its messages are not read any more, if they are not."""
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
        """Messages not answered in full: the number of their tasks without an answer, and the `extra`."""
        self._given = 0
        """Messages that were sent and not recalled."""
        self._answered = 0
        self._seen = 0
        """How many answers the last reading of the result buffer found."""
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
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until the child can handle it
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
        """Start the process; if the fork server was just killed, try again once its end is noticed."""
        for pause in PAUSES:
            try:
                return self.process.start()
            except (EOFError, ConnectionError):
                sleep(pause)
        try:
            return self.process.start()
        except (EOFError, ConnectionError) as error:
            raise OSError(
                "the fork server ends whenever it is asked for a process. Python's message above says why; "
                'often a program starts processes outside `if __name__ == "__main__":`'
            ) from error

    @property
    def pid(self) -> int:
        return self.process.pid or 0

    @property
    def gathering(self) -> bool:
        """True if it may have answers that it has not sent yet."""
        return bool(self._sent) and self._sent[0][0] > 1 and not self.fault

    def give(self, client: str, function: bytes, mode: int, payloads: Sequence[Payload]) -> None:
        """Send a batch. If the worker is dead, it counts as sent and never read.

        Raises `OSError` or `MemoryError` if there is no room for large parts; then nothing was sent.
        """
        inline: list[Any] = []
        parts: list[Buffer] = []
        for payload in payloads:
            blob, buffers = payload.blob, payload.buffers
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
            except (OverflowError, ValueError):  # msgpack refuses a bare argument
                inline = [dump_bare(each) if type(each) is tuple else each for each in inline]
                extra = self.end.send([client, function, mode, *inline], parts)
        self._given += 1
        self._sent.append((len(payloads), extra))

    def receive(self) -> Answers | None:
        """Read one message: answers, or None for the first message, which reports that the worker is ready.

        Raises `BlockingIOError` if there is none, `EOFError` if the worker closed the channel.
        """
        message = self.end.receive()
        if message is None:
            raise EOFError
        (number, *rest), parts, fds = message
        while fds:  # a worker sends only a segment's descriptor, which was removed already
            os.close(fds.pop())
        if number == READY:
            if self.ready:
                raise ProtocolError("it is ready twice")
            self.ready = True
            return None
        spent, *answers = rest
        return self._take(number, answers, spent / 1e6, parts)

    def look(self) -> Answers | None:
        """Answers that the worker, in its next task, has not sent, as the last reading found them."""
        first, count, content = self._outbox.look()
        known = self._seen - first
        self._seen = first + count
        if first > self._answered:  # earlier ones are still in the socket
            return None
        if count <= 0 or min(known, count) <= self._answered - first:
            return None
        return self._take(first, unpack_first(content, min(known, count)), 0.0, iter(()))

    def recall(self) -> int | None:
        """Recall the last message if it has not been read; returns the number of messages recalled.

        None, without any effect, while the worker has not begun all earlier ones: while we removed the first
        of two, it might read the second, and its answers would count as those of the first.
        """
        if self._given - self._outbox.begun() > 1:
            return None
        try:
            return self._take_back(unread(self.theirs))
        except OSError:  # nothing was recalled; a later attempt may succeed
            return None

    def inherit(self) -> int:
        """Recall the messages that it had not begun when it died; returns their number."""
        with suppress(OSError):  # it only discards messages that no process will read
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
        if self.fault:  # if one answer is missing, the order of the others is unknown
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
            self.fault = f"sent an unreadable message ({shown(repr(error))})"
        return found

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def signal(self, signum: int) -> None:
        """Send it `signum`, unless it was sent before."""
        if signum not in self._signalled and self.process.is_alive():
            self._signalled.add(signum)
            self.retiring = self.retiring or not self.ready
            self.process.kill() if signum == signal.SIGKILL else self.process.terminate()

    def retire(self) -> None:
        """Let the idle process end by itself."""
        self.retiring = True
        with suppress(OSError):
            self.end.socket.shutdown(2)

    def reap(self) -> str:
        """Wait for the end of a process that has ended, or is about to; returns how it ended."""
        code = None
        with suppress(OSError):  # it has ended, despite the error
            self.ends_within(REAPED_WITHIN)
            if self.process.exitcode is None:  # the fork server is about to report it
                self.process.join(REAPED_WITHIN)
            code = self.process.exitcode
            self.process.join(0)
        return self.fault or describe_exit(code)

    def ends_within(self, timeout: float) -> bool:
        """Wait for its end. Not by `join`: its sentinel may be open in a child that another thread forked at
        the same time, and then becomes ready only when that child ends, too.
        """
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def abort(self) -> None:
        """Undo `start`, even if it failed half-way."""
        if self.process.pid is not None:
            self.process.kill()
            self.process.join()
        self.close()

    def close(self) -> None:
        """Release everything. Its process has been reaped."""
        self.let_go()
        # Not the process object itself: the program may have it, and read its exit code later.
        popen = getattr(self.process, "_popen", None)
        if popen is not None:
            popen.close()

    def let_go(self, *, keep_theirs: bool = False) -> None:
        """Close every descriptor, without ending the process: also in a forked child that inherited them."""
        self.end.close()
        if not keep_theirs:
            self.theirs.close()
        for descriptor in (self._lifeline, self.pidfd):
            if descriptor >= 0:
                with suppress(OSError):  # it is closed in any case
                    os.close(descriptor)
        self._lifeline = self.pidfd = -1
        self._outbox.close()

    def _take(self, number: int, answers: Sequence[Any], spent: float, parts: Any) -> Answers:
        """Answers from number `number` on, without those that were read before.

        Raises `ProtocolError` if earlier ones are missing, and what reading them raises.
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
    """How a process ended, as the end of a sentence about it."""
    if code is None:
        return "ended in an unknown way"
    if code >= 0:
        return f"exited with code {code}"
    with suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


_BARE = {1}
"""The lengths of answers that are only a bare value."""


def _kind(answers: Sequence[Any]) -> type:
    """Whether the payloads of answers that are not bare are blobs, or numbers of buffers.

    Raises `ProtocolError`, and other errors for answers of any other form.
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
