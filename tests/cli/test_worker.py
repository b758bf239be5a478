"""``nearfar worker``: its messages, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from nearfar import Pool
from nearfar.cli.exits import Exit
from nearfar.cli.worker import main
from nearfar.coordinator.status import ask
from nearfar.net.addresses import Address
from tests.pool import tasks
from tests.support.shell import ANYWHERE, Shell, alive, ended, first_line, insist, interrupt
from tests.support.waiting import eventually

LEFT = "stopped; every task that had begun was answered\n"
STOPPING = "stopping: finishing the current work (again: exit at once)\n"


def workers(address: str) -> int:
    """The number of workers of the coordinator there."""
    return ask(Address.parse(address), 5.0).counts["workers"]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("5556", "cannot read the address '5556': expected tcp://host:port or ipc://path"),
        ("tcp://127.0.0.1:*", "cannot connect to tcp://127.0.0.1:*: it needs a port"),
        ("ipc://", "needs the path of a socket file"),
    ],
)
def test_a_bad_address_is_a_short_error(address: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--connect", address]) == Exit.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nearfar worker: ") and said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--processes", "0"], "is not a whole number of at least 1"),
        (["--max-tasks", "none"], "is not a whole number of at least 1"),
        (["--wait", "-1"], "is not a number of seconds above 0"),
        (["tcp://127.0.0.1:5556"], "unexpected argument 'tcp://127.0.0.1:5556'"),
        (["--bind", ANYWHERE], "there is no option --bind"),
        (["--plain"], "expected at least one argument"),
        (["--plain", "a b"], "'a b' names no functions: expected module, package or module:function"),
        (["--plain", "__main__"], "'__main__' cannot be allowed"),
        (["--plain", "json", "nowhere_at_all"], "no module nowhere_at_all is found"),
        (
            ["--plain", "json.nowhere:f"],
            "no module json.nowhere is found: install it, or start in its folder",
        ),
    ],
)
def test_a_wrong_option_is_a_short_error(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == Exit.USAGE
    assert said in capsys.readouterr().err


def test_without_a_coordinator_it_ends_after_the_wait(shell: Shell, tmp_path: Path) -> None:
    began = time.monotonic()
    agent, _ = shell.worker(f"ipc://{tmp_path}/nobody", 1, "--wait", "0.5")
    assert ended(agent) == (
        Exit.LOST,
        "",
        f"nearfar worker: no coordinator has answered at ipc://{tmp_path}/nobody for 0.5 s\n",
    )
    assert time.monotonic() - began < 10


@pytest.mark.slow
def test_it_reports_that_it_waits_for_a_coordinator(shell: Shell, tmp_path: Path) -> None:
    agent, _ = shell.worker(f"ipc://{tmp_path}/pool", 1)
    assert agent.stderr is not None
    assert agent.stderr.readline() == f"no coordinator answers at ipc://{tmp_path}/pool; waiting for one\n"
    shell.coordinator(f"ipc://{tmp_path}/pool")
    assert agent.stderr.readline() == f"joined the coordinator at ipc://{tmp_path}/pool\n"


def test_it_may_start_before_and_survive_the_coordinator(shell: Shell, tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/pool"
    agent, name = shell.worker(address)
    for _ in range(2):
        coordinator, _ = shell.coordinator(address, "--lease", "1")
        with Pool.connect(address) as pool:
            assert pool.map(tasks.square, range(10)) == [n * n for n in range(10)]
        coordinator.kill()
        coordinator.wait()
    assert agent.poll() is None and name


@pytest.mark.slow
def test_when_its_coordinator_is_lost_it_ends_after_the_wait(shell: Shell) -> None:
    coordinator, address = shell.coordinator(ANYWHERE, "--lease", "0.5")
    agent, _ = shell.worker(address, 1, "--wait", "1")
    assert eventually(lambda: workers(address) == 1)
    coordinator.kill()
    code, _, err = ended(agent)
    assert code == Exit.LOST
    assert err.splitlines()[-1] == f"nearfar worker: no coordinator has answered at {address} for 1 s"


@pytest.mark.slow
def test_it_can_join_the_pool_of_a_program(shell: Shell) -> None:
    with Pool(0, address=ANYWHERE) as pool:
        assert pool.address is not None
        agent, _ = shell.worker(pool.address)
        assert pool.map(tasks.square, range(10)) == [n * n for n in range(10)]
    agent.send_signal(signal.SIGTERM)
    assert ended(agent)[0] == Exit.OK


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_after_a_first_signal_running_tasks_are_answered_and_no_others_taken(
    shell: Shell, tmp_path: Path, signum: signal.Signals
) -> None:
    _, address = shell.coordinator()
    agent, _ = shell.worker(address, 1)
    marks = [tmp_path / f"mark {n}" for n in range(2)]
    gate = tmp_path / "gate"
    with Pool.connect(address) as pool:
        first, second = (
            pool.apply_async(tasks.leave_then_wait_for, (str(mark), str(gate))) for mark in marks
        )
        assert eventually(marks[0].exists)
        if signum == signal.SIGINT:
            interrupt(agent)
        else:
            agent.send_signal(signum)
        assert agent.stderr is not None
        while agent.stderr.readline() != STOPPING:
            pass
        gate.touch()
        assert first.get(20) is None
        code, out, err = ended(agent)
        assert (code, out, err) == (Exit.OK, "", LEFT)
        assert not marks[1].exists()
        shell.worker(address, 1)
        assert second.get(20) is None


def test_a_second_signal_ends_it_at_once_with_all_its_processes(shell: Shell, tmp_path: Path) -> None:
    _, address = shell.coordinator()
    agent, _ = shell.worker(address, 1)
    mark, gate = tmp_path / "mark", tmp_path / "gate"
    with Pool.connect(address) as pool:
        pool.apply_async(tasks.say_pid_then_wait_for, (str(mark), str(gate)))
        assert eventually(mark.exists)
        assert agent.stderr is not None
        interrupt(agent)
        while agent.stderr.readline() != STOPPING:
            pass
        insist(agent)
        assert ended(agent)[0] == Exit.INTERRUPTED
        assert eventually(lambda: not alive(int(mark.read_text())), within=10.0)


def test_a_signal_to_all_its_processes_counts_once(shell: Shell, tmp_path: Path) -> None:
    """Given SIGTERM to every process, as service managers send it, I expect running tasks to be answered."""
    _, address = shell.coordinator()
    agent, _ = shell.worker(address, 1)
    mark, gate = tmp_path / "mark", tmp_path / "gate"
    with Pool.connect(address) as pool:
        result = pool.apply_async(tasks.leave_then_wait_for, (str(mark), str(gate)))
        assert eventually(mark.exists)
        os.killpg(agent.pid, signal.SIGTERM)
        assert agent.stderr is not None
        while agent.stderr.readline() != STOPPING:
            pass
        gate.touch()
        assert result.get(20) is None
        assert ended(agent) == (Exit.OK, "", LEFT)


def sigterm_kills_children() -> tuple[int, int]:
    """How a forked child of a task, and a program that it runs, end by SIGTERM."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(writing, b"!")
        while True:
            signal.pause()
    os.read(reading, 1)
    os.kill(pid, signal.SIGTERM)
    program = subprocess.Popen(["sleep", "60"])
    program.terminate()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), program.wait()


def test_the_children_of_its_processes_end_by_sigterm(shell: Shell) -> None:
    _, address = shell.coordinator()
    shell.worker(address, 1)
    with Pool.connect(address) as pool:
        assert pool.apply_async(sigterm_kills_children).get(20) == (-signal.SIGTERM, -signal.SIGTERM)


def test_an_idle_worker_ends_without_a_coordinator_too(shell: Shell, tmp_path: Path) -> None:
    agent, _ = shell.worker(f"ipc://{tmp_path}/nobody", 1)
    agent.send_signal(signal.SIGTERM)
    assert ended(agent)[:2] == (Exit.OK, "")


def test_processes_are_replaced_after_max_tasks(shell: Shell) -> None:
    _, address = shell.coordinator()
    shell.worker(address, 1, "--max-tasks", "2")
    with Pool.connect(address) as pool:
        pids = [pool.apply(os.getpid) for _ in range(6)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [2, 2, 2]


def test_output_of_its_processes_is_shown(shell: Shell) -> None:
    _, address = shell.coordinator()
    agent, _ = shell.worker(address, 1)
    with Pool.connect(address) as pool:
        pool.apply(print, ("from afar",), {"flush": True})
    assert first_line(agent) == "from afar\n"


def test_modules_are_found_in_its_working_directory(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def double(x):\n    return 2 * x\n")
    _, address = shell.coordinator()
    shell.worker(address, 1)
    script = f"""
import mine, nearfar
with nearfar.Pool.connect({address!r}) as pool:
    print(pool.map(mine.double, range(3)))
"""
    assert ended(shell.python("-c", script)) == (0, "[0, 2, 4]\n", "")


def test_a_plain_worker_runs_only_allowed_functions(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import os\n\ndef double(x):\n    return 2 * x\n")
    _, address = shell.coordinator()
    agent, _ = shell.worker(address, 1, "--plain", "mine", "math:sqrt", "--plain", "posix:getpid")
    assert agent.stderr is not None
    assert agent.stderr.readline() == "reading no pickle; running only mine, math:sqrt, posix:getpid\n"
    script = f"""
import math, mine, nearfar, os
with nearfar.Pool.connect({address!r}, plain=True) as pool:
    print(pool.map(mine.double, range(3)), pool.apply(math.sqrt, (9,)), pool.apply(os.getpid) > 0)
    for function in math.sin, os.getppid:
        try:
            print(pool.apply(function, (1,)))
        except nearfar.Untrusted as error:
            print(error)
with nearfar.Pool.connect({address!r}) as pool:
    try:
        print(pool.apply(mine.double, (1,)))
    except nearfar.Untrusted as error:
        print(error)
"""
    code, out, err = ended(shell.python("-c", script))
    said = "(it was started to run only what its --plain names; --plain {0} would allow this)"
    assert (code, err) == (0, "")
    assert out.splitlines()[:3] == [
        "[0, 2, 4] 3.0 True",
        f"this worker does not run math:sin {said.format('math:sin')}",
        f"this worker does not run posix:getppid {said.format('posix:getppid')}",
    ]
    assert "reads no pickle: make the pool with plain=True" in out.splitlines()[3]


def test_json_logs_are_one_object_a_line(shell: Shell, tmp_path: Path) -> None:
    _, address = shell.coordinator()
    agent, name = shell.worker(address, 1, "--log-format", "json")
    with Pool.connect(address) as pool:
        pid = pool.apply(os.getpid)
        os.kill(pid, signal.SIGKILL)
        assert pool.apply(os.getpid, retries=1) != pid
    agent.send_signal(signal.SIGTERM)
    code, _, err = ended(agent)
    said: list[dict[str, Any]] = [json.loads(line) for line in err.splitlines()]
    assert code == Exit.OK
    messages = [line["message"] for line in said]
    assert any(m.startswith(f"worker {name}/0.") and m.endswith("was killed by SIGKILL") for m in messages)
    assert said[-1]["message"] + "\n" == LEFT
    assert all({"time", "level", "event", "message"} <= line.keys() for line in said)


def test_running_tasks_of_a_client_that_terminates_are_killed(shell: Shell, tmp_path: Path) -> None:
    _, address = shell.coordinator()
    agent, _ = shell.worker(address, 1)
    mark, gate = tmp_path / "mark", tmp_path / "gate"
    with Pool.connect(address) as pool:
        result = pool.apply_async(tasks.say_pid_then_wait_for, (str(mark), str(gate)))
        assert eventually(mark.exists)
    with pytest.raises(CancelledError):
        result.get(20)
    assert eventually(lambda: not alive(int(mark.read_text())))
    agent.send_signal(signal.SIGTERM)
    assert "was killed by SIGKILL, as the coordinator asked\n" in ended(agent)[2]


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="Python then takes a shorter folder")
def test_a_failure_to_start_processes_is_reported(tmp_path: Path) -> None:
    """Given a temporary folder whose path is too long for a socket, I expect one line and an exit code."""
    place = tmp_path / ("long" * 25)
    place.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "nearfar", "worker", "--connect", f"ipc://{tmp_path}/pool"],
        env=os.environ | {"TMPDIR": str(place)},
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.returncode == Exit.FAILED
    assert done.stderr == "nearfar worker: no worker can be started: AF_UNIX path too long\n"
