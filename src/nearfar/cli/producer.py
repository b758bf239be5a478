"""The producer: download URLs and put the files on a queue; with --queue local, also save them.

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

from nearfar.cli.common import REPORTED, StopRequest, complain, set_up_logging, start_tracker, why
from nearfar.cli.dashboard import add_dashboard_options, dashboard
from nearfar.cli.display import Progress, progress_of
from nearfar.cli.exits import Exit, tell, tell_json
from nearfar.cli.options import (
    add_fetching,
    add_queue_options,
    add_remote_time,
    describe_place,
    fetch_options,
    pool_place,
    positive,
    queue_address,
    warn,
)
from nearfar.cli.parser import Parser, about
from nearfar.cli.progress import Counts, number
from nearfar.download.account import Account, Failures, InputJobs, Summary, is_own
from nearfar.download.fetch.factory import make_fetcher
from nearfar.download.fetch.options import FetchOptions
from nearfar.download.input import Arguments, DescriptorSource, Intake, Source
from nearfar.download.local import LocalDownload
from nearfar.download.local_process import ProcessPlan
from nearfar.download.model import StoreError, Underway
from nearfar.download.watched import HostTally, file_rows
from nearfar.errors import AddressError, PoolBroken, QueueLost
from nearfar.net.memory import collecting_seldom, keep_freed_memory
from nearfar.net.schemes import hosted, shown

if TYPE_CHECKING:
    from nearfar import Executor
    from nearfar.dashboard.board import Board
    from nearfar.dashboard.model import QueueStatus, Status
    from nearfar.download.pooled import Pooled
    from nearfar.download.producer import Producer
    from nearfar.download.transport import RemoteSender


SHOWN_EVERY = 0.1
"""Seconds between two updates of the progress."""

_NOTHING = Underway()

log = logging.getLogger("nearfar.producer")


class ProducerRun:
    """Use it as a context manager; leaving it closes everything and commits the failures file."""

    def __init__(
        self,
        source: Source,
        failures: Path,
        progress: Progress,
        *,
        as_json: bool = False,
        board: Board | None = None,
    ) -> None:
        """`as_json`: print the result as JSON; `board`: where the status is published."""
        self.stop = StopRequest(shows=lambda: progress.live)
        self.account = Account()
        self.intake = Intake(source)
        self.summary = Summary()
        """The counts, after `close`."""
        self._failures = Failures(failures)
        self.job_source = InputJobs(self.intake, self.account, self._failures, self._show)
        self._progress = progress
        self._as_json = as_json
        self._board = board
        self.queue_status: Callable[[], QueueStatus | None] = lambda: None
        """Set to what returns the status of the queue, if this program hosts one."""
        self.address = ""
        self._tally = HostTally()
        if board is not None:
            self.job_source.on_end = self._tally.ended
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

    def report(self, code: int, error: Exception | None = None) -> int:
        """Print the result, and return `code`, the exit code. `error`: what ended the run early."""
        if self._as_json:
            tell_json(self._result(code, error))
        else:
            self._tell()
        log.debug("%s", self.summary, extra={"event": "summary", "fields": self._fields()})
        return code

    def _tell(self) -> None:
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

    def _result(self, code: int, error: Exception | None) -> dict[str, object]:
        failures = self._failures
        written = failures.count and failures.trouble is None
        return self._fields() | {
            "rest_unread": not self._all_counted,
            "failures": str(failures.path) if written else None,
            "failures_error": None if failures.trouble is None else why(failures.trouble),
            "web_pages": dict(self.job_source.pages),
            "error": None if error is None else why(error),
            "exit_code": int(code),
        }

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
        if self._board is not None:
            self._board.look(self._status, now)

    def _status(self) -> Status:
        """The status for the dashboard."""
        summary, found = self.account.summary(), self.job_source.report()
        counts = self._counts(summary, self.job_source.underway())
        status: Status = {
            "address": self.address,
            "ready": True,
            "waits_for": counts.waits_for,
            "counts": {
                "urls": summary.urls,
                "saved": counts.saved,
                "already": counts.already,
                "failed": counts.failed.total(),
                "left": summary.left,
                "waiting": self.intake.waiting(),
                "received": counts.bytes,
            },
            "reasons": dict(counts.failed),
            "hosts": self._tally.rows(found),
            "files": file_rows(found),
        }
        if counts.total is not None:
            status["counts"]["expected"] = counts.total
        if (queue := self.queue_status()) is not None:
            status["queue"] = queue
        return status

    def _counts(self, summary: Summary, underway: Underway = _NOTHING) -> Counts:
        total = summary.urls + self.intake.waiting() if self.intake.ended else None
        failed = Counter({str(reason): count for reason, count in summary.failed.items()})
        size = summary.size + underway.size
        return Counts(
            summary.saved,
            summary.already,
            failed,
            size,
            total,
            underway.files,
            underway.waits_for,
            underway.large,
            stopping=self.stop.requested,
        )


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
        progress = progress_of(options)
        _check_authorities(options)
        fetching = fetch_options(options)
        source = _open_source(options)
        if source.overwritten_by(options.failures) and not is_own(options.failures):
            raise ValueError(f"{options.failures} is the input itself: name another file with --failures")
    except (ValueError, OSError) as error:
        parser.error(why(error))
    try:
        if options.dry_run:
            return _dry_run(options, source)
        return _work(options, fetching, source, progress)
    except (*REPORTED, StoreError, OSError) as error:
        return complain("producer", error)
    finally:
        source.close()


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        "nearfar producer",
        usage="[OPTION...] URL... | -i FILE",
        description=about(__doc__),
        examples=(
            "nearfar producer --queue local -o pictures -i urls.txt",
            "nearfar producer -i urls.txt --queue tcp://storage:5555",
            "nearfar producer 'https://host/{cats,dogs}/[001-100].png'",
            "nearfar producer -i - --pool tcp://head:5556 <urls.txt",
            "nearfar producer -i nearfar-failures.txt",
        ),
        epilog="Exit code: 0 if no URL failed, 1 if some failed, 2 for a wrong command line, 3 if a"
        " peer was lost, 4 if the keys do not match, 130 after Ctrl-C.",
    )
    parser.add_argument("urls", nargs="*", metavar="URL", help="the URLs to download")
    group = parser.add_argument_group("input")
    group.add_argument(
        "-g",
        "--globoff",
        action="store_true",
        help="take [ ] { } in URLs as they are; without it, [1-10], [001-100:10], [a-z] and {a,b} are"
        " expanded",
    )
    group.add_argument(
        "-i",
        "--input",
        metavar="FILE",
        help="read URLs from FILE (-: stdin), one on each line; name= and sha256= may follow, after tabs",
    )
    group.add_argument(
        "--failures",
        type=Path,
        default=Path("nearfar-failures.txt"),
        metavar="FILE",
        help="write failed URLs to FILE, for -i FILE in the next run",
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be fetched, to which name, and what exists already; fetch nothing",
    )
    group.add_argument(
        "-c",
        "--continue",
        action="store_true",
        dest="go_on",
        help="accepted as in curl and wget, and changes nothing: without it, too, no saved file is"
        " fetched again, and partial files are continued",
    )
    group.add_argument(
        "--refresh",
        action="store_true",
        help="ask the servers for newer versions of saved files; a newer one replaces the saved file",
    )
    add_fetching(parser)
    local = parser.add_argument_group("with --queue local")
    local.add_argument("-o", "--output", type=Path, metavar="DIR", help="where to save the files")
    local.add_argument("--overwrite", action="store_true", help="replace files that nearfar did not save")
    add_remote_time(local)
    local.add_argument("-P", "--producers", type=positive, metavar="N", help="processes that only fetch")
    local.add_argument(
        "-C",
        "--consumers",
        type=positive,
        metavar="N",
        help="processes that only save; without -P and -C, each process fetches and saves",
    )
    pool = parser.add_argument_group("with a pool")
    pool.add_argument(
        "--pool",
        type=pool_place,
        metavar="ADDRESS",
        help="download with the workers of the coordinator at ADDRESS, or of another engine"
        " (dask://HOST:PORT); local:N: with N processes of this command. The options of fetching hold for"
        " each worker by itself; all share --per-host and --host-rate. Each worker reads the files of"
        " --cacert, --cert and --key on its own machine, and must reach the queue at the address given here",
    )
    add_dashboard_options(parser)
    add_queue_options(parser, local=True)
    return parser


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if find_spec("pycurl") is None and not isinstance(options.pool, str):
        parser.error("downloading needs pycurl: pip install 'nearfar[download]'")
    if bool(options.urls) == (options.input is not None):
        parser.error("give URLs, or -i FILE (- for standard input)")
    if (options.queue == LOCAL) != (options.output is not None):
        parser.error("--queue local needs -o DIR" if options.queue == LOCAL else "-o needs --queue local")
    if options.remote_time and options.output is None:
        parser.error("-R needs --queue local: otherwise it is an option of nearfar consumer, which saves")
    if options.pool is not None and options.queue == LOCAL:
        parser.error("--pool needs a queue with an address: --queue local has processes of its own (-P N)")


def _check_authorities(options: argparse.Namespace) -> None:
    """Check the files for TLS; with a coordinator, they are on the workers' machines. Raises `OSError`."""
    if not isinstance(options.pool, str):
        for path in (options.cacert, options.cert, options.key):
            if path is not None:
                path.open("rb").close()


def _open_source(options: argparse.Namespace) -> Source:
    """Raises `OSError`, `GlobError`."""
    if options.input is None:
        return Arguments(options.urls, globs=not options.globoff)
    if options.input == "-":
        return DescriptorSource(os.dup(sys.stdin.fileno()))
    # The polling loop waits for the writer of a FIFO, because there signals are handled.
    return DescriptorSource(os.open(options.input, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))


def _dry_run(options: argparse.Namespace, source: Source) -> int:
    """Print what would become of each line, and return `FAILED` if one is rejected. Raises `StoreError`."""
    from nearfar.download.dry_run import OUTLOOKS, DryRun

    urls: list[dict[str, object]] = []
    with DryRun(options.output, overwrite=options.overwrite, refresh=options.refresh) as dry_run:
        for forecast in dry_run.of(source):
            if options.json:
                urls.append(forecast._asdict())
                continue
            name = "" if forecast.name is None else f" -> {forecast.name}"
            detail = f" ({forecast.detail})" if forecast.detail else ""
            tell(f"{forecast.outlook}: {forecast.url}{name}{detail}")
    outlooks = [outlook for outlook in OUTLOOKS if outlook != "to refresh" or options.refresh]
    counts = {outlook: dry_run.counts[outlook] for outlook in outlooks}
    code = Exit.FAILED if counts["rejected"] else Exit.OK
    if options.json:
        named = {outlook.replace(" ", "_"): count for outlook, count in counts.items()}
        tell_json({"dry_run": urls} | named | {"exit_code": int(code)})
        return code
    said = ", ".join(f"{count:,} {outlook}" for outlook, count in counts.items())
    tell(f"{number(sum(counts.values()), 'url')}: {said}")
    if options.output is None:
        tell("the consumers at the queue know what is saved already, and choose the names")
    return code


def _work(options: argparse.Namespace, fetching: FetchOptions, source: Source, progress: Progress) -> int:
    with (
        dashboard(options, "producer") as board,
        ProducerRun(source, options.failures, progress, as_json=options.json, board=board) as run,
    ):
        try:
            with run.stop:
                _way(options)(options, fetching, run)
        except (QueueLost, PoolBroken) as error:
            run.close()
            return run.report(max(complain("producer", error), Exit.LOST), error)  # a broken pool is lost
    if run.stop.requested:
        return run.report(run.stop.exit_code)
    return run.report(Exit.OK if run.summary.complete else Exit.FAILED)


def _way(
    options: argparse.Namespace,
) -> Callable[[argparse.Namespace, FetchOptions, ProducerRun], None]:
    if options.queue == LOCAL:
        return _local
    return _far if options.pool is None else _pooled


def _local(options: argparse.Namespace, fetching: FetchOptions, run: ProducerRun) -> None:
    queues = bool(options.producers or options.consumers)
    count = 1 if queues else downloaders(options, run.intake.most_lines)
    producers = (options.producers or 1) if queues else 0
    fetching = fetching._replace(connections=options.jobs // count)
    plan = ProcessPlan(
        directory=options.output,
        make_fetcher=partial(make_fetcher, fetching),
        overwrite=options.overwrite,
        remote_time=options.remote_time,
        downloaders=count,
        producers=producers,
        consumers=(options.consumers or 1) if queues else 0,
        jobs=fetching.connections,
        refresh=options.refresh,
        reports=options.dashboard is not None,
        shared=max(count, producers) > 1,
        prepare=partial(set_up_logging, options),
    )
    near = LocalDownload(plan, run.job_source, before_spawning=start_tracker)
    run.stop.tell(near.stop)
    near.run()


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


def _far(options: argparse.Namespace, fetching: FetchOptions, run: ProducerRun) -> None:
    # Imported here: a local download needs no ZeroMQ, and makes its producer in another process.
    from nearfar.download.producer import Producer
    from nearfar.download.remote_stores import RemoteStores

    address = queue_address(options)
    with (
        _request_sender(options, address) as request_sender,
        closing(make_fetcher(fetching)) as fetcher,
    ):
        if request_sender.limits is not None:
            fetcher.share(request_sender.limits)
        stores = RemoteStores(request_sender)
        producer = Producer(run.job_source, fetcher, stores, jobs=options.jobs, refresh=options.refresh)
        _run(producer, request_sender, run, hosts=options.bind is not None)


@contextmanager
def _request_sender(options: argparse.Namespace, address: str) -> Iterator[RemoteSender]:
    """A sender to the consumers of the queue at `address`, closed at the end of the block."""
    from nearfar.download.transport import Endpoint, open_request_sender

    endpoint = Endpoint(
        address=address,
        bind=options.bind is not None,
        lanes=options.lanes,
        keys=options.keys,
        insecure=options.no_keys,
        wait=options.wait,
    )
    request_sender = open_request_sender(endpoint)
    try:
        yield request_sender
    finally:
        request_sender.close(FAREWELL)


def _run(
    work: Producer | Pooled,
    request_sender: RemoteSender,
    run: ProducerRun,
    *,
    hosts: bool,
) -> None:
    """Run `work` once its queue is reached, unless a stop is requested before."""
    run.stop.tell(work.stop)
    run.address, run.queue_status = request_sender.address, request_sender.queue_status
    log.info("%s", describe_place(request_sender.address, hosts=hosts))
    if run.stop.reaches(request_sender.reach):
        # Consumers wait until the producer leaves, even if its list is empty.
        request_sender.attend()
        with collecting_seldom():
            work.run()


@contextmanager
def _executor(options: argparse.Namespace) -> Iterator[Executor]:
    """The pool's workers; those of this command are killed at the end. Raises `AddressError`."""
    from nearfar import Executor

    if isinstance(options.pool, str):
        # Another engine, such as Dask, has its own security: the keys are those of the queue only.
        access = {"keys": options.keys, "insecure": options.no_keys} if hosted(options.pool) else {}
        executor = Executor.connect(options.pool, wait=options.wait, **access)
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


def _pooled(options: argparse.Namespace, fetching: FetchOptions, run: ProducerRun) -> None:
    from nearfar.download.pooled import Order, Pooled
    from nearfar.net.addresses import Address

    address = queue_address(options)
    if shown(address) != address:
        raise AddressError(
            f"the pool's workers would not have the password in {shown(address)}: name a file with it"
            " (?password-file=PATH), or set it in their environment"
        )
    if isinstance(options.pool, str) and hosted(address) and Address.parse(address).everywhere:
        raise AddressError(f"the pool's workers cannot connect to {address}: name an address that they reach")
    with _executor(options) as executor, _request_sender(options, address) as request_sender:
        order = partial(
            Order,
            request_sender.address,
            options.wait,
            fetching,
            options.jobs,
            refresh=options.refresh,
            insecure=options.no_keys,
        )
        pooled = Pooled(run.job_source, executor, request_sender, order)
        _run(pooled, request_sender, run, hosts=options.bind is not None)
