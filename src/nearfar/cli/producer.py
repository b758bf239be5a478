"""The producer: downloads URLs and puts the files on a queue; with --queue local, also saves them.

With --pool, the workers of a pool download and put the files, on any number of machines.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from nearfar.cli.common import StopRequest, set_up_logging, start_tracker, why
from nearfar.cli.exits import Exit, tell
from nearfar.cli.options import (
    add_fetching,
    add_queue_options,
    describe_place,
    fetch_options,
    pool_place,
    positive,
    queue_address,
    warn,
)
from nearfar.cli.progress import Counts, make_progress, number
from nearfar.download.account import Account, Failures, InputJobs, Summary, is_own
from nearfar.download.fetch.factory import make_fetcher
from nearfar.download.fetch.options import FetchOptions
from nearfar.download.input import Arguments, DescriptorSource, Intake, Source
from nearfar.download.local import LocalDownload
from nearfar.download.local_process import ProcessPlan
from nearfar.download.model import StoreError, Underway
from nearfar.errors import AddressError, KeysError, NotAdmitted, PoolBroken, QueueLost
from nearfar.net.memory import keep_freed_memory

if TYPE_CHECKING:
    from nearfar import Executor
    from nearfar.download.far_transport import FarRequestSender
    from nearfar.download.pooled import Pooled
    from nearfar.download.producer import Producer


SHOWN_EVERY = 0.1
"""Seconds between two updates of the progress."""

_NOTHING = Underway()

log = logging.getLogger("nearfar.producer")


class ProducerRun:
    """Use it as a context manager; leaving it closes everything and commits the failures file."""

    def __init__(self, source: Source, failures: Path, *, quiet: bool, log_format: str) -> None:
        self.account = Account()
        self.intake = Intake(source)
        self.summary = Summary()
        """The counts, after `close`."""
        self._failures = Failures(failures)
        self.job_source = InputJobs(self.intake, self.account, self._failures, self._show)
        self._progress = make_progress(quiet=quiet, log_format=log_format)
        self._shown = 0.0
        self._all_counted = True
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Count the unfinished URLs, and close. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self.intake.close()
        left, self._all_counted = self.intake.rest()
        self.account.pass_by(left)
        self.account.check()
        self.summary = self.account.summary()
        self._progress.close(self._counts(self.summary), time.monotonic())
        self._failures.close()

    def report(self) -> None:
        """Print the counts, the failures file, and how to continue."""
        tell(self.summary)
        if not self._all_counted:
            tell("the rest of the input was not read")
        if self._failures.trouble is not None:
            tell(f"failures: {self._failures.path} could not be written ({why(self._failures.trouble)})")
        elif self._failures.count and self._failures.passing:
            tell(f"failures: written to {self._failures.path}")
        elif self._failures.count:
            tell(f"failures: {self._failures.path} (try them again with -i {self._failures.path})")
        if pages := self.job_source.pages:
            kind, _ = pages.most_common(1)[0]
            tell(
                f"{number(pages.total(), 'web page')} saved where a name promises another kind of file"
                f" (--expect '{kind}' would refuse such)"
            )
        if self.summary.left or not self._all_counted:
            tell("to go on, run the same command again: nothing that is saved is fetched twice")
        log.debug("%s", self.summary, extra={"event": "summary", "fields": self._fields()})

    def _fields(self) -> dict[str, object]:
        now = self.summary
        failed = {str(reason): count for reason, count in now.failed.items()}
        return {
            "urls": now.urls,
            "saved": now.saved,
            "already": now.already,
            "failed": failed,
            "left": now.left,
            "size": now.size,
        }

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._shown >= SHOWN_EVERY:
            self._shown = now
            self._progress.show(self._counts(self.account.summary(), self.job_source.underway()), now)

    def _counts(self, summary: Summary, underway: Underway = _NOTHING) -> Counts:
        total = summary.urls + self.intake.waiting() if self.intake.ended else None
        failed = Counter({str(reason): count for reason, count in summary.failed.items()})
        size = summary.size + underway.size
        return Counts(summary.saved, summary.already, failed, size, total, underway.files, underway.waits_for)


LOCAL = "local"
LEAST_JOBS = 4
"""Transfers at a time of each process that fetches and saves, at least."""
LEAST_LINES = 8
"""And lines of input."""
FAREWELL = 30.0
"""Seconds to deliver the last messages, when all files were answered."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the producer and return its exit code (`Exit`)."""
    parser = make_parser()
    options = parser.parse_args(argv)
    set_up_logging(options)
    keep_freed_memory()
    _check(parser, options)
    warn(options)
    try:
        _check_authorities(options)
        fetching = fetch_options(options)
        source = _open_source(options)
        if source.overwritten_by(options.failures) and not is_own(options.failures):
            raise ValueError(f"{options.failures} is the input itself: name another file with --failures")
    except (ValueError, OSError) as error:
        parser.error(why(error))
    try:
        return _work(options, fetching, source)
    except (AddressError, KeysError, StoreError, OSError) as error:
        print(f"nearfar producer: {why(error)}", file=sys.stderr)
        return Exit.USAGE
    finally:
        source.close()


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("nearfar producer", description=__doc__)
    parser.add_argument("urls", nargs="*", metavar="URL")
    parser.add_argument(
        "-i", "--input", metavar="FILE", help="a line for each URL, with name=, sha256= after tabs; -: stdin"
    )
    parser.add_argument(
        "--failures",
        type=Path,
        default=Path("nearfar-failures.txt"),
        metavar="FILE",
        help="file for failed URLs, usable as -i again (%(default)s)",
    )
    add_fetching(parser.add_argument_group("fetching"))
    local = parser.add_argument_group("with --queue local")
    local.add_argument("-o", "--output", type=Path, metavar="DIR", help="where to save the files")
    local.add_argument("--overwrite", action="store_true", help="replace files that nearfar did not save")
    local.add_argument("-P", "--producers", type=positive, metavar="N", help="processes that only fetch")
    local.add_argument(
        "-C",
        "--consumers",
        type=positive,
        metavar="N",
        help="processes that only save; without -P and -C, processes do both, as many as are of use",
    )
    pool = parser.add_argument_group("with a pool")
    pool.add_argument(
        "--pool",
        type=pool_place,
        metavar="ADDRESS",
        help="let the workers of the coordinator there download; local:N: so many processes of this command."
        " Each has the options of fetching to itself, but for the limits per host, which all share; each must"
        " reach the queue at its address as given here",
    )
    add_queue_options(parser, local=True)
    return parser


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if find_spec("pycurl") is None and not isinstance(options.pool, str):
        parser.error("downloading needs pycurl: pip install 'nearfar[download]'")
    if bool(options.urls) == (options.input is not None):
        parser.error("give URLs, or -i FILE (- for standard input)")
    if (options.queue == LOCAL) != (options.output is not None):
        parser.error("--queue local needs -o DIR" if options.queue == LOCAL else "-o needs --queue local")
    if options.pool is not None and options.queue == LOCAL:
        parser.error("--pool needs a queue with an address: --queue local has processes of its own (-P N)")


def _check_authorities(options: argparse.Namespace) -> None:
    """Check the files with TLS authorities; with a coordinator, they are on the workers' machines. Raises
    `OSError`."""
    if options.cacert is not None and not isinstance(options.pool, str):
        options.cacert.open("rb").close()


def _open_source(options: argparse.Namespace) -> Source:
    """Raises `OSError`."""
    if options.input is None:
        return Arguments(options.urls)
    if options.input == "-":
        return DescriptorSource(os.dup(sys.stdin.fileno()))
    # The polling loop waits for the writer of a FIFO, because there signals are handled.
    return DescriptorSource(os.open(options.input, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))


def _work(options: argparse.Namespace, fetching: FetchOptions, source: Source) -> int:
    with ProducerRun(source, options.failures, quiet=options.quiet, log_format=options.log_format) as run:
        try:
            stop = _way(options)(options, fetching, run)
        except (QueueLost, PoolBroken) as error:
            run.close()
            print(f"nearfar producer: {why(error)}", file=sys.stderr)
            run.report()
            return Exit.UNTRUSTED if isinstance(error, NotAdmitted) else Exit.LOST
    run.report()
    if stop.requested:
        return stop.exit_code
    return Exit.OK if run.summary.complete else Exit.FAILED


def _way(
    options: argparse.Namespace,
) -> Callable[[argparse.Namespace, FetchOptions, ProducerRun], StopRequest]:
    if options.queue == LOCAL:
        return _local
    return _far if options.pool is None else _pooled


def _local(options: argparse.Namespace, fetching: FetchOptions, run: ProducerRun) -> StopRequest:
    queues = bool(options.producers or options.consumers)
    count = 1 if queues else downloaders(options, run.intake.most_lines)
    producers = (options.producers or 1) if queues else 0
    fetching = fetching._replace(connections=options.jobs // count)
    plan = ProcessPlan(
        directory=options.output,
        make_fetcher=partial(make_fetcher, fetching),
        overwrite=options.overwrite,
        downloaders=count,
        producers=producers,
        consumers=(options.consumers or 1) if queues else 0,
        jobs=fetching.connections,
        shared=max(count, producers) > 1,
        prepare=partial(set_up_logging, options),
    )
    with StopRequest() as stop:
        near = LocalDownload(plan, run.job_source, before_spawning=start_tracker)
        stop.tell(near.stop)
        near.run()
    return stop


def downloaders(options: argparse.Namespace, lines: int | None) -> int:
    """How many processes fetch and save, each with its part of the transfers that the user allows.

    `lines` of input at most, if that is known: few are not worth a second process. A rate is not divided.
    """
    most = min(_available_cpus(), options.jobs // LEAST_JOBS, options.per_host // LEAST_JOBS)
    if lines is not None:
        most = min(most, lines // LEAST_LINES)
    return 1 if options.rate else max(1, most)


def _available_cpus() -> int:
    """The number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _far(options: argparse.Namespace, fetching: FetchOptions, run: ProducerRun) -> StopRequest:
    # Imported here: a local download needs no ZeroMQ, and makes its producer in another process.
    from nearfar.download.producer import Producer

    address = queue_address(options)
    with (
        StopRequest() as stop,
        _request_sender(options, address) as request_sender,
        closing(make_fetcher(fetching)) as fetcher,
    ):
        fetcher.share(request_sender.limits)
        producer = Producer(run.job_source, fetcher, request_sender, jobs=options.jobs)
        _run(producer, request_sender, stop, hosts=options.bind is not None)
    return stop


@contextmanager
def _request_sender(options: argparse.Namespace, address: str) -> Iterator[FarRequestSender]:
    """A sender to the consumers of the queue at `address`, closed at the end of the block."""
    from nearfar.download.far_transport import open_request_sender

    request_sender = open_request_sender(
        address,
        bind=options.bind is not None,
        lanes=options.lanes,
        keys=options.keys,
        insecure=options.insecure,
        wait=options.wait,
    )
    try:
        yield request_sender
    finally:
        request_sender.close(FAREWELL)


def _run(
    work: Producer | Pooled, request_sender: FarRequestSender, stop: StopRequest, *, hosts: bool
) -> None:
    """Run `work` once its queue is reached, unless a stop is requested before."""
    stop.tell(work.stop)
    log.info("%s", describe_place(request_sender.address, hosts=hosts))
    if stop.reaches(request_sender.reach):
        # Consumers wait until the producer leaves, even if its list is empty.
        request_sender.attend()
        work.run()


@contextmanager
def _executor(options: argparse.Namespace) -> Iterator[Executor]:
    """The pool's workers; those of this command are killed at the end. Raises `AddressError`."""
    from nearfar import Executor

    if isinstance(options.pool, str):
        executor = Executor.connect(
            options.pool, keys=options.keys, insecure=options.insecure, wait=options.wait
        )
    else:
        import multiprocessing

        start_tracker()
        # Spawned, because this process has threads already; logging is configured as here.
        context = multiprocessing.get_context("spawn")
        executor = Executor(options.pool, context, _begin_worker, (options,))
    try:
        yield executor
    finally:
        executor.engine.terminate()
        executor.engine.join(FAREWELL)


def _begin_worker(options: argparse.Namespace) -> None:
    set_up_logging(options)
    if options.keys:
        from nearfar.net.auth import VARIABLE  # loads ZeroMQ, which only a far download needs

        os.environ[VARIABLE] = options.keys
    keep_freed_memory()


def _pooled(options: argparse.Namespace, fetching: FetchOptions, run: ProducerRun) -> StopRequest:
    from nearfar.download.pooled import Order, Pooled
    from nearfar.net.addresses import Address

    address = queue_address(options)
    if isinstance(options.pool, str) and Address.parse(address).everywhere:
        raise AddressError(f"the pool's workers cannot connect to {address}: name an address that they reach")
    with (
        StopRequest() as stop,
        _executor(options) as executor,
        _request_sender(options, address) as request_sender,
    ):
        order = partial(
            Order, request_sender.address, options.wait, fetching, options.jobs, insecure=options.insecure
        )
        pooled = Pooled(run.job_source, executor, request_sender, order)
        _run(pooled, request_sender, stop, hosts=options.bind is not None)
    return stop
