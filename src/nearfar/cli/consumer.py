"""The consumer: get files from a queue, and save them."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nearfar.cli.common import StopRequest, set_up_logging, why
from nearfar.cli.dashboard import add_dashboard_options, dashboard
from nearfar.cli.exits import Exit, OutputLost, give_up_output, tell
from nearfar.cli.options import add_expected_producers, add_queue_options, describe_place, queue_address
from nearfar.cli.parser import Parser, about
from nearfar.cli.progress import Counts, make_progress
from nearfar.download.consumer import Consumer
from nearfar.download.model import StoreError
from nearfar.download.store.listing import Listing
from nearfar.download.store.manifest import Form
from nearfar.download.store.store import Store
from nearfar.errors import AddressError, KeysError, NotAdmitted, ProducerLost, QueueLost
from nearfar.net.memory import keep_freed_memory
from nearfar.output import Output

if TYPE_CHECKING:
    from nearfar.dashboard.model import Status
    from nearfar.download.far_transport import FarRequestReceiver

FAREWELL = 30.0
"""Seconds to send the last answers."""

log = logging.getLogger("nearfar.consumer")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the consumer and return its exit code (`Exit`)."""
    parser = make_parser()
    options = parser.parse_args(argv)
    set_up_logging(options)
    keep_freed_memory()
    if options.export and options.export[0] not in ("jsonl", "csv"):
        parser.error(f"--export takes jsonl or csv, not {options.export[0]!r}")
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
    parser = Parser(
        "nearfar consumer",
        usage="[OPTION...]",
        description=about(__doc__),
        examples=(
            "nearfar consumer -o pictures",
            "nearfar consumer --bind tcp://*:5555 --keys keys",
            "nearfar consumer -o pictures --export csv saved.csv",
        ),
    )
    saving = parser.add_argument_group("saving")
    saving.add_argument(
        "-o", "--output", type=Path, default=Path("downloads"), metavar="DIR", help="where to save"
    )
    saving.add_argument("--overwrite", action="store_true", help="replace files that nearfar did not save")
    saving.add_argument(
        "--export",
        nargs=2,
        metavar=("FORMAT", "FILE"),
        help="write DIR's manifest to FILE (-: standard output) as jsonl or csv, and exit",
    )
    add_dashboard_options(parser)
    add_queue_options(parser)
    add_expected_producers(parser.add_argument_group("with --bind"))
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
    # Imported here: an export needs no ZeroMQ.
    from nearfar.download.far_transport import open_request_receiver

    with dashboard(options, "consumer") as board, StopRequest() as stop:
        request_receiver = open_request_receiver(
            queue_address(options),
            bind=options.queue is None,
            store=store.id,
            lanes=options.lanes,
            keys=options.keys,
            insecure=options.no_keys,
            wait=options.wait,
            producers=options.expected_producers,
        )
        progress = make_progress(quiet=options.quiet, log_format=options.log_format)

        def show() -> None:
            now = time.monotonic()
            progress.show(_counts(consumer), now)
            if board is not None:
                board.look(lambda: _status(consumer, request_receiver), now)

        consumer = Consumer(request_receiver, store, on_turn=show)
        stop.tell(consumer.stop)
        try:
            place = describe_place(request_receiver.address, hosts=options.queue is None)
            log.info("%s, saving to %s", place, options.output)
            if stop.reaches(request_receiver.reach):
                consumer.run()
        finally:
            progress.close(_counts(consumer), time.monotonic())
            try:
                request_receiver.close(FAREWELL)
            finally:
                tell(consumer.received)
    return stop.exit_code or (Exit.FAILED if consumer.received.failed else Exit.OK)


def _status(consumer: Consumer, request_receiver: FarRequestReceiver) -> Status:
    """The status for the dashboard."""
    from nearfar.download.watched import file_rows

    counts = _counts(consumer)
    found: Status = {
        "address": request_receiver.address,
        "ready": True,
        "waits_for": counts.waits_for,
        "counts": {
            "saved": counts.saved,
            "failed": counts.failed.total(),
            "received": counts.bytes,
            "streams": consumer.in_hand,
        },
        "reasons": dict(counts.failed),
        "files": file_rows(consumer.report()),
    }
    if (queue := request_receiver.queue_status()) is not None:
        found["queue"] = queue
    return found


def _counts(consumer: Consumer) -> Counts:
    received, underway = consumer.received, consumer.underway
    failed = Counter({str(reason): count for reason, count in received.failed.items()})
    return Counts(
        saved=received.saved,
        failed=failed,
        size=received.size + underway.size,
        underway=underway.files,
        waits_for=underway.waits_for,
    )
