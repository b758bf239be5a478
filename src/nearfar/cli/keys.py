"""``nearfar keys``: make keys, and decide which clients are admitted."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from nearfar.cli.common import add_json_option, complain, timestamp
from nearfar.cli.exits import Exit, tell, tell_json
from nearfar.cli.parser import Parser
from nearfar.cli.progress import table
from nearfar.errors import KeysError
from nearfar.net import auth
from nearfar.net.auth import VARIABLE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return an exit code (`Exit`)."""
    options = make_parser().parse_args(argv)
    try:
        options.run(options, Path(options.keys).expanduser())
    except (KeysError, OSError, RuntimeError) as error:  # the last: ~NAME for an unknown user
        return complain("keys", error)
    return Exit.OK


def make_parser() -> argparse.ArgumentParser:
    """The command line of this program."""
    parser = Parser(
        "nearfar keys",
        configurable=False,
        usage="COMMAND [OPTION...]",
        examples=(
            "nearfar keys init",
            "nearfar keys add laptop",
            "nearfar keys revoke laptop",
        ),
        description="Make keys, and admit or revoke them. A running service applies a change at once.",
        epilog="On the service's machine, run init, and then add NAME for each machine or person that may"
        " connect; move the folder that add made to that machine. Start all programs with --keys DIR.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", prog=parser.prog)
    init = commands.add_parser(
        "init",
        help="make a folder of keys for the services of this machine, and for the programs that connect here",
    )
    init.set_defaults(run=_init)
    init.add_argument(
        "--server",
        type=Path,
        metavar="FILE",
        help="make only a client's key, for the service whose public key is in FILE",
    )
    add = commands.add_parser(
        "add", help="admit the client NAME: make keys for it, or take the public key that it has made"
    )
    add.set_defaults(run=_add)
    add.add_argument("name", metavar="NAME", help="the client's name, for the list and for revoke")
    add.add_argument(
        "--public",
        type=Path,
        metavar="FILE",
        help="the client's public key (client.key), which it made with init --server",
    )
    revoke = commands.add_parser("revoke", help="refuse the client NAME from now on, and end its connections")
    revoke.set_defaults(run=_revoke)
    revoke.add_argument("name", metavar="NAME", help="the client's name, as in the list")
    listing = commands.add_parser("list", help="list the admitted clients")
    listing.set_defaults(run=_list)
    add_json_option(listing)
    default = os.environ.get(VARIABLE) or "keys"
    for command in (init, add, revoke, listing):
        command.add_argument(
            "--keys",
            default=default,
            metavar="DIR",
            help=f"the folder of keys (default: the value of {VARIABLE}, or keys; now {default})",
        )
    return parser


def _init(options: argparse.Namespace, folder: Path) -> None:
    if options.server is not None:
        public = auth.init_client(folder, options.server)
        tell(f"made a client's key in {folder}; have the service admit it:")
        tell(f"  nearfar keys add NAME --public {public.name}      (with {public}, copied to it)")
        return
    auth.init(folder)
    tell(f"made a service's keys in {folder}, and a client's, which is admitted as {auth.OWN_NAME}")
    tell(f"  start services, and the programs that connect to them here, with --keys {folder}")
    tell(f"  admit others: nearfar keys add NAME --keys {folder}")


def _add(options: argparse.Namespace, folder: Path) -> None:
    made = auth.add(folder, options.name, options.public)
    tell(f"{options.name} is admitted")
    if made is None:
        tell(f"  it needs the service's public key, {folder / 'server.key'}, in its own folder of keys")
    else:
        tell(f"  its keys are in {made}: move that folder there (it holds a secret), and use it with --keys")


def _revoke(options: argparse.Namespace, folder: Path) -> None:
    auth.revoke(folder, options.name)
    tell(f"{options.name} is no longer admitted")


def _list(options: argparse.Namespace, folder: Path) -> None:
    found = list(auth.listing(folder))
    if options.json:
        clients = [{"name": name, "public_key": key, "since": timestamp(since)} for name, key, since in found]
        tell_json({"folder": str(folder), "clients": clients})
        return
    rows = [(name, key, _date(since)) for name, key, since in found]
    tell(table(("name", "public key", "since"), rows) if rows else "no client is admitted")


def _date(since: float) -> str:
    return datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%d %H:%M")
