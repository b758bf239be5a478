"""``nearfar queue``: host a queue, so that producers and consumers can join and leave."""

from __future__ import annotations

import argparse
import json
import logging
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence

from nearfar.cli.common import (
    REPORTED,
    StopRequest,
    add_logging_options,
    complain,
    set_up_logging,
    timestamp,
)
from nearfar.cli.dashboard import add_dashboard_options, dashboard
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
    seconds,
)
from nearfar.cli.parser import Parser, about
from nearfar.cli.progress import number, size, table
from nearfar.errors import (
    ItemError,
    ProtocolError,
    Untrusted,
)
from nearfar.net.reliable import LEASE
from nearfar.queues.broker.records import DeadLetter
from nearfar.queues.far import FarQueue
from nearfar.readable import json_line
from nearfar.serialization import item_codec

log = logging.getLogger("nearfar.queue")


def main(argv: Sequence[str] | None = None) -> int:
    """Host until SIGINT or SIGTERM, and return an exit code (`Exit`): `OK` only if no item was left."""
    options = make_parser().parse_args(argv)
    set_up_logging(options)
    asked = [name for name in ("status", "dead_letters", "requeue") if getattr(options, name) is not None]
    try:
        if asked:
            return ask(options, asked[0])
        with dashboard(options, "queue") as board, StopRequest() as stop, _host(options) as queue:
            if board is not None:
                queue.show(board)
            empty = describe(queue.counts())
            tell(describe_place(queue.address, hosts=True))
            _watch(queue, stop, options.status_every, empty)
            left = queue.counts()
            if left["unsettled"]:
                log.warning("stopped with %s", describe(left))
    except REPORTED as error:
        return complain("queue", error)
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
    address.add_argument(
        "--bind", default=DEFAULT_ADDRESS, metavar="ADDRESS", help="where it listens; port *: any free"
    )
    address.add_argument("--lanes", metavar="FROM-TO", help="use only these ports for items (for a firewall)")
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
        help="bytes of items that all consumers together may hold without an ack; a consumer that holds its"
        " share gets no more items until it acks some; 0: no bound",
    )
    peers = parser.add_argument_group("producers and consumers")
    add_expected_producers(peers)
    peers.add_argument(
        "--lease",
        type=lease_seconds,
        default=f"{LEASE:g}",
        metavar="S",
        help="seconds of silence after which a producer or consumer counts as dead",
    )
    add_status_every(parser)
    group = parser.add_argument_group("instead of hosting, ask the host of a queue, and exit")
    which = group.add_mutually_exclusive_group()
    for name, does in ASKS.items():
        which.add_argument(name, nargs="?", const=DEFAULT_ADDRESS, metavar="ADDRESS", help=does)
    group.add_argument("--json", action="store_true", help="print JSON, one object on each line")
    group.add_argument("--wait", type=seconds, default="5", metavar="S", help="seconds to wait for an answer")
    add_dashboard_options(parser)
    add_logging_options(parser)
    return parser


ASKS = {
    "--status": f"print its figures ({DEFAULT_ADDRESS})",
    "--dead-letters": "print its latest dead letters; with --json also their items",
    "--requeue": "put its dead letters into the queue again",
}
SAMPLE = 1.0
"""Seconds between the two samples from which rates are computed."""


def ask(options: argparse.Namespace, what: str) -> int:
    """Ask the host of a queue, and print the answer. Raises `AddressError`, `KeysError`, `QueueLost`."""
    queue = FarQueue.connect(
        getattr(options, what), keys=options.keys, insecure=options.no_keys, wait=options.wait
    )
    try:
        if what == "status":
            _tell_status(queue, as_json=options.json)
        elif what == "dead_letters":
            _tell_letters(queue, as_json=options.json)
        else:
            count = queue.requeue_dead_letters()
            tell(json.dumps({"requeued": count}) if options.json else f"{number(count, 'item')} put again")
    finally:
        queue.close()
    return Exit.OK


def _tell_status(queue: FarQueue, *, as_json: bool) -> None:
    before = queue.counts()
    time.sleep(SAMPLE)
    after = queue.counts()
    rates = {
        name: (after[name] - before[name]) / SAMPLE for name in ("stored", "settled", "redelivered", "dead")
    }
    if as_json:
        said = {"time": timestamp(time.time()), "address": queue.address, "message": describe(after)}
        tell(json.dumps(said | {"counts": after, "rates": rates}, ensure_ascii=False))
        return
    tell(describe(after))
    tell(
        f"{rates['stored']:,.0f} put/s, {rates['settled']:,.0f} done/s, {after['redelivered']:,} redelivered"
    )


def _tell_letters(queue: FarQueue, *, as_json: bool) -> None:
    letters = queue.encoded_dead_letters()
    for letter in letters if as_json else ():
        tell(json_line(_as_json(letter)))
    if not as_json and letters:
        rows = [
            (letter.producer, f"{letter.count:,}", f"{len(letter.body):,}", str(letter.attempts), each)
            for letter in letters
            for each in letter.history[-1:]
        ]
        tell(table(("producer", "items", "bytes", "attempts", "last"), rows))
    elif not as_json:
        tell("no dead letters")


def _as_json(letter: DeadLetter) -> dict[str, object]:
    """One letter. Items that are plain data are shown; pickles are not read, but given as they came."""
    found: dict[str, object] = {
        "producer": letter.producer,
        "items": letter.count,
        "attempts": letter.attempts,
        "history": letter.history,
    }
    try:
        found["content"] = item_codec.decode(letter.body, letter.count, trusted=False)
    except (ItemError, ProtocolError, Untrusted):
        found["encoded"] = b64encode(letter.body).decode()
    return found


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
