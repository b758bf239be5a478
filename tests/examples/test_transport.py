"""The transport on the page about transports works, and passes the contract tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.queues.contract import LIMIT

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "transports.md").read_text(encoding="utf-8")
USE = """
from nearfar import Queue, QueueLost
with Queue(5, "name://pictures") as queue, Queue.connect("name://pictures") as other:
    other.put("girl.jpg")
    print(queue.get())
for address in ("name://a/b", "name://nowhere"):
    try:
        Queue.connect(address, wait=0.1)
    except (ValueError, QueueLost) as error:
        print(type(error).__name__, error)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which the page's package is installed."""
    [source] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(source.splitlines()) <= 60
    (tmp_path / "named_queue.py").write_text(source, encoding="utf-8")
    [entry_point] = re.findall(
        r'```toml\n\[project.entry-points."nearfar.queues"\]\n(.*?)```', PAGE, re.DOTALL
    )
    about = tmp_path / "named_queue-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: named-queue\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[nearfar.queues]\n" + entry_point.replace('"', ""))
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, "QUEUE_NAMES": str(tmp_path / "names")}


def test_it_is_found_by_its_scheme(environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", USE]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT)
    assert run.stdout.splitlines() == [
        "girl.jpg",
        "AddressError cannot read the address 'name://a/b': expected name://NAME",
        "QueueLost no process has hosted a queue at name://nowhere for 0.1 s",
    ], run.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_passes_the_contract_tests(environment: dict[str, str]) -> None:
    [said] = re.findall(r"^NEARFAR_TEST_TRANSPORT='(.*)' pytest (.*)$", PAGE, re.MULTILINE)
    files = [str(path) for pattern in said[1].split() for path in sorted(ROOT.glob(pattern))]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=60", *files]
    run = subprocess.run(
        command,
        cwd=ROOT,
        env=environment | {"NEARFAR_TEST_TRANSPORT": said[0]},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert run.returncode == 0, run.stdout[-4000:]
    assert int(re.findall(r"(\d+) passed", run.stdout)[0]) > 130
