"""The producer: downloads URLs and puts the files on a queue; with ``--queue local``, saves them, too.

With ``--pool``, the workers of a pool download and put, on as many machines as they are.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from nearfar.download.children import Plan
from nearfar.download.failures import is_own
from nearfar.download.fetch.making import make_fetcher
from nearfar.download.fetch.options import FetchOptions
from nearfar.download.intake import Arguments, Descriptor, Source
from nearfar.download.memory import keep_freed_memory
from nearfar.download.near import Near
from nearfar.download.store import StoreError
from nearfar.errors import AddressError, KeysError, NotAdmitted, PoolBroken, QueueLost
from nearfar.net.addresses import Address
from nearfar.programs.arguments import (
    add_queue_options,
    describe_place,
    pool_place,
    positive,
    queue_address,
)
from nearfar.programs.common import Exit, StopRequest, set_up_logging, start_tracker, why
from nearfar.programs.fetching import add_fetching, fetch_options, warn
from nearfar.programs.run import Run

if TYPE_CHECKING:
    from nearfar import Executor

LOCAL = "local"
FAREWELL = 30.0
"""Seconds to hand over what was sent, when all of it was answered."""

log = logging.getLogger("nearfar.producer")


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
        help="what failed, to be used as -i again (%(default)s)",
    )
    add_fetching(parser.add_argument_group("fetching"))
    local = parser.add_argument_group("with --queue local")
    local.add_argument("-o", "--output", type=Path, metavar="DIR", help="where to save the files")
    local.add_argument("--overwrite", action="store_true", help="replace files that are not ours")
    local.add_argument("-P", "--producers", type=positive, default=1, metavar="N", help="processes (1)")
    local.add_argument("-C", "--consumers", type=positive, default=1, metavar="N", help="processes (1)")
    pool = parser.add_argument_group("with a pool")
    pool.add_argument(
        "--pool",
        type=pool_place,
        metavar="ADDRESS",
        help="let the workers of the coordinator there download; local:N: so many processes of this command."
        " Each has the options of fetching to itself, and must reach the queue at its address as given here",
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
    """Those of a coordinator's workers are on their machines. Raises `OSError`."""
    if options.cacert is not None and not isinstance(options.pool, str):
        options.cacert.open("rb").close()


def _open_source(options: argparse.Namespace) -> Source:
    """Raises `OSError`."""
    if options.input is None:
        return Arguments(options.urls)
    if options.input == "-":
        return Descriptor(os.dup(sys.stdin.fileno()))
    # A FIFO without a writer is waited for where a signal is heard, in the loop that polls it.
    return Descriptor(os.open(options.input, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))


def _work(options: argparse.Namespace, fetching: FetchOptions, source: Source) -> int:
    with Run(source, options.failures, quiet=options.quiet, log_format=options.log_format) as run:
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


def _way(options: argparse.Namespace) -> Callable[[argparse.Namespace, FetchOptions, Run], StopRequest]:
    if options.queue == LOCAL:
        return _local
    return _far if options.pool is None else _pooled


def _local(options: argparse.Namespace, fetching: FetchOptions, run: Run) -> StopRequest:
    plan = Plan(
        directory=options.output,
        # The consumers count the digests: only a pipe of this machine is between.
        make_fetcher=partial(make_fetcher, replace(fetching, digest=False)),
        overwrite=options.overwrite,
        producers=options.producers,
        consumers=options.consumers,
        jobs=options.jobs,
        prepare=partial(set_up_logging, options),
    )
    with StopRequest() as stop:
        near = Near(plan, run.desk, before_spawning=start_tracker)
        stop.tell(near.stop)
        near.run()
    return stop


def _far(options: argparse.Namespace, fetching: FetchOptions, run: Run) -> StopRequest:
    # Only here: a local download needs no ZeroMQ, and makes its producer in another process.
    from nearfar.download.couriers.far import open_outbound
    from nearfar.download.producer import Producer

    address = queue_address(options)
    bind = options.bind is not None
    with StopRequest() as stop, closing(make_fetcher(fetching)) as fetcher:
        outbound = open_outbound(
            address,
            bind=bind,
            lanes=options.lanes,
            keys=options.keys,
            insecure=options.insecure,
            wait=options.wait,
        )
        try:
            producer = Producer(run.desk, fetcher, outbound, jobs=options.jobs)
            stop.tell(producer.stop)
            log.info("%s", describe_place(outbound.address, hosts=bind))
            if stop.reaches(outbound.reach):
                outbound.attend()  # consumers wait for a producer's goodbye, also for one of an empty list
                producer.run()
        finally:
            outbound.close(FAREWELL)
    return stop


@contextmanager
def _executor(options: argparse.Namespace) -> Iterator[Executor]:
    """The pool's workers; those of this command are killed in the end. Raises `AddressError`."""
    from nearfar import Executor

    if isinstance(options.pool, str):
        executor = Executor.connect(
            options.pool, keys=options.keys, insecure=options.insecure, wait=options.wait
        )
    else:
        start_tracker()
        # Spawned, for this process has threads already; logging is set up there as it is here.
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
        from nearfar.net.access import VARIABLE  # loads ZeroMQ, which only a far download needs

        os.environ[VARIABLE] = options.keys
    keep_freed_memory()


def _pooled(options: argparse.Namespace, fetching: FetchOptions, run: Run) -> StopRequest:
    from nearfar.download.couriers.far import open_outbound
    from nearfar.download.pooled import Pooled
    from nearfar.download.share import Order

    address = queue_address(options)
    bind = options.bind is not None
    if isinstance(options.pool, str) and Address.parse(address).everywhere:
        raise AddressError(f"the pool's workers cannot connect to {address}: name an address that they reach")
    with StopRequest() as stop, _executor(options) as executor:
        outbound = open_outbound(
            address,
            bind=bind,
            lanes=options.lanes,
            keys=options.keys,
            insecure=options.insecure,
            wait=options.wait,
        )
        try:
            order = partial(
                Order, outbound.address, options.wait, fetching, options.jobs, insecure=options.insecure
            )
            pooled = Pooled(run.desk, executor, outbound, order)
            stop.tell(pooled.stop)
            log.info("%s", describe_place(outbound.address, hosts=bind))
            if stop.reaches(outbound.reach):
                outbound.attend()
                pooled.run()
        finally:
            outbound.close(FAREWELL)
    return stop
