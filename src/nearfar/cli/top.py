"""``nearfar top``: show in a terminal what a program does: workers, tasks, items, rates."""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from nearfar.cli.common import REPORTED, StopRequest, add_logging_options, complain, set_up_logging, why
from nearfar.cli.display import make_console
from nearfar.cli.exits import Exit, tell, tell_drawn
from nearfar.cli.options import DEFAULT_ADDRESS, DEFAULT_POOL_ADDRESS, add_access_options, seconds
from nearfar.cli.parser import Parser, about
from nearfar.cli.progress import duration, number, size
from nearfar.cli.status_readers import DEFAULT, Reader, reader_of
from nearfar.readable import readable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from nearfar.dashboard.model import Status

SAMPLE = 1.0
"""Seconds between the two readings from which rates are computed, where only one status is printed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Show until SIGINT or SIGTERM, or until the dashboard ends; return an exit code (`Exit`)."""
    parser = make_parser()
    options = parser.parse_args(argv)
    set_up_logging(options)
    if not options.json and find_spec("rich") is None:
        parser.error("it needs rich: pip install 'nearfar[download]'; --json does not")
    try:
        with closing(reader_of(options)) as reader:
            if options.once or options.json:
                _print(reader, options.color, as_json=options.json)
                return Exit.OK
            return _watch(reader, options.every, options.color)
    except REPORTED as error:
        return complain("top", error)
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
        examples=(
            "nearfar top",
            f"nearfar top {DEFAULT_POOL_ADDRESS}",
            "nearfar top desk:8787 --token dashboard.token",
            "nearfar top tcp://storage:5555 --keys laptop --once",
        ),
        epilog="Start a program with --dashboard, or a pool or a queue with dashboard=True, to have a"
        " dashboard, which shows most. Queues and coordinators also answer at their own address, with the"
        " figures of --status: without durations, failures and memory.",
    )
    parser.add_argument(
        "address",
        nargs="?",
        default=DEFAULT,
        metavar="ADDRESS",
        help=f"the address of a dashboard (default: {DEFAULT}), of a queue ({DEFAULT_ADDRESS}), or of a"
        f" coordinator ({DEFAULT_POOL_ADDRESS})",
    )
    add = parser.add_argument_group("options").add_argument
    add("--every", type=seconds, default="1", metavar="S", help="seconds between two updates")
    add("--once", action="store_true", help="print the status once, and exit")
    add("--json", action="store_true", help="print the status once as a JSON object, and exit")
    add("--token", metavar="FILE", help="the file with the dashboard's token")
    queues = parser.add_argument_group("queues and coordinators")
    add_access_options(queues)
    queues.add_argument(
        "--wait", type=seconds, default="5", metavar="S", help="seconds to wait for an answer"
    )
    add_logging_options(parser)
    return parser


def _print(reader: Reader, color: str, *, as_json: bool) -> None:
    """Print one status, with rates."""
    status = reader.read()
    if reader.samples:
        time.sleep(SAMPLE)
        status = reader.read()
    if as_json:
        tell(json.dumps(status, ensure_ascii=False))
    else:
        tell_drawn(_text(_shown(status), color))


def _watch(reader: Reader, every: float, color: str) -> int:
    """Show the status until a stop is requested, or the dashboard is gone. What is no terminal gets each
    status below the last one."""
    from rich.live import Live

    console = make_console(color, sys.stdout)
    shown = _shown(reader.read())
    with StopRequest(shows=lambda: True) as stop, ExitStack() as stack:
        live = None
        if console.is_terminal:
            live = Live(shown, console=console, screen=True, auto_refresh=False, vertical_overflow="ellipsis")
            stack.enter_context(live)
        while True:
            if live is None:
                tell_drawn(_text(shown, color))
            else:
                live.update(shown, refresh=True)
            if stop.wait(every):
                return Exit.OK
            shown = _shown(reader.read())


def _text(shown: RenderableType, color: str) -> str:
    """The status as text, as wide as the terminal; without one, as wide as its tables."""
    console = make_console(color, sys.stdout, width=None if sys.stdout.isatty() else 200)
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
    head = f"{status['program']} {place}"
    if "pid" in status:  # else it was asked of a queue or coordinator itself
        up = duration(status["time"] - status["started"])
        head += f"  {status['host']}, pid {status['pid']}, up {up}"
    head += f"  {state}"
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
            f"queue: {its['size']:,} waiting, {its['unsettled'] - its['size']:,} in hand,"
            + (f" oldest {_time(queue['oldest'])}," if "oldest" in queue else "")
            + f" {queue['rates']['stored']:,.0f} put/s,"
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
