"""The programs of a pool stay within their memory bounds for any client, and others are served."""

from __future__ import annotations

import signal

import pytest

from nearfar import Pool
from nearfar.cli import coordinator as program
from nearfar.cli.exits import Exit
from nearfar.coordinator.status import ask
from nearfar.net.addresses import Address
from tests.pool import tasks
from tests.support.hostile import memory
from tests.support.pool_client import PoolClient
from tests.support.shell import ANYWHERE, LIMIT, Shell, first_line
from tests.support.waiting import eventually

MIB = 1 << 20
BOUND = 16 * MIB
STOPS = """
import os, signal, sys
from nearfar import Pool
with Pool.connect(sys.argv[1]) as pool:
    results = [pool.apply_async(bytes, (1 << 20,)) for _ in range(64)]
    results[0].get()
    print("stops", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    print(sum(len(result.get()) for result in results), flush=True)
"""


def counts(address: str) -> dict[str, int]:
    return ask(Address.parse(address), LIMIT).counts


def test_a_client_that_takes_no_results_fills_no_memory(shell: Shell) -> None:
    """Given a client that is stopped, with 64 results of 1 MiB to come, at a coordinator with 16 MiB,

    I expect its tasks to be held back, neither the coordinator nor the worker to grow by more than that, and
    another client to be served; and all results to arrive when it continues.
    """
    coordinator, address = shell.coordinator(ANYWHERE, "--max-bytes", "16MiB", "--lease", "60")
    worker, _ = shell.worker(address, 2)
    with Pool.connect(address) as pool:
        assert pool.apply(tasks.square, (3,)) == 9
        before = {each.pid: memory(each.pid) for each in (coordinator, worker)}
        client = shell.python("-c", STOPS, address)
        assert first_line(client) == "stops\n"
        assert eventually(lambda: counts(address)["held back"] == 1, LIMIT)
        assert pool.map(tasks.square, range(20)) == [n * n for n in range(20)]
        assert counts(address)["bytes"] <= BOUND
        for pid, size in before.items():
            assert memory(pid) - size < 2 * BOUND
        client.send_signal(signal.SIGCONT)
        assert first_line(client) == f"{64 * MIB}\n"
        assert eventually(lambda: counts(address)["bytes"] == 0, LIMIT)


def test_a_client_that_sends_too_much_fills_no_memory(shell: Shell) -> None:
    """Given a client that ignores the bound, and sends 24 MiB of arguments,

    I expect the coordinator to accept a share of its bound, and to serve another client; and each task to get
    its outcome in the end.
    """
    coordinator, address = shell.coordinator(ANYWHERE, "--max-bytes", "16MiB", "--lease", "8")
    before = memory(coordinator.pid)
    greedy = PoolClient(address)
    try:
        for _ in range(24):
            greedy.submit(bytes(MIB - 100))
        assert greedy.until(lambda: counts(address)["put off"] > 0, LIMIT)
        assert counts(address)["bytes"] <= BOUND // 4 + MIB
        assert memory(coordinator.pid) - before < 3 * BOUND
        shell.worker(address, 2)
        with Pool.connect(address) as pool:
            assert pool.apply(tasks.square, (3,)) == 9
        assert greedy.until(greedy.done, LIMIT)
    finally:
        greedy.close()


def test_a_result_that_is_too_large_fails_with_the_reason(shell: Shell) -> None:
    _, address = shell.coordinator(ANYWHERE, "--max-bytes", "16MiB")
    shell.worker(address, 1)
    with Pool.connect(address) as pool:
        assert pool.apply(tasks.square, (3,)) == 9
        with pytest.raises(Exception, match=r"the result of 5\d+ bytes cannot be sent.*--max-bytes"):
            pool.apply(bytes, (5 * MIB,))
        with pytest.raises(Exception, match=r"the arguments of 5\d+ bytes cannot be sent.*--max-bytes"):
            pool.apply(len, (bytes(5 * MIB),))
        assert pool.apply(len, (bytes(3 * MIB),)) == 3 * MIB


@pytest.mark.parametrize("size", ["1k", "15MiB"])
def test_a_bound_too_small_to_work_with_is_refused(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        program.main(["--max-bytes", size])
    assert left.value.code == Exit.USAGE
    assert "--max-bytes: at least 16MiB, or 0 for no bound" in capsys.readouterr().err
