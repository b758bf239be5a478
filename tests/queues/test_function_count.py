"""How many functions one item passes, from `put` to the return of `get`, by way of a host that is a process.

Counted are the calls of functions of the package, in all threads of the three processes, between the moment
before the put and the moment after the get: looks that find nothing to do are counted, too. A profile
function counts. A thread that has one is taken for exposed to exceptions at any bytecode, and has its work
done by a deputy: what tells that is replaced here, so that the usual way is counted.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support.injector import SOURCE

MOST_CALLS, MOST_FUNCTIONS, MOST_FILES = 182, 137, 30
"""Of the item that passed the fewest: how many turns the threads take depends on how they meet."""
ITEMS, WARM = 12, 4

COUNTER = """
import _thread, os, sys, threading, time
sys.getprofile = lambda: None
package = os.environ["PACKAGE"]  # not any folder of that name: an interpreter may lie in one, too
# Threads write at the same time: a line by one call of the system.
out = os.open(f"{os.environ['CALLS']}/{os.getpid()}.calls", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def note(frame, event, argument):
    code = frame.f_code
    if event == "call" and code.co_filename.startswith(package):
        place = code.co_filename.removeprefix(package)
        os.write(out, f"{time.monotonic_ns()} {place} {code.co_qualname}\\n".encode())

def start(run, arguments, keywords={}):
    def counted(*arguments, **keywords):
        sys.setprofile(note)
        return run(*arguments, **keywords)
    return started(counted, arguments, keywords)

started, _thread.start_new_thread = _thread.start_new_thread, start
threading.setprofile(note)
sys.setprofile(note)
"""
HOST = """
import sys
from nearfar import Queue
with Queue(0, "tcp://127.0.0.1:*", maxbytes=1 << 25) as queue:
    print(queue.address, flush=True)
    sys.stdin.read()
"""
GET = """
import sys, time
from nearfar import Queue
with Queue.connect(sys.argv[1]) as queue:
    print("ready", flush=True)
    while (item := queue.get()) >= 0:
        print(item, time.monotonic_ns(), flush=True)
"""
PUT = """
import sys, time
from nearfar import Queue
with Queue.connect(sys.argv[1]) as queue:
    for number in range(int(sys.argv[2])):
        time.sleep(0.15)  # until all that the item before has left behind is done
        print(number, time.monotonic_ns(), flush=True)
        queue.put(number)
    queue.put(-1)
"""


@pytest.mark.slow
def test_an_item_passes_few_functions(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(COUNTER)
    environment = os.environ | {"CALLS": str(tmp_path), "PYTHONPATH": str(tmp_path), "PACKAGE": f"{SOURCE}/"}

    def start(program: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    with start(HOST) as host:
        assert host.stdout is not None
        address = host.stdout.readline().strip()
        with start(GET, address) as getting, start(PUT, address, str(ITEMS)) as putting:
            put, _ = putting.communicate(timeout=90)
            got, _ = getting.communicate(timeout=90)
        host.communicate(timeout=90)
    began, ended = times(put), times(got.removeprefix("ready\n"))
    calls = sorted(
        (int(at), place, name)
        for log in tmp_path.glob("*.calls")
        for at, place, name in (line.split(maxsplit=2) for line in log.read_text().splitlines())
    )
    seen = [
        Counter((place, name) for at, place, name in calls if began[number] <= at <= ended[number])
        for number in range(WARM, ITEMS)
    ]
    fewest = min(seen, key=Counter.total)
    assert fewest.total() <= MOST_CALLS
    assert len(fewest) <= MOST_FUNCTIONS
    assert len({place for place, _ in fewest}) <= MOST_FILES


def times(lines: str) -> dict[int, int]:
    """When each item was put, or got."""
    return {int(number): int(at) for number, at in (line.split() for line in lines.splitlines())}
