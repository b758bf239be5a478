"""What every program shares: exit codes, log set-up, and how a signal asks it to stop."""

from __future__ import annotations

import argparse
import json
import logging
import os
import select
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from enum import IntEnum
from types import FrameType, TracebackType
from typing import Self


class Exit(IntEnum):
    """The exit codes of every program."""

    OK = 0
    FAILED = 1
    """The program ran to its end, and some of its work failed: the counts say what."""
    USAGE = 2
    """The command line, or a file it names, cannot be used as given."""
    LOST = 3
    """A peer or the host of a queue went away and did not return in time."""
    UNTRUSTED = 4
    """The other side does not let this one in, or is not who it should be: the keys do not fit."""
    INTERRUPTED = 130
    """SIGINT: stopped in good order, and the same command goes on from here."""
    TERMINATED = 143
    """SIGTERM: the same."""


def add_logging_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--log-format``, ``--quiet`` and ``--verbose`` as every program has them."""
    group = parser.add_argument_group("messages")
    group.add_argument(
        "--log-format", choices=("text", "json"), default="text", help="json: one object a line"
    )
    level = group.add_mutually_exclusive_group()
    level.add_argument("-q", "--quiet", action="store_true", help="only warnings and errors; no progress")
    level.add_argument("-v", "--verbose", action="store_true", help="also what helps to find a fault")


def set_up_logging(options: argparse.Namespace) -> None:
    """Send this process's log records to standard error, as the options of `add_logging_options` ask."""
    level = logging.WARNING if options.quiet else logging.DEBUG if options.verbose else logging.INFO
    handler = StderrHandler()
    handler.setFormatter(
        JsonFormatter() if options.log_format == "json" else logging.Formatter("%(message)s")
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)


class StderrHandler(logging.Handler):
    """Writes to what `sys.stderr` is at that moment, so that lines and live bars do not mix."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time`` (UTC, ISO 8601), ``level``, ``event``, ``message``, and any fields.

    A record may name its event and carry fields: ``extra={"event": "saved", "fields": {"size": 5}}``.
    The event is else the logger's name.
    """

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", record.name),
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return json.dumps(getattr(record, "fields", {}) | said, ensure_ascii=False, default=str)


def announce(message: str, event: str) -> None:
    """Log `message` at once, even from a signal handler.

    A handler may interrupt a write to `sys.stderr`, and Python refuses to enter that stream twice; so
    this one goes to the file descriptor, in the format that was set up.
    """
    record = logging.LogRecord("nearfar", logging.WARNING, "", 0, message, None, None)
    record.event = event
    handlers = logging.getLogger().handlers or [logging.Handler()]
    os.write(2, f"{handlers[0].format(record)}\n".encode(errors="replace"))


class StopRequest:
    """SIGINT and SIGTERM, made polite: the first asks to stop, the second leaves at once.

    Use it as a context manager in the main thread; inside, the program looks at `requested` between two
    pieces of work, or waits. No Event, because a handler that sets one can wait for ever for the lock of the
    very thread it interrupted.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(
        self, wake: Callable[[], None] = lambda: None, *, leave: Callable[[int], object] = os._exit
    ) -> None:
        """`wake` is called at the first signal, from the handler: it must not block nor take a lock."""
        self.signum: int | None = None
        self._wake = wake
        self._leave = leave
        self._bell = -1
        self._before: dict[int, signal.Handlers | int | Callable[[int, FrameType | None], object] | None] = {}

    @property
    def requested(self) -> bool:
        """True once a first signal came."""
        return self.signum is not None

    @property
    def exit_code(self) -> int:
        """The exit code that says which signal it was; `Exit.OK` if none came."""
        return Exit.OK if self.signum is None else 128 + self.signum

    def handle(self, signum: int, frame: FrameType | None = None) -> None:
        """What a signal does; the program itself may call it to stop as if signalled."""
        if self.requested:
            self._leave(128 + signum)
            return
        self.signum = signum
        announce("stopping: finishing what is in hand (again: leave at once)", "stopping")
        os.eventfd_write(self._bell, 1)
        self._wake()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to `timeout` seconds (None: for ever) for the first signal; return `requested`."""
        select.select([self._bell], [], [], timeout)
        return self.requested

    def __enter__(self) -> Self:
        self._bell = os.eventfd(0)
        for signum in self.SIGNALS:
            self._before[signum] = signal.signal(signum, self.handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        os.close(self._bell)


def why(error: Exception) -> str:
    """What went wrong, for a person: of an `OSError` the file and the reason, without the number."""
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror.lower()
        return f"{error.filename}: {reason}" if error.filename else reason
    return str(error)
