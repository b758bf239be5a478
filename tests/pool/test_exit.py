"""A program that forgets its pool ends all the same."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from concurrent.futures import {executor}
from nearfar.pool.executor import Executor
from nearfar.pool.pool import Pool

if __name__ == "__main__":
    executor = {executor}(2)
    pool = Pool(executor=executor)
    futures = Executor(executor=executor)
    result = pool.map_async(abs, range(1000), 1)
    iterator = pool.imap(abs, iter(int, 1))
    next(iterator)
    pending = [futures.submit(abs, -number) for number in range(1000)]
    {then}
    print("end")
"""


@pytest.mark.parametrize("executor", ["ProcessPoolExecutor", "ThreadPoolExecutor"])
@pytest.mark.parametrize(
    "then", ["pass", "sys.exit()", "pool.close()", "del pool, result, iterator, pending"]
)
def test_a_forgotten_pool_does_not_hang_the_program(executor: str, then: str) -> None:
    program = PROGRAM.format(executor=executor, then=then)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
    assert ended.returncode == 0
    assert ended.stderr == ""
    assert ("end" in ended.stdout) is (then != "sys.exit()")


def test_a_block_that_raises_ends_the_program_with_its_error() -> None:
    program = PROGRAM.format(executor="ThreadPoolExecutor", then="with pool: 1 / 0")
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
    assert ended.returncode == 1
    assert "ZeroDivisionError" in ended.stderr.splitlines()[-1]
