"""``nearfar coordinator``: its messages, its status, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from nearfar import CoordinatorLost, Pool, Untrusted
from nearfar.cli.coordinator import describe, main
from nearfar.cli.exits import Exit
from tests.pool import tasks
from tests.support.shell import ANYWHERE, Shell, alive, ended, insist, interrupt
from tests.support.waiting import eventually

NOBODY = "ipc:///tmp/nobody-coordinates-here"


@pytest.fixture(params=["tcp", "ipc"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address to bind."""
    return ANYWHERE if request.param == "tcp" else f"ipc://{tmp_path}/pool"


def test_it_prints_its_address_and_its_own_workers_run_tasks(shell: Shell, place: str) -> None:
    coordinator, address = shell.coordinator(place, "--workers", "2")
    with Pool.connect(address) as pool:
        assert pool.map(tasks.square, range(10)) == [n * n for n in range(10)]
    coordinator.send_signal(signal.SIGTERM)
    assert ended(coordinator) == (
        Exit.OK,
        "",
        "stopping: finishing the current work (again: exit at once)\nstopped\n",
    )


def test_its_own_workers_may_be_plain(shell: Shell) -> None:
    coordinator, address = shell.coordinator(ANYWHERE, "--workers", "1", "--plain", "tests.pool.tasks:square")
    assert coordinator.stderr is not None
    assert coordinator.stderr.readline() == "reading no pickle; running only tests.pool.tasks:square\n"
    with Pool.connect(address, plain=True) as pool:
        assert pool.map(tasks.square, range(3)) == [0, 1, 4]
        with pytest.raises(Untrusted, match=r"does not run tests\.pool\.tasks:add"):
            pool.apply(tasks.add, (1, 2))


def test_plain_is_refused_without_own_workers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--plain", "tests"])
    assert left.value.code == Exit.USAGE
    assert "--plain applies to --workers only: give it to nearfar worker" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("5556", "cannot read the address"),
        ("tcp://127.0.0.1:70000", "a port is at most 65535"),
        ("tcp://0.0.0.0:*", "give keys, so that it is known who comes in"),
        ("tcp://*:*", "or say insecure=True (--no-keys)"),
        ("ipc:///nowhere/at/all", "there is no folder /nowhere/at"),
        ("ipc://", "needs the path of a socket file"),
        ("tcp://192.0.2.1:*", "can be reached from other machines"),
    ],
)
def test_a_bad_address_is_a_short_error(address: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bind", address]) == Exit.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nearfar coordinator: ") and said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lease", "0"], "is not a number of seconds above 0"),
        (["--lease", "nan"], "is not a number of seconds above 0"),
        (["--workers", "-1"], "is not a whole number"),
        (["--workers", "many"], "is not a whole number"),
        (["--grace", "soon"], "is not a number of seconds"),
        (["extra"], "unexpected argument 'extra'"),
        (["--processes", "3"], "there is no option --processes"),
    ],
)
def test_a_wrong_option_is_a_short_error(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == Exit.USAGE
    assert said in capsys.readouterr().err


def test_an_address_in_use_is_a_short_error(
    shell: Shell, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, address = shell.coordinator(place)
    assert main(["--bind", address]) == Exit.USAGE
    assert capsys.readouterr().err == f"nearfar coordinator: cannot bind {address}: the address is in use\n"


def test_it_warns_beyond_loopback(shell: Shell) -> None:
    coordinator, address = shell.coordinator("tcp://0.0.0.0:*", "--no-keys", "--workers", "1")
    with Pool.connect(address, insecure=True) as pool:
        assert pool.apply(tasks.square, (3,)) == 9
    coordinator.send_signal(signal.SIGTERM)
    code, _, err = ended(coordinator)
    assert code == Exit.OK
    assert f"everyone who can reach the pool at {address} can run any code" in err.splitlines()[0]


def test_the_status_shows_workers_tasks_and_running_functions(shell: Shell, tmp_path: Path) -> None:
    _, address = shell.coordinator()
    agent, name = shell.worker(address)
    mark, gate = tmp_path / "mark", tmp_path / "gate"
    with Pool.connect(address) as pool:
        assert pool.map(tasks.square, range(10), 1) == [n * n for n in range(10)]
        running = pool.apply_async(tasks.leave_then_wait_for, (str(mark), str(gate)))
        assert eventually(mark.exists)
        code, out, err = ended(shell.start("coordinator", "--status", address))
        gate.touch()
        running.get(20)
    assert (code, err) == (Exit.OK, "")
    summary, heads, *rows = out.splitlines()
    assert summary == "2 workers (1 running), 0 waiting, 10 done (0/s); 1 agent, 1 client"
    assert heads.split() == ["worker", "host", "pid", "tasks", "tasks/s", "runs", "for"]
    assert len(rows) == 2
    assert all(row.startswith(f"{name}/") for row in rows)
    assert sum(int(row.split()[3]) for row in rows) == 10
    (busy,) = [row for row in rows if "tests.pool.tasks:leave_then_wait_for" in row]
    assert busy.endswith(" s")
    assert agent.poll() is None


@pytest.mark.slow
def test_the_status_shows_the_rate(shell: Shell) -> None:
    _, address = shell.coordinator(ANYWHERE, "--workers", "1")
    with Pool.connect(address) as pool:
        asked = shell.start("coordinator", "--status", address)
        results = iter(pool.imap(tasks.square, iter(int, 1)))
        while asked.poll() is None:
            next(results)
        code, out, _ = ended(asked)
    assert code == Exit.OK
    assert " done (0/s)" not in out.splitlines()[0]
    assert int(out.splitlines()[-1].split()[4].replace(",", "")) > 0


@pytest.mark.slow
def test_the_status_of_an_empty_pool_is_one_line(shell: Shell, place: str) -> None:
    _, address = shell.coordinator(place)
    assert ended(shell.start("coordinator", "--status", address)) == (
        Exit.OK,
        "0 workers (0 running), 0 waiting, 0 done (0/s); 0 agents, 0 clients\n",
        "",
    )


def test_the_status_of_a_missing_coordinator_fails_in_time(capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    assert main(["--status", NOBODY, "--wait", "0.3"]) == Exit.LOST
    assert time.monotonic() - began < 5
    assert capsys.readouterr() == (
        "",
        f"nearfar coordinator: no coordinator has answered at {NOBODY} for 0.3 s\n",
    )


def test_the_status_of_a_bad_address_is_a_short_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--status", "tcp://127.0.0.1:*"]) == Exit.USAGE
    assert capsys.readouterr().err.endswith("it needs a port\n")


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_after_a_first_signal_running_tasks_are_answered_and_no_others_taken(
    shell: Shell, tmp_path: Path, signum: signal.Signals
) -> None:
    coordinator, address = shell.coordinator(ANYWHERE, "--workers", "1", "--lease", "1")
    marks = [tmp_path / f"mark {n}" for n in range(2)]
    gate = tmp_path / "gate"
    with Pool.connect(address, wait=1.0) as pool:
        first, second = (
            pool.apply_async(tasks.leave_then_wait_for, (str(mark), str(gate))) for mark in marks
        )
        assert eventually(marks[0].exists)
        if signum == signal.SIGINT:
            interrupt(coordinator)
        else:
            coordinator.send_signal(signum)
        assert coordinator.stderr is not None
        assert coordinator.stderr.readline().startswith("stopping: finishing the current work")
        gate.touch()
        assert first.get(20) is None
        assert ended(coordinator)[0] == Exit.OK
        with pytest.raises(CoordinatorLost):
            second.get(20)
    assert not marks[1].exists()


def test_a_second_signal_ends_it_at_once_with_its_workers(shell: Shell, tmp_path: Path) -> None:
    coordinator, address = shell.coordinator(ANYWHERE, "--workers", "1", "--lease", "1")
    mark, gate = tmp_path / "mark", tmp_path / "gate"
    with Pool.connect(address, wait=1.0) as pool:
        pool.apply_async(tasks.say_pid_then_wait_for, (str(mark), str(gate)))
        assert eventually(mark.exists)
        coordinator.send_signal(signal.SIGTERM)
        assert coordinator.stderr is not None
        assert coordinator.stderr.readline().startswith("stopping")
        insist(coordinator, signal.SIGTERM)
        assert ended(coordinator)[0] == Exit.TERMINATED
        assert eventually(lambda: not alive(int(mark.read_text())), within=10.0)


def test_tasks_that_exceed_the_grace_are_killed(shell: Shell, tmp_path: Path) -> None:
    coordinator, address = shell.coordinator(ANYWHERE, "--workers", "1", "--lease", "1", "--grace", "0.3")
    mark, gate = tmp_path / "mark", tmp_path / "gate"
    with Pool.connect(address, wait=1.0) as pool:
        pool.apply_async(tasks.leave_then_wait_for, (str(mark), str(gate)))
        assert eventually(mark.exists)
        coordinator.send_signal(signal.SIGTERM)
        assert ended(coordinator)[0] == Exit.OK


def test_it_logs_its_status_when_it_changes(shell: Shell) -> None:
    coordinator, address = shell.coordinator(ANYWHERE, "--status-every", "0.1", "--log-format", "json")
    shell.worker(address, 1)
    assert coordinator.stderr is not None
    said = {}
    while said.get("workers") != 1:
        said = json.loads(coordinator.stderr.readline())
        assert said["level"] == "info"
    assert said["event"] == "status"
    assert said["message"].startswith("1 worker (0 running), 0 waiting, 0 done (0/s); 1 agent, 0 clients")
    coordinator.send_signal(signal.SIGTERM)
    *_, stopped = map(json.loads, ended(coordinator)[2].splitlines())
    assert stopped["message"] == "stopped"


def test_quiet_prints_only_the_address(shell: Shell) -> None:
    coordinator, address = shell.coordinator(ANYWHERE, "--status-every", "0.1", "-q")
    shell.worker(address, 1)
    with Pool.connect(address) as pool:
        assert pool.apply(tasks.square, (3,)) == 9
    interrupt(coordinator)
    assert ended(coordinator)[1:] == ("", "stopping: finishing the current work (again: exit at once)\n")


def test_a_closed_standard_output_is_no_traceback(shell: Shell) -> None:
    """Given a pipe whose reader has gone, I expect a short error, as of other programs."""
    reading, writing = os.pipe()
    os.close(reading)
    coordinator = shell.start("coordinator", "--bind", ANYWHERE, stdout=writing)
    os.close(writing)
    code, _, err = ended(coordinator)
    assert code == Exit.FAILED
    assert err == "nearfar coordinator: the reader of standard output is gone\n"


def test_a_status_shows_errors_only_if_there_are_some() -> None:
    names = ("workers", "running", "waiting", "done", "lost", "stale", "malformed", "agents", "clients")
    counts = dict.fromkeys(names, 0) | {"workers": 1, "running": 1, "done": 1204, "agents": 2}
    assert describe(counts) == "1 worker (1 running), 0 waiting, 1,204 done; 2 agents, 0 clients"
    assert describe(counts | {"lost": 1, "stale": 3}, 310.2) == (
        "1 worker (1 running), 0 waiting, 1,204 done (310/s), 1 lost, 3 stale; 2 agents, 0 clients"
    )


def test_status_as_json_is_one_object(shell: Shell, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, address = shell.coordinator(place, "--workers", "2")
    with Pool.connect(address) as pool:
        assert pool.map(tasks.square, range(10)) == [n * n for n in range(10)]
    assert main(["--status", address, "--log-format", "json"]) == Exit.OK
    out, err = capsys.readouterr()
    assert (err, out.count("\n")) == ("", 1)
    said = json.loads(out)
    assert (said["event"], said["level"], said["workers"], said["done_per_second"]) == (
        "status",
        "info",
        2,
        0,
    )
    assert said["message"].startswith("2 workers (0 running)")
    assert len(said["per_worker"]) == 2
    assert {worker["pid"] for worker in said["per_worker"]} != {os.getpid()}
    assert sum(worker["tasks"] for worker in said["per_worker"]) == said["done"]
    assert all(worker["runs"] is None for worker in said["per_worker"])
