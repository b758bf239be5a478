"""``nearfar queue``: host a queue, so that producers and consumers can join and leave."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence

from nearfar.cli.common import StopRequest, add_logging_options, set_up_logging, why
from nearfar.cli.exits import Exit, tell
from nearfar.cli.options import (
    DEFAULT_ADDRESS,
    add_access_options,
    add_expected_producers,
    add_status_every,
    byte_count,
    describe_place,
    lease_seconds,
    natural,
)
from nearfar.cli.parser import Parser, about
from nearfar.cli.progress import number, size
from nearfar.errors import AddressError, KeysError
from nearfar.queues.far import FarQueue

log = logging.getLogger("nearfar.queue")


def main(argv: Sequence[str] | None = None) -> int:
    """Host until SIGINT or SIGTERM, and return an exit code (`Exit`): `OK` only if no item was left."""
    options = make_parser().parse_args(argv)
    set_up_logging(options)
    try:
        with StopRequest() as stop, _host(options) as queue:
            empty = describe(queue.counts())
            tell(describe_place(queue.address, hosts=True))
            _watch(queue, stop, options.status_every, empty)
            left = queue.counts()
            if left["unsettled"]:
                log.warning("stopped with %s", describe(left))
    except (AddressError, KeysError) as error:
        print(f"nearfar queue: {why(error)}", file=sys.stderr)
        return Exit.USAGE
    if left["unsettled"]:
        return stop.exit_code
    log.info("stopped; nothing is left in it" if not left["unread letters"] else "stopped")
    return Exit.OK


def make_parser() -> argparse.ArgumentParser:
    """The command line of this program."""
    parser = Parser(
        "nearfar queue",
        usage="[OPTION...]",
        description=about(__doc__),
        examples=(
            "nearfar queue --bind tcp://*:5555 --keys keys",
            "nearfar queue --maxbytes 1GiB --expected-producers 2",
        ),
    )
    address = parser.add_argument_group("address")
    address.add_argument("--bind", default=DEFAULT_ADDRESS, metavar="ADDRESS", help="port *: any free one")
    address.add_argument("--lanes", metavar="FROM-TO", help="the ports for items, for a firewall")
    add_access_options(address)
    add = parser.add_argument_group("bounds").add_argument
    add("--maxsize", type=natural, default=0, metavar="N", help="items that may wait; 0: no bound")
    add(
        "--maxbytes",
        type=byte_count,
        default="32MiB",
        metavar="SIZE",
        help="bytes that may wait; 0: no bound",
    )
    add(
        "--max-unsettled",
        type=byte_count,
        default="1GiB",
        metavar="SIZE",
        help="bytes that consumers may hold without an ack; a consumer with its full share gets no more"
        " until it acks some; 0: no bound",
    )
    peers = parser.add_argument_group("producers and consumers")
    add_expected_producers(peers)
    peers.add_argument(
        "--lease",
        type=lease_seconds,
        default="10",
        metavar="S",
        help="seconds of silence after which a producer or consumer counts as dead",
    )
    add_status_every(parser)
    add_logging_options(parser)
    return parser


def describe(counts: Mapping[str, int]) -> str:
    """``3 waiting (1.2 MB), 2 unacknowledged, 1,204 done; 1 producer, 2 consumers``, and the errors."""
    said = f"{counts['size']:,} waiting ({size(counts['bytes'])})"
    said += f", {counts['unsettled'] - counts['size']:,} unacknowledged, {counts['settled']:,} done"
    troubles = ("dead", "dropped", "undeliverable", "late")
    said += "".join(f", {counts[what]:,} {what}" for what in troubles if counts[what])
    said += f"; {number(counts['producers'], 'producer')}, {number(counts['consumers'], 'consumer')}"
    lost = counts["lost producers"]
    return f"{said}, {number(lost, 'producer')} lost" if lost else said


def _host(options: argparse.Namespace) -> FarQueue:
    return FarQueue(
        options.maxsize,
        options.bind,
        maxbytes=options.maxbytes,
        max_unsettled=options.max_unsettled,
        lease=options.lease,
        producers=options.expected_producers,
        standing=True,
        lanes=options.lanes,
        keys=options.keys,
        insecure=options.no_keys,
    )


def _watch(queue: FarQueue, stop: StopRequest, every: float, last: str) -> None:
    """Log the status of the queue whenever it has changed, until a stop is requested."""
    while not stop.wait(every):
        counts = queue.counts()
        now = describe(counts)
        if now != last:
            last = now
            log.info("%s", now, extra={"event": "status", "fields": dict(counts)})
