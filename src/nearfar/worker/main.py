"""A worker process: it reads batches, runs their tasks in order and answers, until its channel is closed."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from nearfar.coordinator.task import Mode, TaskStatus
from nearfar.net import process
from nearfar.serialization.shared_memory import INLINE
from nearfar.serialization.tracebacks import set_place
from nearfar.worker.channel import NUMBERS, READY, Buffer, ChannelEnd, ResultBuffer, is_bare, join, scatter
from nearfar.worker.codec import WorkerCodec, WorkerCodecs
from nearfar.worker.lifetime import (
    Inherited,
    Surroundings,
    WorkerInfo,
    hang_on,
    inherit,
    let_go_of_the_parents,
    set_current,
)

PROMPTLY = 0.0005
"""Seconds after which an answer is sent without waiting for more."""
INITIALIZER_FAILED = 66
"""The exit code of a worker whose initializer raised."""
BARE = -1
"""Replaces a status: the answer is packed already."""
_NOTHING: dict[str, Any] = {}

# Plain numbers: comparing with an attribute of an enum costs as much as the rest of a small task.
_CALL, _MAP, _STARMAP, _PREPARE = map(int, (Mode.CALL, Mode.MAP, Mode.STARMAP, Mode.PREPARE))


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """The configuration of a worker process at its start."""

    slot: int
    name: str
    host: str
    main_of: str | None
    """The client whose `__main__` this process has: by a fork, or by importing it again."""
    far: bool
    """Whether its tasks are pickled so that other machines can read them."""
    inherited: Inherited | None = None
    """An initializer that cannot be pickled."""
    surroundings: Surroundings | None = None
    """The state of the thread that made its pool, if it is forked."""
    plain: tuple[str, ...] | None = None
    """What may be called, if it reads no pickle; see `nearfar.serialization.plain.Allowed`."""


def main(line: socket.socket, worker_config: WorkerConfig) -> None:
    """The target function of a worker process."""
    let_go_of_the_parents()
    if worker_config.surroundings is None:
        work(line, worker_config)
    else:
        worker_config.surroundings.run(work, line, worker_config)


def work(line: socket.socket, worker_config: WorkerConfig) -> None:
    """Run batches until `line` is closed."""
    # Ctrl-C is for the program at the terminal. No SIG_IGN: a task's own commands would inherit it.
    signal.signal(signal.SIGINT, lambda signum, frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if deaf := sys.modules.get("nearfar.worker.forkserver_preload"):  # only if the program asked for it
        deaf.stay_deaf()
    else:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    set_current(WorkerInfo(worker_config.slot, worker_config.name, worker_config.host, os.getpid()))
    set_place(f"worker {worker_config.name} (pid {os.getpid()} on {worker_config.host})")
    inherit(worker_config.inherited)
    with line:
        end = ChannelEnd(line)
        hello = end.receive()
        if hello is None:
            return
        lifeline, memory = hello[2]
        hang_on(lifeline)
        worker = TaskRunner(end, ResultBuffer(memory), worker_config)
        end.send([READY])
        while (message := end.receive()) is not None:
            (client, function, mode, *payloads), parts, _ = message
            worker.run(client, function, mode, payloads, parts)


class TaskRunner:
    """Runs batches. An answer is either sent, or stored in the result buffer, before the next task starts."""

    def __init__(self, end: ChannelEnd, outbox: ResultBuffer, worker_config: WorkerConfig) -> None:
        self._end = end
        self._outbox = outbox
        self._codecs = WorkerCodecs(worker_config.main_of, far=worker_config.far, plain=worker_config.plain)
        self._harmless = False
        """Whether the last call could not be read, and has certainly run no code."""
        self._pack = end.pack
        self._sent = 0
        self._since = 0.0
        self._forked = False
        process.watch(self)

    def forget_parent(self) -> None:
        """In a child that a task forked: it sends no answers, and ends with the task."""
        self._forked = True

    def run(
        self, client: str, function: bytes, mode: int, payloads: Sequence[Any], parts: Iterator[Buffer]
    ) -> None:
        """Run one batch."""
        self._outbox.begin()
        self._since = perf_counter()
        self._harmless = False
        last = len(payloads) - 1
        for index, payload in enumerate(payloads):
            blob, buffers = (payload, ()) if type(payload) is tuple else scatter(payload, parts)
            if not index:
                codec = self._codecs.choose(client, blob)
            status, answer, large = self._one(codec, client, function, mode, blob, buffers)
            if self._forked:
                sys.exit()
            del blob, buffers
            if large or len(answer) > INLINE:
                self._flush()
                try:
                    self._send_large(status, answer, large)
                except (OSError, MemoryError) as error:
                    self._send_packed(self._pack((TaskStatus.ERROR, codec.dump_error(error), ())))
                continue
            packed = answer if status == BARE else self._pack((status, answer, ()))
            if last == 0:
                self._send_packed(packed)
                break
            if not self._outbox.add(packed):
                self._flush()
                if not self._outbox.add(packed):
                    self._send_packed(packed)
            if index == last or perf_counter() - self._since > PROMPTLY:
                self._flush()
        if mode == Mode.PREPARE and status == TaskStatus.ERROR and not self._harmless:
            sys.exit(INITIALIZER_FAILED)

    def _one(
        self,
        codec: WorkerCodec,
        client: str,
        function: bytes,
        mode: int,
        blob: Any,
        buffers: Sequence[Buffer],
    ) -> tuple[int, Buffer, Sequence[Buffer]]:
        """Status, payload and buffers; or BARE, and the packed answer."""
        try:
            value: Any
            if type(blob) is tuple:
                func, items, keywords = codec.find(function), blob, _NOTHING
            else:
                func, items, keywords = codec.load(function, mode, blob, buffers, client)
        except BaseException as error:
            if self._forked:
                raise
            self._harmless = codec.harmless
            return TaskStatus.ERROR, codec.dump_error(error), ()
        try:
            # Not `map` or `starmap`: if `func` raises StopIteration, they end as if there were no more items.
            if mode == _MAP:
                value = [func(each) for each in items]
            elif mode == _STARMAP:
                value = [func(*each) for each in items]
            else:
                value = func(*items, **keywords)
        except BaseException as error:
            if self._forked:
                raise
            return TaskStatus.ERROR, codec.dump_error(error), ()
        if mode == _CALL and codec.bare and (type(value) in NUMBERS or is_bare(value)):
            try:
                return BARE, self._pack((value,)), ()
            except (OverflowError, ValueError):  # an integer, or a string, that msgpack refuses
                pass
        try:
            if mode == _PREPARE:
                value = None
            answer, large = codec.dump_result(value)
        except BaseException as error:
            return TaskStatus.ERROR, codec.dump_unsendable(error, value), ()
        return TaskStatus.VALUE, answer, large

    def _flush(self) -> None:
        if len(self._outbox):
            self._send_packed(self._outbox.content(), len(self._outbox))

    def _send_packed(self, answers: bytes, count: int = 1) -> None:
        end = self._end
        extra = end.extra() if end.receives else None
        since, self._since = self._since, perf_counter()
        head = self._pack((extra, self._sent, int((self._since - since) * 1e6)))
        end.send_packed(join(head, count, answers))
        self._sent += count
        self._outbox.empty(self._sent)

    def _send_large(self, status: int, answer: Buffer, large: Sequence[Buffer]) -> None:
        since, self._since = self._since, perf_counter()
        spent = int((self._since - since) * 1e6)
        self._end.send([self._sent, spent, (status, len(large), ())], [answer, *large])
        self._sent += 1
        self._outbox.empty(self._sent)
