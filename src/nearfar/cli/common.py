"""Code that all programs share: logging, stopping by signals, and the limit of open files."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self, TextIO

from nearfar.cli.exits import Exit, leave
from nearfar.errors import (
    AddressError,
    CoordinatorLost,
    KeysError,
    NotAdmitted,
    PoolBroken,
    ProducerLost,
    QueueLost,
)
from nearfar.net import resources
from nearfar.readable import json_line, readable

LOOK = 0.25
"""Seconds between two checks for a signal while a program waits for a host."""


def add_logging_options(
    parser: argparse.ArgumentParser, *, progress: bool = False, report: bool = False
) -> None:
    """Add ``--log-format``, ``--color``, ``--quiet`` and ``--verbose``, which every service has.

    `progress`: and ``--progress``; `report`: and ``--json``, for a program with a result.
    """
    group = parser.add_argument_group("messages")
    if report:
        add_json_option(group)
    if progress:
        group.add_argument(
            "--progress",
            choices=("auto", "bar", "plain", "off"),
            default="auto",
            metavar="HOW",
            help="bar, plain (a line every 10 seconds), off, or auto: a bar on a terminal, else lines",
        )
    group.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        metavar="FORMAT",
        help="text, or json: one object on each line",
    )
    add_color_option(group)
    level = group.add_mutually_exclusive_group()
    level.add_argument(
        "-q", "--quiet", action="store_true", help="print only warnings and errors; no progress"
    )
    level.add_argument("-v", "--verbose", action="store_true", help="print details for finding errors, too")


def add_json_option(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``--json``."""
    parser.add_argument(
        "--json", action="store_true", help="print the result as one JSON object, and nothing else"
    )


def add_color_option(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``--color``."""
    parser.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        metavar="WHEN",
        help="auto (on a terminal, unless NO_COLOR is set), always or never",
    )


def in_color(choice: str, stream: TextIO | None = None) -> bool:
    """Whether `stream` (default: standard error) gets colors, by ``--color`` and the environment
    (no-color.org)."""
    if choice != "auto":
        return choice == "always"
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    stream = sys.stderr if stream is None else stream
    return not plain and stream is not None and stream.isatty()


def set_up_logging(options: argparse.Namespace) -> None:
    """Send this process's log records to standard error, according to the options of
    `add_logging_options`."""
    level = logging.WARNING if options.quiet else logging.DEBUG if options.verbose else logging.INFO
    handler = StderrHandler()
    text = TextFormatter(color=in_color(options.color))
    handler.setFormatter(JsonFormatter() if options.log_format == "json" else text)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Once: not again in the processes that this one starts.
    for said in vars(options).pop("renamed", ()):
        logging.getLogger("nearfar").warning("%s", said)


class StderrHandler(logging.Handler):
    """Writes to the present `sys.stderr`, so that lines and live bars do not mix."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)


class TextFormatter(logging.Formatter):
    """Only the message, and a traceback if there is one. Text from outside in a message, such as a server's
    answer or a peer's name, is escaped: it cannot move the cursor, nor add a line."""

    def __init__(self, *, color: bool = False) -> None:
        """`color`: warnings in yellow, errors in red."""
        super().__init__()
        self._color = color

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802, it is logging's
        said = readable(record.message)
        if not self._color or record.levelno < logging.WARNING:
            return said
        return f"\x1b[{31 if record.levelno >= logging.ERROR else 33}m{said}\x1b[0m"

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return readable(super().formatException(ei), keep="\n")


class JsonFormatter(logging.Formatter):
    """One JSON object in each line: ``time`` (UTC, ISO 8601), ``level``, ``event``, ``message``, other
    fields.

    A record may have an event and fields: ``extra={"event": "saved", "fields": {"size": 5}}``. The default
    event is the logger's name.
    """

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", record.name),
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return json_line(getattr(record, "fields", {}) | said)


def timestamp(moment: float) -> str:
    """A time in seconds since the epoch, as UTC in ISO 8601."""
    from datetime import UTC, datetime  # few programs write such lines

    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")


def announce(message: str, event: str) -> None:
    """Log `message` at once, even from a signal handler.

    A handler may interrupt a write to `sys.stderr`, and Python refuses reentrant writes to that stream. So
    this writes to the file descriptor, in the configured format.
    """
    record = logging.LogRecord("nearfar", logging.WARNING, "", 0, message, None, None)
    record.event = event
    handlers = logging.getLogger().handlers or [logging.Handler()]
    with contextlib.suppress(OSError):  # the reader has closed it
        os.write(2, f"{handlers[0].format(record)}\n".encode(errors="replace"))


class StopRequest:
    """Handles SIGINT, SIGTERM and SIGHUP: the first asks the program to stop, the second exits at once.

    Use it as a context manager in the main thread, around everything that must be closed properly; inside,
    the program checks `requested` between two steps, or waits. It uses no Event: a handler that sets one can
    deadlock on the lock of the thread that it interrupted.

    A signal within `ECHO` seconds of the first counts as the same: timeout(1) sends it to the process, and
    then to its whole group. A program started with SIGHUP ignored, as by nohup(1), ignores it.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    ECHO = 0.1

    def __init__(
        self,
        wake: Callable[[], None] = lambda: None,
        *,
        leave: Callable[[int], object] = leave,
        shows: Callable[[], bool] = lambda: False,
    ) -> None:
        """`wake` is called at the first signal, in the handler: it must not block nor take a lock; `shows`,
        too: it returns whether the program itself shows that it stops, so that no message is needed."""
        self.signum: int | None = None
        self._wake = wake
        self._leave = leave
        self._shows = shows
        self._bell = -1
        self._echo_until = 0.0
        self._before: dict[int, signal.Handlers | int | Callable[[int, FrameType | None], object] | None] = {}

    @property
    def requested(self) -> bool:
        """True once a signal was received."""
        return self.signum is not None

    @property
    def exit_code(self) -> int:
        """The exit code for the received signal; `Exit.OK` if none was received."""
        return Exit.OK if self.signum is None else 128 + self.signum

    def tell(self, wake: Callable[[], None]) -> None:
        """Call `wake` at the first signal; at once, if it was received already."""
        self._wake = wake
        if self.requested:
            wake()

    def reaches(self, look: Callable[[float], bool]) -> bool:
        """Call `look` with a time limit, in seconds, until it returns true (True), or a signal is received
        (False)."""
        while not self.requested:
            if look(LOOK):
                return True
        return False

    def handle(self, signum: int, frame: FrameType | None = None) -> None:
        """The signal handler; a program may call it to stop as by a signal."""
        if self.requested:
            if time.monotonic() >= self._echo_until:
                self._leave(128 + signum)
            return
        self._echo_until = time.monotonic() + self.ECHO
        self.signum = signum
        if not self._shows():
            announce("stopping: finishing the current work (again: exit at once)", "stopping")
        os.eventfd_write(self._bell, 1)
        self._wake()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to `timeout` seconds (None: for ever) for the first signal; return `requested`."""
        select.select([self._bell], [], [], timeout)
        return self.requested

    def __enter__(self) -> Self:
        self._bell = os.eventfd(0)
        for signum in self.SIGNALS:
            if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:
                self._before[signum] = signal.signal(signum, self.handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        os.close(self._bell)


def start_tracker() -> None:
    """Start multiprocessing's resource tracker so that it lives as long as this program.

    It ignores SIGINT and SIGTERM, but would die of a terminal's SIGHUP, and Python would warn. It silently
    removes the resources of a program that is killed, or exits at once.
    """
    from multiprocessing import resource_tracker  # few programs need it

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # the tracker inherits the mask
    options = ["ignore:resource_tracker:UserWarning"]
    sys.warnoptions += options  # its interpreter gets these options
    try:
        resource_tracker.ensure_running()
    finally:
        del sys.warnoptions[-len(options) :]
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def why(error: Exception) -> str:
    """The reason of an error, for the user: of an `OSError` the file and the text, without the number."""
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror.lower()
        return readable(f"{error.filename}: {reason}" if error.filename else reason)
    return readable(str(error), keep="\n")


def complain(program: str, error: Exception) -> int:
    """Print the reason of an error that ends `program`, and return its exit code."""
    print(f"nearfar {program}: {why(error)}", file=sys.stderr)
    return exit_code(error)


def exit_code(error: BaseException) -> Exit:
    """The exit code of a program that ends with this error."""
    if isinstance(error, NotAdmitted):
        return Exit.UNTRUSTED
    if isinstance(error, QueueLost | ProducerLost | CoordinatorLost):
        return Exit.LOST
    return Exit.FAILED if isinstance(error, PoolBroken) else Exit.USAGE


REPORTED = (AddressError, KeysError, QueueLost, ProducerLost, PoolBroken)
"""Errors of nearfar that end a program with `complain`."""
LEAST = 64
"""Descriptors that every program needs for a few peers."""


def lift_limit() -> str | None:
    """Raise the soft limit of open files towards the hard one; returns an error text if that is too few."""
    allowed = resources.lift_limit()
    if allowed < LEAST:
        return (
            f"only {allowed} files may be open at a time, and it takes {LEAST}: raise the limit (ulimit -n)"
        )
    return None
