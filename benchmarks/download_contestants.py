"""Who downloads: by name, the commands that fetch a list of URLs into a folder, and one run of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.rounds import Cost, run, timed
from benchmarks.serving import free_port

JOBS = "16"
CURL = "curl --parallel"
NEARFAR = (sys.executable, "-m", "nearfar")
Commands = Sequence[Sequence[str]]
Way = Callable[[Path], Commands]
"""The commands, side by side, that fetch everything into the folder they are given."""


def contestants(folder: Path, urls: Sequence[str]) -> dict[str, Way]:
    """By name; their lists of `urls` are written to `folder`. aria2c and wget2 only where installed."""
    listed = folder / "urls"
    listed.write_text("".join(f"{url}\n" for url in urls))
    (folder / "curl").write_text("".join(f"url={url}\nremote-name\n" for url in urls))
    curl = ["curl", "-sS", "--parallel", "--parallel-max", JOBS, "-K", str(folder / "curl")]
    found: dict[str, Way] = {
        CURL: lambda out: [curl],
        "nearfar near": partial(near, listed),
        "nearfar near, -P 1 -C 1": partial(near, listed, "-P", "1", "-C", "1"),
        "nearfar near, -P 2 -C 2": partial(near, listed, "-P", "2", "-C", "2"),
        "nearfar far": partial(far, listed),
    }
    if shutil.which("aria2c"):
        aria2c = ["aria2c", "-q", "-j", JOBS, "-i", str(listed), "--file-allocation=none"]
        found["aria2c"] = lambda out: [aria2c]
    if shutil.which("wget2"):
        found["wget2"] = lambda out: [["wget2", "-q", f"--max-threads={JOBS}", "-i", str(listed)]]
    return found


def near(listed: Path, *given: str | Path) -> Commands:
    """Into the last that is given; before it, options."""
    *options, out = map(str, given)
    command = [*NEARFAR, "producer", "-q", "--jobs", JOBS, "-i", str(listed), "--queue", "local", "-o", out]
    return [[*command, *options]]


def far(listed: Path, out: Path) -> Commands:
    """A consumer that hosts the queue, and a producer: the default, but for a port that is free."""
    address = f"tcp://127.0.0.1:{free_port()}"
    return [
        [*NEARFAR, "consumer", "-q", "--bind", address, "-o", str(out)],
        [*NEARFAR, "producer", "-q", "--jobs", JOBS, "-i", str(listed), "--queue", address],
    ]


def contest(folder: Path, way: Way, size: int) -> Cost:
    """One run into a folder of its own. Raises `RuntimeError` unless every byte arrived."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        out = Path(name)
        cost = timed(lambda: run(*way(out), folder=out))
        saved = sum(path.stat().st_size for path in out.iterdir() if path.suffix == ".bin")
        if saved != size:
            raise RuntimeError(f"{saved} of {size} bytes arrived by {way(out)}")
    return cost


@contextlib.contextmanager
def compiled(folder: Path) -> Iterator[None]:
    """Let Python keep what it compiled in `folder`, as it does of an installed package."""
    before = dict(os.environ)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
