"""``nearfar coordinator``: coordinate a pool, for workers and clients that join and leave."""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial

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
    DEFAULT_POOL_ADDRESS,
    add_access_options,
    add_plain_option,
    add_status_every,
    byte_count,
    lease_seconds,
    make_supervisor,
    natural,
    plain_names,
    seconds,
)
from nearfar.cli.options import describe as describe_plain
from nearfar.cli.parser import Parser, about
from nearfar.cli.progress import number, table
from nearfar.coordinator.remote_client import LEAST
from nearfar.coordinator.server import StandaloneCoordinator
from nearfar.coordinator.status import CoordinatorStatus, WorkerStatus, ask
from nearfar.net.addresses import Address
from nearfar.net.auth import admit, approach
from nearfar.net.reliable import LEASE

SAMPLE = 1.0
"""Seconds between the two samples from which rates are computed."""

log = logging.getLogger("nearfar.coordinator")


def main(argv: Sequence[str] | None = None) -> int:
    """Coordinate until SIGINT or SIGTERM, or print the status of another one; return an exit code
    (`Exit`)."""
    parser = make_parser()
    options = parser.parse_args(argv)
    if 0 < options.max_bytes < LEAST:
        parser.error(f"--max-bytes: at least {LEAST >> 20}MiB, or 0 for no bound")
    if options.plain and not options.workers:
        parser.error("--plain applies to --workers only: give it to nearfar worker for workers elsewhere")
    set_up_logging(options)
    try:
        if options.status is not None:
            return _tell_status(options)
        return _coordinate(options)
    except REPORTED as error:
        return complain("coordinator", error)


def make_parser() -> argparse.ArgumentParser:
    """The command line of this program."""
    parser = Parser(
        "nearfar coordinator",
        usage="[OPTION...]",
        description=about(__doc__),
        examples=(
            "nearfar coordinator --bind tcp://*:5556 --keys keys",
            "nearfar coordinator --workers 4",
            "nearfar coordinator --status tcp://127.0.0.1:5556",
        ),
    )
    address = parser.add_argument_group("address")
    address.add_argument(
        "--bind",
        default=DEFAULT_POOL_ADDRESS,
        metavar="ADDRESS",
        help="where to listen; port *: any free one",
    )
    add_access_options(address)
    workers = parser.add_argument_group("workers")
    workers.add_argument(
        "--workers", type=natural, default=0, metavar="N", help="worker processes on this machine"
    )
    add_plain_option(workers, "with --workers: they")
    workers.add_argument(
        "--lease",
        type=lease_seconds,
        default=f"{LEASE:g}",
        metavar="S",
        help="seconds without a message after which an agent (with its workers) or a client counts as dead",
    )
    workers.add_argument(
        "--grace",
        type=seconds,
        default="30",
        metavar="S",
        help="seconds that running tasks may go on after SIGINT or SIGTERM",
    )
    parser.add_argument_group("bounds").add_argument(
        "--max-bytes",
        type=byte_count,
        default="1GiB",
        metavar="SIZE",
        help="bytes of arguments and results kept for clients; 0: no bound. A client that does not take its"
        " results gets no more workers until it does. A task whose arguments, or whose result, have more"
        " than a quarter of this fails",
    )
    add_status_every(parser)
    status = parser.add_argument_group("status of another coordinator")
    status.add_argument(
        "--status",
        nargs="?",
        const=DEFAULT_POOL_ADDRESS,
        metavar="ADDRESS",
        help="print workers, tasks and rates of the coordinator at ADDRESS, and exit (without ADDRESS:"
        " %(const)s)",
    )
    status.add_argument(
        "--wait", type=seconds, default="5", metavar="S", help="with --status: seconds to wait for the answer"
    )
    status.add_argument("--json", action="store_true", help="with --status: print one JSON object")
    add_dashboard_options(parser)
    add_logging_options(parser)
    return parser


def describe(counts: Mapping[str, int], rate: float | None = None) -> str:
    """``4 workers (3 running), 12 waiting, 1,204 done (310/s), 1 lost; 2 agents, 1 client``."""
    said = f"{number(counts['workers'], 'worker')} ({counts['running']:,} running)"
    said += f", {counts['waiting']:,} waiting, {counts['done']:,} done"
    if rate is not None:
        said += f" ({rate:,.0f}/s)"
    said += "".join(
        f", {counts[what]:,} {what}"
        for what in ("lost", "stale", "malformed", "turned away", "put off", "held back")
        if counts.get(what)
    )
    return f"{said}; {number(counts['agents'], 'agent')}, {number(counts['clients'], 'client')}"


def _coordinate(options: argparse.Namespace) -> int:
    address = Address.parse(options.bind)
    access = admit(address, options.keys, insecure=options.no_keys)
    plain = plain_names(options)
    hire = partial(make_supervisor, count=options.workers, plain=plain) if options.workers else None
    with dashboard(options, "coordinator") as board, StopRequest() as stop:
        coordinator = StandaloneCoordinator(
            address, hire, access=access, lease=options.lease, max_bytes=options.max_bytes
        )
        try:
            nobody = coordinator.counts()
            if board is not None:
                coordinator.show(board)
            tell(f"coordinating at {coordinator.address}")
            if plain is not None:
                log.info("%s", describe_plain(plain))
            _watch(coordinator, stop, options.status_every, nobody)
        finally:
            coordinator.stop(options.grace)
            coordinator.join()
    log.info("stopped")
    return Exit.OK


def _watch(coordinator: StandaloneCoordinator, stop: StopRequest, every: float, last: dict[str, int]) -> None:
    """Log the status of the pool whenever it has changed, until a stop is requested."""
    then = time.monotonic()
    while not stop.wait(every):
        counts, now = coordinator.counts(), time.monotonic()
        if counts != last:
            rate = (counts["done"] - last["done"]) / (now - then)
            log.info("%s", describe(counts, rate), extra={"event": "status", "fields": counts})
        last, then = counts, now


def _tell_status(options: argparse.Namespace) -> int:
    address = Address.parse_remote(options.status)
    look = partial(ask, address, options.wait, approach(address, options.keys, insecure=options.no_keys))
    before = look()
    time.sleep(SAMPLE)
    after = look()
    rate = (after.counts["done"] - before.counts["done"]) / SAMPLE
    if options.json or options.log_format == "json":
        tell(json.dumps(_as_json(before, after, rate), ensure_ascii=False))
        return Exit.OK
    tell(describe(after.counts, rate))
    if after.workers:
        tell(table(("worker", "host", "pid", "tasks", "tasks/s", "runs", "for"), _rows(before, after)))
    return Exit.OK


def _as_json(before: CoordinatorStatus, after: CoordinatorStatus, rate: float) -> dict[str, object]:
    """One object, with the time, event and message of a log line, every figure, and a list of the workers."""
    earlier = {worker.name: worker.answered for worker in before.workers}
    workers = [
        {
            "worker": worker.name,
            "host": worker.host,
            "pid": worker.pid,
            "tasks": worker.answered,
            "tasks_per_second": (worker.answered - earlier.get(worker.name, 0)) / SAMPLE,
            "runs": worker.runs or None,
            "for_seconds": worker.since if worker.runs else None,
        }
        for worker in after.workers
    ]
    said = {"time": timestamp(time.time()), "level": "info", "event": "status"}
    said["message"] = describe(after.counts, rate)
    return said | after.counts | {"done_per_second": rate, "per_worker": workers}


def _rows(before: CoordinatorStatus, after: CoordinatorStatus) -> list[tuple[str, ...]]:
    earlier = {worker.name: worker.answered for worker in before.workers}
    return [_row(worker, earlier.get(worker.name, 0)) for worker in after.workers]


def _row(worker: WorkerStatus, earlier: int) -> tuple[str, ...]:
    rate = (worker.answered - earlier) / SAMPLE
    since = f"{worker.since:.1f} s" if worker.runs else ""
    where = (worker.name, worker.host, str(worker.pid))
    return (*where, f"{worker.answered:,}", f"{rate:,.0f}", worker.runs or "-", since)
