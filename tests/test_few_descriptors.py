"""A script that may open only a few more files works, or gets an error with a reason; it never hangs or
aborts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = """
import os, resource, sys
import nearfar, nearfar.coordinator.server, nearfar.pool.near_engine, nearfar.pool.far_engine
from nearfar import Executor, Pool, Queue
what = sys.argv[1]

def work(left):
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + left, lowest + left))
    place = f"ipc://{os.getcwd()}/{left}" if "ipc" in what else "tcp://127.0.0.1:*"
    try:
        if "queue" in what:
            with Queue(0, place, wait=10) as queue:
                queue.put("done")
                print(queue.get(timeout=10))
        elif "executor" in what:
            with Executor(1) as executor:
                print(executor.submit(str, "done").result(20))
        else:
            with Pool(1, **({} if "near" in what else {"address": place})) as pool:
                print(pool.apply(str, ("done",)))
    except (OSError, nearfar.NearfarError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)

running = {}
def wait_for_one():
    pid, status = os.wait()
    print(running.pop(pid), os.waitstatus_to_exitcode(status), flush=True)

for left in sys.argv[2:]:  # each in a process of its own, four at a time, and only the imports once for all
    pid = os.fork()
    if pid == 0:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{left}.{name}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC), number)
        os.closerange(3, 64)
        work(int(left))
        sys.exit()
    running[pid] = left
    if len(running) == 4:
        wait_for_one()
while running:
    wait_for_one()
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("what", ["queue tcp", "queue ipc", "pool near", "pool tcp", "pool ipc", "executor"])
def test_few_descriptors_are_enough_or_an_error_with_a_reason(tmp_path: Path, what: str) -> None:
    """Given each number of free descriptors, I expect it to do its work, or to end with an error that names
    the lack; from 80 on it works."""
    lefts = [2, 9, 16, 20, 23, 24, 26, 28, 30, 32, 35, 38, 42, 48, 80]
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, what, *map(str, lefts)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=100,
        check=True,
    )
    codes = dict(map(int, line.split()) for line in run.stdout.splitlines())
    assert sorted(codes) == lefts
    for left, code in codes.items():
        out, err = ((tmp_path / f"{left}.{name}").read_text().strip() for name in ("out", "err"))
        assert code in (0, 1), (left, code, out, err)
        assert (code, out) == (0, "done") or (code == 1 and err), (left, out, err)
        assert "Traceback" not in err or code == 0, (left, err)
        if code == 1:
            said = err.splitlines()[-1]
            assert "files" in said or "worker" in said, (left, err)
        assert left < 80 or code == 0, (left, err)
