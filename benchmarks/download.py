"""Downloads side by side: nearfar near and far, ``curl --parallel``, and aria2c and wget2 where installed.

Many small files, some longer ones, a large one, and a single small one are served on loopback; every
contestant fetches all of them into a new folder, 16 at a time. nearfar also checks sizes, counts SHA-256,
syncs, renames, and keeps a manifest; the others do not. Last, nearfar alone fetches many tiny files while the
memory of its processes is watched.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.download_contestants import CURL, compiled, contest, contestants
from benchmarks.download_memory import watched
from benchmarks.rounds import Spread, alternate, compare, machine, write_json
from benchmarks.serving import TINY, make_files, served
from nearfar.cli.options import positive
from nearfar.output import write


class Sizes(NamedTuple):
    """How much of everything."""

    files: int
    """Of 10 to 30 KiB."""
    longer: int
    """Files of 2 to 5 MiB."""
    large: int
    """Bytes of the one large file."""
    urls: int
    """Of the tiny files."""


FULL = Sizes(10_000, 200, 1 << 30, 200_000)
QUICK = Sizes(1_000, 20, 128 << 20, 10_000)
KIB = 1 << 10
MIB = 1 << 20
COMPARED = ("small", "longer", "large", "one")
"""Parts that compare nearfar with others."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print Markdown, and write both forms. 0 unless a contestant failed."""
    options = make_parser().parse_args(argv)
    if not shutil.which("curl"):
        print("this benchmark needs curl", file=sys.stderr)
        return 2
    sizes, rounds = (QUICK, min(options.rounds, 3)) if options.quick else (FULL, options.rounds)
    parts: Mapping[str, Callable[[Path], dict[str, Any]]] = {
        "small": partial(compared, sizes.files, 10 * KIB, 30 * KIB, rounds),
        "longer": partial(compared, sizes.longer, 2 * MIB, 5 * MIB, rounds),
        "large": partial(compared, 1, sizes.large, sizes.large, rounds),
        "one": partial(compared, 1, 20_000, 20_000, rounds),
        "memory": partial(remembered, sizes.urls),
    }
    result: dict[str, Any] = {"rounds": rounds, "machine": machine()}
    for name, part in parts.items():
        if options.only in ("", name):
            with tempfile.TemporaryDirectory(dir=options.folder, prefix="nearfar-bench-") as folder:
                Path(folder).chmod(0o755)  # nginx serves as a user of its own
                with compiled(Path(folder)):
                    result[name] = part(Path(folder))
    text = markdown(result)
    print(text)
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / "download.json", result)
    write(options.output / "download.md", text)
    return 0


def make_parser() -> argparse.ArgumentParser:
    shared_memory = Path("/dev/shm")
    parser = argparse.ArgumentParser("benchmarks.download", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="a tenth of everything, in 3 rounds at most")
    add("--rounds", type=positive, default=5, metavar="N", help="of each contestant (%(default)s)")
    add("--only", choices=(*COMPARED, "memory"), default="", help="only one of these parts")
    add(
        "--folder",
        type=Path,
        default=shared_memory if shared_memory.is_dir() else None,
        metavar="DIR",
        help="for the files, served and saved (/dev/shm, else the system's temporary one)",
    )
    add("-o", "--output", type=Path, default=Path("bench-results"), metavar="DIR", help="(%(default)s)")
    return parser


def compared(count: int, least: int, most: int, rounds: int, folder: Path) -> dict[str, Any]:
    """All contestants, in alternating rounds."""
    names = make_files(folder / "files", count, least, most)
    size = sum(path.stat().st_size for path in (folder / "files").iterdir())
    with served(folder) as (base, server):
        ways = contestants(folder, [f"{base}/{name}" for name in names])
        costs = alternate({name: partial(contest, folder, way, size) for name, way in ways.items()}, rounds)
    return {"files": count, "bytes": size, "server": server, "contestants": compare(costs, CURL)}


def remembered(urls: int, folder: Path) -> dict[str, Any]:
    """nearfar near and far, each once; nothing is compared."""
    make_files(folder / "files", 1, 1, 1)
    with served(folder) as (base, server):
        if server != "nginx":
            return {"urls": urls, "server": server, "runs": []}
        ways = contestants(folder, [f"{base}{TINY}/{number:07}" for number in range(urls)])
        names = [name for name in ways if name.startswith("nearfar") and "-P 2" not in name]
        return {
            "urls": urls,
            "server": server,
            "runs": [watched(folder, name, ways[name], urls) for name in names],
        }


def markdown(result: dict[str, Any]) -> str:
    where = ", ".join(f"{key} {value}" for key, value in result["machine"].items())
    lines = [
        f"{result['rounds']} alternating rounds; {where}. Medians (quartiles); ratios within a round, those"
        " of speed above 1 where it is faster than curl.",
    ]
    for name in COMPARED:
        if part := result.get(name):
            lines += ["", *_table(part)]
    if part := result.get("memory"):
        lines += ["", *_memory(part)]
    return "\n".join(lines) + "\n"


def _table(part: dict[str, Any]) -> list[str]:
    files, size = part["files"], part["bytes"]
    noun = "file" if files == 1 else "files"
    lines = [
        f"{files:,} {noun}, {size / 1e6:,.4g} MB, served by {part['server']}:",
        "",
        "| | wall s | speed / curl | CPU us/file | CPU / curl |",
        "|---|---|---|---|---|",
    ]
    for row in part["contestants"]:
        by_file = {key: value / files * 1e6 for key, value in row["cpu"].items()}
        slow = Spread(**row["wall_ratio"])
        speed = Spread(1 / slow.median, 1 / slow.high, 1 / slow.low)
        cells = [Spread(**row["wall"]), speed, Spread(**by_file), Spread(**row["cpu_ratio"])]
        lines.append(f"| {row['name']} | {' | '.join(map(str, cells))} |")
    return lines


def _memory(part: dict[str, Any]) -> list[str]:
    if not part["runs"]:
        return [f"memory: needs nginx, which is not here ({part['server']} is)"]
    lines = [
        f"{part['urls']:,} tiny files: resident MiB of each process at 10 %, at 50 % and at the end of the"
        " run's time. Near these are the command, consumer and producer; far the consumer, which hosts, and"
        " the producer:",
        "",
        "| | seconds | MiB |",
        "|---|---|---|",
    ]
    for run in part["runs"]:
        cells = "; ".join(" - ".join(f"{memory:g}" for memory in process) for process in run["processes"])
        lines.append(f"| {run['name']} | {run['seconds']:.1f} | {cells} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
