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

from nearfar.cli.common import REPORTED, StopRequest, complain, exit_code, set_up_logging, why
from nearfar.cli.dashboard import add_dashboard_options, dashboard
from nearfar.cli.display import Progress, progress_of
from nearfar.cli.exits import Exit, OutputLost, give_up_output, tell, tell_json
from nearfar.cli.options import (
    add_expected_producers,
    add_queue_options,
    add_remote_time,
    describe_place,
    queue_address,
)
from nearfar.cli.parser import Parser, about
from nearfar.cli.progress import Counts
from nearfar.download.consumer import Consumer, Received
from nearfar.download.model import StoreError
from nearfar.download.store.listing import Listing
from nearfar.download.store.manifest import Form
from nearfar.download.store.store import Store
from nearfar.net.memory import collecting_seldom, keep_freed_memory
from nearfar.output import Output

if TYPE_CHECKING:
    from nearfar.dashboard.board import Board
    from nearfar.dashboard.model import Status
    from nearfar.download.transport import RemoteReceiver

FAREWELL = 30.0
"""Seconds to send the last answers."""
SHOWN_EVERY = 0.1
"""Seconds between two updates of the progress."""

FATAL = (*REPORTED, StoreError, OSError)
"""Errors that end the program."""

log = logging.getLogger("nearfar.consumer")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the consumer and return its exit code (`Exit`)."""
    parser = make_parser()
    options = parser.parse_args(argv)
    set_up_logging(options)
    keep_freed_memory()
    if options.export and options.export[0] not in ("jsonl", "csv"):
        parser.error(f"--export takes jsonl or csv, not {options.export[0]!r}")
    if options.export and options.json:
        parser.error("--json is for the result of a run: --export jsonl - lists the saved files")
    try:
        progress = progress_of(options)
    except ValueError as error:
        parser.error(str(error))
    try:
        if options.export:
            return _export(options.output, *options.export)
        with Store(options.output, overwrite=options.overwrite, remote_time=options.remote_time) as store:
            store.sweep()
            return _work(options, store, progress)
    except FATAL as error:
        return complain("consumer", error)


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
    add_remote_time(saving)
    saving.add_argument(
        "--export",
        nargs=2,
        metavar=("FORMAT", "FILE"),
        help="write DIR's manifest to FILE (-: standard output) as jsonl or csv, and exit",
    )
    add_dashboard_options(parser)
    add_queue_options(parser)
    add_expected_producers(parser.add_argument_group("with --bind, or a queue in Redis"))
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


def _work(options: argparse.Namespace, store: Store, progress: Progress) -> int:
    # Imported here: an export needs no ZeroMQ.
    from nearfar.download.transport import Endpoint, open_request_receiver

    endpoint = Endpoint(
        address=queue_address(options),
        bind=options.queue is None,
        lanes=options.lanes,
        keys=options.keys,
        insecure=options.no_keys,
        wait=options.wait,
    )

    with (
        dashboard(options, "consumer") as board,
        StopRequest(shows=lambda: progress.live) as stop,
    ):
        request_receiver = open_request_receiver(
            endpoint, store=store.id, producers=options.expected_producers
        )
        consumer = Consumer(request_receiver, store, on_turn=lambda: showing.turn())
        showing = _Showing(progress, consumer, stop, board, request_receiver)
        stop.tell(consumer.stop)
        try:
            place = describe_place(request_receiver.address, hosts=options.queue is None)
            log.info("%s, saving to %s", place, options.output)
            if stop.reaches(request_receiver.reach):
                with collecting_seldom():
                    consumer.run()
        finally:
            showing.close()
            try:
                request_receiver.close(FAREWELL)
            finally:
                code = stop.exit_code or (Exit.FAILED if consumer.received.failed else Exit.OK)
                _report(options, consumer.received, code)
    return code


def _report(options: argparse.Namespace, received: Received, code: int) -> None:
    """Print the result; if an exception is on its way to `main`, this is its result, too."""
    if not options.json:
        tell(received)
        return
    error = sys.exception()
    tell_json(
        {
            "saved": received.saved,
            "failed": {str(reason): count for reason, count in received.failed.items()},
            "size": received.size,
            "folder": str(options.output),
            "error": why(error) if isinstance(error, Exception) else None,
            "exit_code": int(exit_code(error) if isinstance(error, FATAL) else code),
        }
    )


class _Showing:
    """Shows the progress of a consumer, at most every `SHOWN_EVERY` seconds."""

    def __init__(
        self,
        progress: Progress,
        consumer: Consumer,
        stop: StopRequest,
        board: Board | None,
        request_receiver: RemoteReceiver,
    ) -> None:
        self._progress = progress
        self._consumer = consumer
        self._stop = stop
        self._board = board
        self._request_receiver = request_receiver
        self._shown = 0.0

    def turn(self) -> None:
        """Called in each iteration of the consumer's loop."""
        now = time.monotonic()
        if now - self._shown >= SHOWN_EVERY:
            self._shown = now
            self._progress.show(self._counts(), now)
        if self._board is not None:
            self._board.look(self._status, now)

    def close(self) -> None:
        """Show the end."""
        self._progress.close(self._counts(), time.monotonic())

    def _status(self) -> Status:
        """The status for the dashboard."""
        from nearfar.download.watched import file_rows

        counts = self._counts()
        found: Status = {
            "address": self._request_receiver.address,
            "ready": True,
            "waits_for": counts.waits_for,
            "counts": {
                "saved": counts.saved,
                "failed": counts.failed.total(),
                "received": counts.bytes,
                "streams": self._consumer.in_hand,
            },
            "reasons": dict(counts.failed),
            "files": file_rows(self._consumer.report()),
        }
        if (queue := self._request_receiver.queue_status()) is not None:
            found["queue"] = queue
        return found

    def _counts(self) -> Counts:
        received, underway = self._consumer.received, self._consumer.underway
        failed = Counter({str(reason): count for reason, count in received.failed.items()})
        return Counts(
            saved=received.saved,
            failed=failed,
            size=received.size + underway.size,
            underway=underway.files,
            waits_for=underway.waits_for,
            large=underway.large,
            stopping=self._stop.requested,
        )
