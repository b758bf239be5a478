"""The memory of a message is reused for the next one."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
from nearfar.net.memory import keep_freed_memory
keep_freed_memory()
def take_and_free():
    blocks = [bytearray(16 << 20) for _ in range(3)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
first = take_and_free()
for _ in range(4):
    last = take_and_free()
print(last - first)
"""
PAGES = (48 << 20) // 4096


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_memory_that_was_freed_costs_no_faults_again() -> None:
    said = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, timeout=90)
    assert int(said.stdout) < PAGES
