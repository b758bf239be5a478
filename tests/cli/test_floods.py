"""A peer without a key connects to a service as often as it can: admitted peers are served all the same."""

from __future__ import annotations

import resource
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nearfar import Pool, Queue
from nearfar.cli.keys import main
from nearfar.net.addresses import Address
from tests.support.shell import ANYWHERE, Shell, ended, first_line

CONNECTIONS = 600
DESCRIPTORS = 256
"""That the service may have."""
SECONDS = 2.0
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
del sys.argv[1]
from nearfar.__main__ import run
run()
"""
SCRIPT = """
import resource, signal, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
from nearfar import Queue
queue = Queue(0, "tcp://127.0.0.1:*", **({"keys": sys.argv[2]} if len(sys.argv) > 2 else {}))
print(queue.address, flush=True)
signal.pause()
"""


def serve(shell: Shell, program: str, access: dict[str, Any], limit: int = DESCRIPTORS) -> tuple[Any, str]:
    """A service that may have so many descriptors, and its address."""
    process = shell.python("-c", LIMITED, str(limit), program, "--bind", ANYWHERE, *words(access))
    line = first_line(process)
    assert " at tcp://" in line, process.communicate()
    return process, line.rpartition(" ")[2].strip()


def words(access: dict[str, Any]) -> list[str]:
    """The command line of such a service as a program."""
    return ["--keys", access["keys"]] if "keys" in access else ["--no-keys"] if access else []


def accesses(tmp_path: Path, name: str) -> dict[str, Any]:
    if name == "keys":
        main(["init", "--keys", str(tmp_path / "keys")])
        return {"keys": str(tmp_path / "keys")}
    return {"insecure": True} if name == "insecure" else {}


def flood(shell: Shell, address: str, said: str = "") -> Any:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] > CONNECTIONS
    port = str(Address.parse(address).port)
    process = shell.python("-m", "tests.support.flood", port, str(CONNECTIONS), str(SECONDS), said)
    assert first_line(process) == "begins\n"
    return process


def served(use: Callable[[int], object], flooding: Any) -> float:
    """Use a service as long as it is flooded; returns the longest duration of a use, in seconds."""
    longest, number = 0.0, 0
    while flooding.poll() is None:
        began = time.monotonic()
        use(number)
        longest, number = max(longest, time.monotonic() - began), number + 1
    assert number > 3
    return longest


def in_background(do: Callable[[], object]) -> Callable[[], None]:
    """Run `do` in another thread; returns a function that waits for it, and raises what it raised."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            do()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def wait() -> None:
        thread.join(30)
        assert not thread.is_alive()
        if errors:
            raise errors[0]

    return wait


@pytest.mark.slow
@pytest.mark.parametrize("said", ["", "GET / HTTP/1.0"], ids=["silent", "rude"])
@pytest.mark.parametrize("access", ["keys", "own", "insecure"])
def test_a_flooded_queue_serves_its_clients(shell: Shell, tmp_path: Path, access: str, said: str) -> None:
    """Connected clients are served at once, and new ones are admitted."""
    how = accesses(tmp_path, access)
    host, address = serve(shell, "queue", how)

    def come() -> None:
        with Queue.connect(address, wait=25, **how) as late:
            assert late.qsize() >= 0

    with Queue.connect(address, wait=25, **how) as queue:
        queue.put(-1)
        assert queue.get(timeout=20) == -1
        flooding = flood(shell, address, said)
        late = in_background(come)

        def use(number: int) -> None:
            queue.put(number)
            assert queue.get(timeout=20) == number

        longest = served(use, flooding)
        late()
        assert int(flooding.communicate()[0]) > 0
    assert longest < 5
    assert host.poll() is None
    host.send_signal(signal.SIGTERM)
    ended(host)


@pytest.mark.slow
@pytest.mark.parametrize("access", ["keys", "own", "insecure"])
def test_a_flooded_coordinator_serves_its_clients(shell: Shell, tmp_path: Path, access: str) -> None:
    how = accesses(tmp_path, access)
    coordinator, address = serve(shell, "coordinator", how)
    shell.worker(address, 1, *words(how))

    def come() -> None:
        with Pool.connect(address, **how) as late:
            assert late.apply(abs, (-3,)) == 3

    with Pool.connect(address, **how) as pool:
        assert pool.apply(abs, (-1,)) == 1
        flooding = flood(shell, address)
        late = in_background(come)
        assert served(lambda number: pool.apply(abs, (-number,)), flooding) < 5
        late()
    assert coordinator.poll() is None
    coordinator.send_signal(signal.SIGTERM)
    assert ended(coordinator)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("access", ["keys", "own"])
def test_a_script_that_hosts_is_no_easier_to_flood(shell: Shell, tmp_path: Path, access: str) -> None:
    """It has the soft limit of a shell, which no program has raised."""
    how = accesses(tmp_path, access)
    script = shell.python("-c", SCRIPT, "400", *how.values())
    address = first_line(script).strip()
    assert address.startswith("tcp://"), script.communicate()
    with Queue.connect(address, wait=25, **how) as queue:
        queue.put(-1)
        assert queue.get(timeout=20) == -1
        flooding = flood(shell, address)

        def use(number: int) -> None:
            queue.put(number)
            assert queue.get(timeout=20) == number

        assert served(use, flooding) < 5
    assert script.poll() is None
