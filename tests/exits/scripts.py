"""Programs of users that end in the middle of something: how each must end, as data.

The data are in ``queues.toml`` and ``pools.toml``. Where multiprocessing's own behaviour is sane, it is the
reference.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = {
    "at once": 1.0,
    "nap": 1.0,
    "start": 2.0,
    "lease": 1.0,
    "wait": 1.0,
    "host stops": 2.0,
    "farewell": 2.0,
}
"""What a deadline is made of: the work of a script, the start of its workers; `lease` and `wait` as it says
them; `FarQueue.stop_hosting`; and the `FAREWELL` of a pool whose workers or coordinator are elsewhere."""

PRELUDE = """
import asyncio, atexit, multiprocessing, os, signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Process, get_context
from nearfar import Executor, JoinableQueue, Pool, Queue

HERE = "ipc://" + os.path.abspath("q")
NOBODY = "ipc://" + os.path.abspath("nobody")


def nap(seconds=60):
    time.sleep(seconds)
    return seconds


def hold_gil():
    while True:
        pass


def leave(code=3):
    os._exit(code)


def use(shared):
    return None


def sleepy(n):
    time.sleep(0.05)
    return n


def taken(q):
    try:
        q.get()
    except Exception as error:
        print(type(error).__name__, flush=True)


if __name__ == "__main__":
    open("begun", "w").close()
"""


@dataclass(frozen=True)
class Script:
    """The code in ``if __name__ == "__main__":``, and how the program must end."""

    name: str
    body: str
    within: tuple[str, ...]
    """Names in `SECONDS`, to be added."""
    code: int = 0
    out: str = ""
    err: tuple[str, ...] = ()
    """What standard error must hold, a line each at most; nothing else is said if this is empty."""
    options: tuple[str, ...] = ()
    one_liner: bool = False
    """Run by ``python -c``, without the prelude."""
    everyday: bool = False
    traceback: bool = False
    """Whether the script itself ends by an exception, which Python shows."""

    @property
    def seconds(self) -> float:
        """From the first line of `body` to the end."""
        return sum(SECONDS[name] for name in self.within)

    def source(self) -> str:
        if self.one_liner:
            return self.body
        return PRELUDE + "".join(f"    {line}\n" for line in self.body.splitlines())


def read(name: str) -> tuple[Script, ...]:
    """The scripts of one file."""
    with Path(__file__).with_name(name).open("rb") as file:
        told: list[dict[str, Any]] = tomllib.load(file)["script"]
    lists = ("within", "err", "options")
    return tuple(Script(**each | {key: tuple(each[key]) for key in lists if key in each}) for each in told)


QUEUES = read("queues.toml")
POOLS = read("pools.toml")
