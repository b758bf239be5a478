"""Downloads side by side: nearfar near and far, ``curl --parallel``, and aria2c and wget2 where installed.

Files are served on loopback; every contestant fetches all of them into a new folder, 16 at a time. nearfar
also checks SHA-256, syncs, and keeps a manifest; the others do not.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.rounds import Cost, Spread, alternate, compare, machine, run, timed, write_json
from benchmarks.serving import free_port, make_files, served
from nearfar.programs.arguments import byte_count, positive

JOBS = "16"
NEARFAR = (sys.executable, "-m", "nearfar")
Command = Callable[[Path], Sequence[Sequence[str]]]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a Markdown table, and write both forms. 0 unless a contestant failed."""
    options = make_parser().parse_args(argv)
    if not shutil.which("curl"):
        print("this benchmark needs curl", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="nearfar-bench-") as name:
        result = measure(Path(name), options)
    table = markdown(result)
    print(table)
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / "download.json", result)
    (options.output / "download.md").write_text(table, encoding="utf-8")
    return 0


def make_parser() -> argparse.ArgumentParser:
    shared_memory = Path("/dev/shm")
    parser = argparse.ArgumentParser("benchmarks.download", description=__doc__)
    add = parser.add_argument
    add("--files", type=positive, default=10_000, metavar="N", help="how many (%(default)s)")
    add("--least", type=byte_count, default=10 * 1024, metavar="SIZE", help="of a file (10 KiB)")
    add("--most", type=byte_count, default=30 * 1024, metavar="SIZE", help="of a file (30 KiB)")
    add("--rounds", type=positive, default=5, metavar="N", help="of each contestant (%(default)s)")
    add(
        "--folder",
        type=Path,
        default=shared_memory if shared_memory.is_dir() else None,
        metavar="DIR",
        help="for the files, served and saved (/dev/shm, else the system's temporary one)",
    )
    add("-o", "--output", type=Path, default=Path("bench-results"), metavar="DIR", help="(%(default)s)")
    return parser


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All rounds, as a result for JSON."""
    folder.chmod(0o755)  # nginx serves as a user of its own
    names = make_files(folder / "files", options.files, options.least, options.most)
    size = sum(path.stat().st_size for path in (folder / "files").iterdir())
    with served(folder) as (base, server):
        urls = [f"{base}/{name}" for name in names]
        (folder / "urls").write_text("".join(f"{url}\n" for url in urls))
        (folder / "curl").write_text("".join(f"url={url}\nremote-name\n" for url in urls))
        runs = {
            name: partial(contest, folder, command, size) for name, command in contestants(folder).items()
        }
        costs = alternate(runs, options.rounds)
    return {
        "files": options.files,
        "bytes": size,
        "rounds": options.rounds,
        "server": server,
        "machine": machine(),
        "contestants": compare(costs, "curl --parallel"),
    }


def contestants(folder: Path) -> dict[str, Command]:
    """By name, the commands that fetch everything into the folder they are given."""
    urls = str(folder / "urls")
    found: dict[str, Command] = {
        "curl --parallel": lambda out: [
            ["curl", "-sS", "--parallel", "--parallel-max", JOBS, "-K", str(folder / "curl")]
        ],
        "nearfar near": lambda out: [
            [*NEARFAR, "producer", "-q", "--jobs", JOBS, "-i", urls, "--queue", "local", "-o", str(out)]
        ],
        "nearfar far": partial(far, urls),
    }
    if shutil.which("aria2c"):
        found["aria2c"] = lambda out: [["aria2c", "-q", "-j", JOBS, "-i", urls, "--file-allocation=none"]]
    if shutil.which("wget2"):
        found["wget2"] = lambda out: [["wget2", "-q", f"--max-threads={JOBS}", "-i", urls]]
    return found


def far(urls: str, out: Path) -> Sequence[Sequence[str]]:
    address = f"tcp://127.0.0.1:{free_port()}"
    return [
        [*NEARFAR, "consumer", "-q", "--bind", address, "-o", str(out)],
        [*NEARFAR, "producer", "-q", "--jobs", JOBS, "-i", urls, "--queue", address],
    ]


def contest(folder: Path, command: Command, size: int) -> Cost:
    """One run into a folder of its own. Raises `RuntimeError` unless every byte arrived."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        out = Path(name)
        cost = timed(lambda: run(*command(out), folder=out))
        saved = sum(path.stat().st_size for path in out.iterdir() if path.suffix == ".bin")
        if saved != size:
            raise RuntimeError(f"{saved} of {size} bytes arrived by {command(out)}")
    return cost


def markdown(result: dict[str, Any]) -> str:
    """The result as a table; CPU is counted by the file."""
    files = result["files"]
    lines = [
        f"{files:,} files, {result['bytes'] / 1e6:,.1f} MB, served by {result['server']}; {result['rounds']}"
        f" alternating rounds; {', '.join(f'{key} {value}' for key, value in result['machine'].items())}."
        " Medians (quartiles); ratios within a round.",
        "",
        "| | wall s | CPU us/file | wall / curl | CPU / curl |",
        "|---|---|---|---|---|",
    ]
    for row in result["contestants"]:
        by_file = {key: value / files * 1e6 for key, value in row["cpu"].items()}
        cells = [
            Spread(**row["wall"]),
            Spread(**by_file),
            Spread(**row["wall_ratio"]),
            Spread(**row["cpu_ratio"]),
        ]
        lines.append(f"| {row['name']} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
