"""A consumer that saves a group and kills itself at a step: ``python -m ... DIRECTORY STEP TIMES``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from nearfar.download.model import Head
from nearfar.download.store.store import Store
from tests.download.store.making import draft, job

OLD, NEW = b"old version", b"a newer version"
CONTENT = {"a.png": NEW, "b.png": b"b" * 70_000, "sub/c.png": b"c" * 10}


def main(directory: Path, last: str, times: int) -> None:
    left = times

    def step(name: str) -> None:
        nonlocal left
        left -= name == last
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    with Store(directory, step=step) as store:
        store.open(job("half.png", name="sub/half.png"), Head("http://example.org/", 200)).write(b"half")
        drafts = [draft(store, job(Path(name).name, name), data) for name, data in CONTENT.items()]
        step("written")
        store.commit(drafts)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
