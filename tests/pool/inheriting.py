"""Programs whose workers are forked while a thread holds the lock of the standard output."""

from __future__ import annotations

import io
import os
import sys
import threading
from multiprocessing import get_context

from nearfar import Pool
from tests.support.waiting import eventually


def hold_stdout_while_forking() -> None:
    """From now on, at the moment of each fork, a thread of this process is in the middle of printing.

    It prints more than its pipe takes, which is read only after the fork.
    """
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    stream = io.TextIOWrapper(io.BufferedWriter(io.FileIO(writer, "w")), write_through=True)
    sys.stdout = stream
    threads: list[threading.Thread] = []

    def drain() -> int:
        try:
            return len(os.read(reader, 1 << 20))
        except BlockingIOError:
            return 0

    def before() -> None:
        threads.append(threading.Thread(target=stream.write, args=("x" * (1 << 18),)))
        threads[-1].start()
        assert eventually(lambda: bool(drain()))  # it has begun, and will fill the pipe again

    def after_in_parent() -> None:
        thread = threads.pop()
        assert eventually(lambda: not drain() and not thread.is_alive())  # all of it, too
        thread.join()

    os.register_at_fork(before=before, after_in_parent=after_in_parent)


def main() -> None:
    hold_stdout_while_forking()
    pool = Pool(2, context=get_context("fork"))
    assert pool.map(print, range(4)) == [None] * 4
    pool.close()
    pool.join()
    sys.stderr.write("all workers have ended\n")


if __name__ == "__main__":
    main()
