"""``nearfar top``: show what a dashboard shows, in a terminal."""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from nearfar.cli.common import StopRequest, add_logging_options, set_up_logging, why
from nearfar.cli.exits import Exit, tell
from nearfar.cli.options import seconds
from nearfar.cli.parser import Parser, about
from nearfar.cli.progress import duration, number, size
from nearfar.errors import AddressError, KeysError
from nearfar.readable import readable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from nearfar.dashboard.model import Status

DEFAULT = "127.0.0.1:8787"
LARGEST = 64 << 20
"""Bytes of an answer."""
WITHIN = 5.0
"""Seconds within which a dashboard must answer."""


def main(argv: Sequence[str] | None = None) -> int:
    """Show until SIGINT or SIGTERM, or until the dashboard ends; return an exit code (`Exit`)."""
    parser = make_parser()
    options = parser.parse_args(argv)
    set_up_logging(options)
    if not options.json and find_spec("rich") is None:
        parser.error("it needs rich: pip install 'nearfar[download]'; --json does not")
    try:
        reader = Reader(options.address, options.token)
        if options.once or options.json:
            status = reader.read()
            if options.json:
                tell(json.dumps(status, ensure_ascii=False))
            else:
                tell(_text(_shown(status)))
            return Exit.OK
        return _watch(reader, options.every)
    except (AddressError, KeysError) as error:
        print(f"nearfar top: {why(error)}", file=sys.stderr)
        return Exit.USAGE
    except PermissionError as error:
        print(f"nearfar top: {error}", file=sys.stderr)
        return Exit.UNTRUSTED
    except (OSError, ValueError, http.client.HTTPException) as error:
        said = why(error) if str(error) else type(error).__name__
        print(f"nearfar top: no dashboard answers at {options.address}: {said}", file=sys.stderr)
        return Exit.LOST


def make_parser() -> argparse.ArgumentParser:
    """The command line of this program."""
    parser = Parser(
        "nearfar top",
        usage="[OPTION...] [ADDRESS]",
        description=about(__doc__),
        examples=("nearfar top", "nearfar top desk:8787 --token dashboard.token", "nearfar top --json"),
        epilog="Start a program with --dashboard, or a pool or a queue with dashboard=True, to have one.",
    )
    parser.add_argument(
        "address",
        nargs="?",
        default=DEFAULT,
        metavar="ADDRESS",
        help=f"of the dashboard (default: {DEFAULT})",
    )
    add = parser.add_argument_group("options").add_argument
    add("--every", type=seconds, default="1", metavar="S", help="seconds between two updates")
    add("--once", action="store_true", help="print it once, and exit")
    add("--json", action="store_true", help="print it once as a JSON object, and exit")
    add("--token", metavar="FILE", help="the file with the dashboard's token")
    add_logging_options(parser)
    return parser


class Reader:
    """Reads the status from a dashboard."""

    def __init__(self, address: str, token_file: str | None) -> None:
        """Raises `AddressError` and `KeysError`."""
        from nearfar.dashboard.server import parse, read_token

        named = urlsplit(address if "//" in address else f"//{address}")
        if named.scheme not in ("", "http", "https") or named.path not in ("", "/"):
            raise AddressError(
                f"{address} is not the address of a dashboard, such as {DEFAULT}: start the program there"
                " with --dashboard"
            )
        self._secure = named.scheme == "https"  # a proxy before the dashboard
        self._place = named.netloc
        if not self._secure:
            parse(named.netloc)
        self._headers = {}
        if token_file is not None:
            token = b64encode(f"top:{read_token(token_file)}".encode()).decode()
            self._headers["Authorization"] = f"Basic {token}"

    def read(self) -> Status:
        """Raises `OSError`, `http.client.HTTPException`, and `ValueError` for an answer that is none;
        `PermissionError` if the token is wrong."""
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._place, timeout=WITHIN)
        try:
            connection.request("GET", "/api/status", headers=self._headers)
            answer = connection.getresponse()
            body = answer.read(LARGEST)
        finally:
            connection.close()
        if answer.status in (401, 403):
            said = readable(body.decode(errors="replace").strip())
            raise PermissionError(f"the dashboard at {self._place} refuses: {said}")
        if answer.status != http.client.OK:
            raise ValueError(readable(f"{answer.status} {body[:200].decode(errors='replace')}".strip()))
        status = json.loads(body)
        if not isinstance(status, dict) or "counts" not in status:
            raise ValueError("what it answers is not a status")
        found: Status = status  # type: ignore[assignment]  # of our own dashboard
        return found


def _watch(reader: Reader, every: float) -> int:
    """Show the status until a stop is requested, or the dashboard is gone. What is no terminal gets each
    status below the last one."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    shown = _shown(reader.read())
    with StopRequest(shows=lambda: True) as stop, ExitStack() as stack:
        live = None
        if console.is_terminal:
            live = Live(shown, console=console, screen=True, auto_refresh=False, vertical_overflow="ellipsis")
            stack.enter_context(live)
        while True:
            if live is None:
                tell(_text(shown))
            else:
                live.update(shown, refresh=True)
            if stop.wait(every):
                return Exit.OK
            shown = _shown(reader.read())


def _text(shown: RenderableType) -> str:
    """The status as text, as wide as the terminal; without one, as wide as its tables."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 200, color_system=None)
    with console.capture() as capture:
        console.print(shown)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _shown(status: Status) -> RenderableType:
    """The status as it is drawn. Raises `ValueError` if it is none."""
    try:
        return _drawn(status)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"what it answers is not a status ({error!r})") from None


def _drawn(status: Status) -> RenderableType:
    """A heading, the counts, and the tables."""
    from rich.console import Group
    from rich.text import Text

    queue = status.get("queue")
    place = (queue or {}).get("address") or status["address"]
    age = time.time() - status["time"]
    state = f"no news for {age:.0f} s" if age > 5 else "live" if status.get("ready") else "waits"
    up = duration(status["time"] - status["started"])
    head = f"{status['program']} {place}  {status['host']}, pid {status['pid']}, up {up}  {state}"
    lines: list[RenderableType] = [
        Text(readable(head), style="bold"),
        Text(readable(_counts(status), keep="\n")),
    ]
    lines += list(_tables(status))
    for group in status.get("failures", [])[:5]:
        lines.append(Text(readable(f"{group['count']:,} x {group['title']}"), style="red"))
    return Group(*lines)


def _counts(status: Status) -> str:
    counts, rates = status["counts"], status["rates"]
    said = [
        ", ".join(f"{count:,} {name}" for name, count in counts.items() if count),
        ", ".join(f"{rate:,.1f} {name}/s" for name, rate in rates.items() if rate and name != "received"),
    ]
    if rates.get("received"):
        said.append(f"{size(rates['received'])}/s")
    if (took := status.get("task_seconds")) is not None and any(took["buckets"]):
        said.append(f"run time {_time(took['p50'])}, 90 % {_time(took['p90'])}, 99 % {_time(took['p99'])}")
    if (queue := status.get("queue")) is not None:
        its = queue["counts"]
        said.append(
            f"queue: {its['size']:,} waiting, {its['unsettled'] - its['size']:,} in hand, oldest"
            f" {_time(queue['oldest'])}, {queue['rates']['stored']:,.0f} put/s,"
            f" {queue['rates']['settled']:,.0f} done/s, {its['redelivered']:,} redelivered,"
            f" {its['dead']:,} dead; {number(its['producers'], 'producer')},"
            f" {number(its['consumers'], 'consumer')}"
        )
    return "\n".join(filter(None, said))


def _time(value: float) -> str:
    if value < 1:
        return f"{value * 1e3:.3g} ms" if value >= 1e-3 or not value else f"{value * 1e6:.0f} us"
    return f"{value:.1f} s" if value < 60 else duration(value)


def _tables(status: Status) -> Iterator[Table]:
    if rows := status.get("workers"):
        yield _table(
            ("worker", "host", "pid", "tasks", "tasks/s", "memory", "runs", "for"),
            [
                (
                    row["name"],
                    row["host"],
                    row["pid"],
                    f"{row['tasks']:,}",
                    f"{row['rate']:,.1f}",
                    "-" if row["memory"] is None else size(row["memory"]),
                    row["runs"] or "-",
                    _time(row["seconds"]) if row["runs"] else "",
                )
                for row in rows
            ],
        )
    if hosts := status.get("hosts"):
        yield _table(
            ("host", "in flight", "waiting", "saved", "failed", "parked", "received", "a second"),
            [
                (
                    row["host"],
                    row["active"],
                    row["waiting"],
                    f"{row['saved']:,}",
                    ", ".join(f"{reason} {count:,}" for reason, count in row["failed"].items()),
                    _time(row["parked"]) if row["parked"] else "",
                    size(row["bytes"]),
                    size(row["rate"]),
                )
                for row in hosts
            ],
        )
    if files := status.get("files"):
        rows_of_files = [
            (row["name"], size(row["bytes"]), _of(row["size"]), _bar(row["bytes"], row["size"]))
            for row in files
        ]
        yield _table(("file", "received", "of", ""), rows_of_files)
    if consumers := status.get("queue", {}).get("consumers"):
        yield _table(
            ("consumer", "in hand", "ahead", "delivered"),
            [(row["name"], row["taken"], row["ahead"], f"{row['delivered']:,}") for row in consumers],
        )


def _of(total: int | None) -> str:
    return "?" if total is None else size(total)


def _bar(done: int, total: int | None) -> str:
    filled = round(20 * min(1.0, done / total)) if total else 0
    return "━" * filled + "·" * (20 - filled)


_DIGITS = frozenset(("", "-", "?", *"0123456789"))
"""What a figure begins with, or stands for one."""


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for place, head in enumerate(heads):
        right = place > 0 and all(
            isinstance(row[place], int) or str(row[place])[:1] in _DIGITS for row in rows
        )
        table.add_column(head, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*(Text(readable(str(cell))) for cell in row))
    return table
