"""The README is correct."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from nearfar import Queue
from nearfar.contrast.report_model import PROMISES
from nearfar.queues.base import Promises
from tests.support import redis_server

README = Path(__file__).parents[1] / "README.md"
ROW = re.compile(r"\| `(\w+)` \| (.+?) \| (yes|no) \| (yes|no) \| (yes|no) \| (yes|no) \|")


def answers(promises: Promises, name: str) -> str:
    return "yes" if getattr(promises, name) else "no"


def test_the_table_of_promises_is_what_the_queues_say() -> None:
    near = Queue()
    near.close()
    far = [Queue.connect(address, insecure=True) for address in ("ipc:///run/queue", "tcp://storage:5555")]
    promises = [queue.promises() for queue in (near, *far)]
    assert [each.transport for each in promises] == ["near", "ipc", "tcp"]
    said = ROW.findall(README.read_text(encoding="utf-8"))
    assert [row[:-1] for row in said] == [
        (name, meaning, *(answers(each, name) for each in promises)) for name, meaning in PROMISES.items()
    ]


@redis_server.needed
def test_the_table_of_promises_is_what_a_queue_in_redis_says() -> None:
    said = {name: answer for name, *_, answer in ROW.findall(README.read_text(encoding="utf-8"))}
    with redis_server.running(*redis_server.DURABLE) as server:
        promises = Queue.connect(server.address()).promises()
    assert promises.transport == "redis"
    assert said == {name: answers(promises, name) for name in PROMISES}
    lacking = {
        ("--appendonly", "yes", "--appendfsync", "everysec"): {"survives_power_cut"},
        (): {"survives_killed_host", "durable", "survives_power_cut"},
    }
    for options, names in lacking.items():
        with redis_server.running(*options) as server:
            promises = Queue.connect(server.address()).promises()
        assert {name for name in PROMISES if answers(promises, name) != said[name]} == names


@pytest.mark.parametrize("queue", ['Queue(5, "tcp://127.0.0.1:*")', "Queue(5)"])
def test_the_sample_runs(tmp_path: Path, queue: str) -> None:
    """For a near queue the test calls `shutdown`, as the README requires."""
    sample = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[0]
    far = 'Queue(5, "tcp://127.0.0.1:*")'
    assert far in sample
    said = sample.replace(far, queue)
    if queue != far:
        said = said.replace("q.close()", "q.shutdown()")
    program = tmp_path / "sample.py"
    program.write_text(said, encoding="utf-8")
    run = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=90)
    assert (run.stdout, run.stderr, run.returncode) == ("girl.jpg\nboy.jpg\nman.jpg\n", "", 0)


@pytest.mark.parametrize("pool", ["Pool(4)", 'Pool(4, address="tcp://127.0.0.1:*")'])
def test_the_pool_s_sample_runs(tmp_path: Path, pool: str) -> None:
    sample = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[1]
    assert "with Pool(4) as" in sample
    program = tmp_path / "sample.py"
    program.write_text(sample.replace("with Pool(4) as", f"with {pool} as"), encoding="utf-8")
    run = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=90)
    assert (run.stdout, run.stderr, run.returncode) == ("[0, 1, 4, 9, 16]\n49\n", "", 0)


def test_every_file_that_it_names_exists() -> None:
    text = README.read_text(encoding="utf-8")
    names = re.findall(r"\]\((?!https://)([^)]+)\)|`((?:tests|docs|examples)/[^` ]*)`", text)
    missing = [name for pair in names for name in pair if name and not (README.parent / name).exists()]
    assert names
    assert missing == []
