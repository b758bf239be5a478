"""The consumer: gets files from a queue and saves them."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from nearfar.download.consumer import Consumer
from nearfar.download.memory import keep_freed_memory
from nearfar.download.store import Listing, Store, StoreError
from nearfar.download.store.export import Form
from nearfar.errors import AddressError, KeysError, NotAdmitted, ProducerLost, QueueLost
from nearfar.output import Output
from nearfar.programs.arguments import add_queue_options, describe_place, positive, queue_address
from nearfar.programs.common import Exit, StopRequest, set_up_logging, why
from nearfar.programs.progress import Counts, Progress, make_progress
from nearfar.programs.streams import OutputLost, give_up_output, tell

FAREWELL = 30.0
"""Seconds to hand over the last answers."""

log = logging.getLogger("nearfar.consumer")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the consumer and return its exit code (`Exit`)."""
    parser = make_parser()
    options = parser.parse_args(argv)
    set_up_logging(options)
    keep_freed_memory()
    if options.export and options.export[0] not in ("jsonl", "csv"):
        parser.error(f"--export knows jsonl and csv, not {options.export[0]!r}")
    try:
        if options.export:
            return _export(options.output, *options.export)
        with Store(options.output, overwrite=options.overwrite) as store:
            store.sweep()
            return _work(options, store)
    except (QueueLost, ProducerLost) as error:
        print(f"nearfar consumer: {why(error)}", file=sys.stderr)
        return Exit.LOST
    except NotAdmitted as error:
        print(f"nearfar consumer: {why(error)}", file=sys.stderr)
        return Exit.UNTRUSTED
    except (AddressError, KeysError, StoreError, OSError) as error:
        print(f"nearfar consumer: {why(error)}", file=sys.stderr)
        return Exit.USAGE


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("nearfar consumer", description=__doc__)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("downloads"),
        metavar="DIR",
        help="where to save (%(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that are not ours")
    parser.add_argument(
        "--export",
        nargs=2,
        metavar=("jsonl|csv", "FILE"),
        help="write what DIR's manifest tells to FILE (-: standard output), and leave",
    )
    parser.add_argument(
        "--producers",
        type=positive,
        default=1,
        metavar="N",
        help="with --bind: the end comes once so many have said goodbye (1)",
    )
    add_queue_options(parser)
    return parser


def _export(folder: Path, form: str, name: str) -> int:
    """Raises `StoreError`, `OSError`, `OutputLost`."""
    known: Form = "csv" if form == "csv" else "jsonl"
    with Listing(folder) as listing:
        if name == "-":
            if sys.stdout is None:
                raise OutputLost("the standard output is closed")
            try:
                listing.export(known, sys.stdout)
            except OSError as error:
                give_up_output(error)
        else:
            listing.refuse_to_be(Path(name))
            with Output(Path(name)) as output:
                listing.export(known, output.file)
    return Exit.OK


def _work(options: argparse.Namespace, store: Store) -> int:
    # Only here: an export needs no ZeroMQ.
    from nearfar.download.couriers.far import open_inbound

    with StopRequest() as stop:
        inbound = open_inbound(
            queue_address(options),
            bind=options.queue is None,
            store=store.id,
            lanes=options.lanes,
            keys=options.keys,
            insecure=options.insecure,
            wait=options.wait,
            producers=options.producers,
        )
        progress = make_progress(quiet=options.quiet, log_format=options.log_format)
        consumer = Consumer(inbound, store, on_turn=lambda: _show(progress, consumer))
        stop.tell(consumer.stop)
        try:
            place = describe_place(inbound.address, hosts=options.queue is None)
            log.info("%s, saving to %s", place, options.output)
            if stop.reaches(inbound.reach):
                consumer.run()
        finally:
            progress.close(_counts(consumer), time.monotonic())
            try:
                inbound.close(FAREWELL)
            finally:
                tell(consumer.received)
    return stop.exit_code or (Exit.FAILED if consumer.received.failed else Exit.OK)


def _show(progress: Progress, consumer: Consumer) -> None:
    progress.show(_counts(consumer), time.monotonic())


def _counts(consumer: Consumer) -> Counts:
    received, underway = consumer.received, consumer.underway
    failed = Counter({str(reason): count for reason, count in received.failed.items()})
    return Counts(
        saved=received.saved,
        failed=failed,
        bytes=received.size + underway.size,
        underway=underway.files,
        waits_for=underway.waits_for,
    )
