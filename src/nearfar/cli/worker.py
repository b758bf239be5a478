"""``nearfar worker``: join a pool with worker processes of this machine."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from nearfar.cli.common import REPORTED, StopRequest, add_logging_options, complain, set_up_logging, why
from nearfar.cli.dashboard import add_dashboard_options, dashboard
from nearfar.cli.exits import Exit, tell
from nearfar.cli.options import (
    DEFAULT_POOL_ADDRESS,
    add_access_options,
    add_plain_option,
    byte_count,
    describe,
    make_supervisor,
    plain_names,
    positive,
    seconds,
)
from nearfar.cli.parser import Parser, about
from nearfar.net.addresses import Address
from nearfar.net.auth import VARIABLE, approach
from nearfar.worker.agent import Agent

log = logging.getLogger("nearfar.worker")


def main(argv: Sequence[str] | None = None) -> int:
    """Work until SIGINT or SIGTERM, or until the coordinator is lost; return an exit code (`Exit`)."""
    options = make_parser().parse_args(argv)
    set_up_logging(options)
    plain = plain_names(options)
    hire = partial(make_supervisor, count=options.processes, quota=options.max_tasks, plain=plain)
    try:
        address = Address.parse_remote(options.connect)
        access = approach(address, options.keys, insecure=options.no_keys)
        if access.keys:
            os.environ[VARIABLE] = access.keys  # tasks may connect to a queue
        with ExitStack() as stack:
            board = stack.enter_context(dashboard(options, "worker"))
            agent = Agent(
                address.seen_from_here(),
                hire,
                options.processes,
                access=access,
                wait=options.wait,
                quota=options.max_tasks,
                max_bytes=options.max_bytes,
            )
            stack.enter_context(StopRequest(agent.leave))
            if board is not None:
                agent.show(board)
            many = "1 process" if options.processes == 1 else f"{options.processes} processes"
            tell(f"working for {address} as {agent.name} with {many}")
            if plain is not None:
                log.info("%s", describe(plain))
            agent.run()
    except REPORTED as error:
        return complain("worker", error)
    except OSError as error:
        print(f"nearfar worker: cannot start a worker process: {why(error)}", file=sys.stderr)
        return Exit.FAILED
    log.info("stopped; every task that had begun was answered")
    return Exit.OK


def make_parser() -> argparse.ArgumentParser:
    """The command line of this program."""
    parser = Parser(
        "nearfar worker",
        usage="[OPTION...]",
        description=about(__doc__),
        examples=(
            "nearfar worker --connect tcp://storage:5556 --keys keys",
            "nearfar worker --processes 2 --plain thumbnails",
        ),
        epilog="Workers import the modules that tasks need from the working directory, or from where"
        " Python finds them. After the first SIGINT or SIGTERM the program takes no more tasks, and exits"
        " when its running tasks are done; after the second it exits at once.",
    )
    group = parser.add_argument_group("coordinator")
    group.add_argument(
        "--connect", default=DEFAULT_POOL_ADDRESS, metavar="ADDRESS", help="the coordinator's address"
    )
    add_access_options(group)
    group.add_argument(
        "--wait",
        type=seconds,
        default="60",
        metavar="S",
        help="seconds to wait for a coordinator that does not answer",
    )
    group = parser.add_argument_group("worker processes")
    group.add_argument(
        "--processes",
        type=positive,
        default=os.cpu_count() or 1,
        metavar="N",
        help="number of processes (default: as many as there are CPUs, %(default)s)",
    )
    add_plain_option(group, "they")
    group.add_argument(
        "--max-tasks",
        type=positive,
        metavar="N",
        help="replace a process after N tasks (default: never)",
    )
    group.add_argument(
        "--max-bytes",
        type=byte_count,
        default="1GiB",
        metavar="SIZE",
        help="bytes of results kept for clients that do not take them; 0: no bound. At the bound, such a"
        " client's tasks get no worker here until it takes its results; those that run already may exceed"
        " the bound",
    )
    add_dashboard_options(parser)
    add_logging_options(parser)
    return parser
