"""The supervisor's worker processes: started, given tasks, killed, replaced; with real processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from nearfar.coordinator.task import Mode, TaskStatus
from nearfar.serialization.pickles.calls import CallPickler
from nearfar.serialization.pickles.results import load_error, load_result
from nearfar.worker.channel import TaskRow
from nearfar.worker.supervisor import Supervisor
from tests.support.processes import freeze
from tests.support.waiting import eventually

METHODS = ["fork", "forkserver", "spawn"]
PICKLER = CallPickler(far=False, main=None)


class Notes:
    """A listener that records everything."""

    def __init__(self) -> None:
        self.came_: dict[str, int] = {}
        self.answers: dict[str, list[tuple[int, Any]]] = {}
        self.deaths: list[tuple[str, str, int]] = []
        self.left_: list[str] = []
        self.reasons: list[str] = []
        self.returned_: list[tuple[str, int]] = []

    def came(self, name: str, pid: int) -> None:
        self.came_[name] = pid
        self.answers[name] = []

    def answered(self, name: str, answers: Sequence[Sequence[Any]], spent: float) -> None:
        assert spent >= 0
        for status, blob, buffers in answers:
            value = load_result(blob, buffers) if status == TaskStatus.VALUE else load_error(blob)
            self.answers[name].append((status, value))

    def returned(self, name: str, batches: int) -> None:
        self.returned_.append((name, batches))

    def died(self, name: str, how: str, unread: int) -> None:
        self.deaths.append((name, how, unread))

    def left(self, name: str) -> None:
        self.left_.append(name)

    def hopeless(self, reason: str) -> None:
        self.reasons.append(reason)

    def values(self, name: str) -> list[Any]:
        return [value for _, value in self.answers[name]]


class Played:
    """A supervisor with its notes, driven by the test."""

    def __init__(self, count: int, method: str = "fork", **options: Any) -> None:
        self.notes = Notes()
        self.supervisor = Supervisor(
            self.notes, count, context=multiprocessing.get_context(method), **options
        )
        self.supervisor.start()

    def until(self, holds: Callable[[], bool], within: float = 10.0) -> None:
        """Drive the supervisor until a condition holds."""
        end = time.monotonic() + within
        while not holds():
            assert time.monotonic() < end, vars(self.notes)
            self.supervisor.dispatch(self.supervisor.poll(0.05))
            self.supervisor.tick(time.monotonic())

    def all_here(self, count: int) -> list[str]:
        self.until(lambda: len(self.notes.came_) == count)
        return list(self.notes.came_)

    def has_answered(self, name: str, count: int) -> bool:
        return len(self.notes.answers[name]) == count

    def give(self, name: str, *rows: TaskRow) -> None:
        self.supervisor.give(name, "client", rows)


@pytest.fixture
def play() -> Iterator[Callable[..., Played]]:
    made: list[Played] = []

    def make(*args: Any, **options: Any) -> Played:
        made.append(Played(*args, **options))
        return made[-1]

    yield make
    for each in made:
        each.supervisor.close()


def call(func: Callable[..., Any], *args: Any) -> TaskRow:
    function, blob, buffers = PICKLER.dump_call(func, args, {})
    return TaskRow(function, Mode.CALL, blob, buffers)


def wait_for_file(path: str) -> str:
    assert eventually(Path(path).exists, 20)
    return path


def double(number: int) -> int:
    """Returns twice the number; 7 kills the worker."""
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def test_the_fork_server_may_be_killed(play: Callable[..., Played]) -> None:
    """Given a server that is killed while it is asked for a worker, I expect another to start it."""
    for _ in range(2):
        forkserver.ensure_running()
        server = forkserver._forkserver._forkserver_pid
        freeze(server)
        killing = threading.Timer(0.2, os.kill, (server, signal.SIGKILL))
        killing.start()
        play(1, "forkserver").all_here(1)
        killing.join()


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_answered_in_order(play: Callable[..., Played], method: str) -> None:
    played = play(1, method)
    (name,) = played.all_here(1)
    played.give(name, *(call(abs, -number) for number in range(50)))
    played.until(lambda: len(played.notes.answers[name]) == 50)
    assert played.notes.values(name) == list(range(50))


def test_a_fork_server_killed_while_it_starts_a_worker_is_replaced(
    play: Callable[..., Played],
) -> None:
    played = play(1, "forkserver")
    played.all_here(1)
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    freeze(server)
    killing = threading.Timer(0.2, os.kill, (server, signal.SIGKILL))
    killing.start()
    played.supervisor.resize(2)
    played.supervisor.start()
    killing.join()
    (_, name) = played.all_here(2)
    played.give(name, call(abs, -1))
    played.until(lambda: played.has_answered(name, 1))


def test_large_arguments_and_answers_are_sent_beside_the_message(play: Callable[..., Played]) -> None:
    played = play(1)
    (name,) = played.all_here(1)
    large = bytes(range(256)) * 8192
    for _ in range(20):
        played.give(name, call(bytes, large), call(bytes, b"small"), call(bytes, large[:-1]))
    played.until(lambda: len(played.notes.answers[name]) == 60)
    assert played.notes.values(name) == [large, b"small", large[:-1]] * 20


def test_a_short_answer_does_not_wait_for_a_long_task(play: Callable[..., Played], tmp_path: Any) -> None:
    played = play(1)
    (name,) = played.all_here(1)
    gate = str(tmp_path / "gate")
    (tmp_path / "open").touch()
    played.give(name, call(wait_for_file, str(tmp_path / "open")), call(wait_for_file, gate))
    played.until(lambda: len(played.notes.answers[name]) == 1)
    Path(gate).touch()
    played.until(lambda: len(played.notes.answers[name]) == 2)
    assert played.notes.values(name) == [str(tmp_path / "open"), gate]


@pytest.mark.parametrize("method", METHODS)
def test_answers_of_a_killed_worker_are_read_and_its_unread_batches_counted(
    play: Callable[..., Played], method: str
) -> None:
    played = play(1, method)
    (name,) = played.all_here(1)
    freeze(played.notes.came_[name])
    played.give(name, *(call(double, number) for number in (1, 2, 7, 3)))
    played.give(name, call(double, 4))
    played.give(name, call(double, 5))
    os.kill(played.notes.came_[name], signal.SIGCONT)
    played.until(lambda: bool(played.notes.deaths))
    assert played.notes.values(name) == [2, 4]
    assert played.notes.deaths == [(name, "was killed by SIGKILL", 2)]


def test_dead_workers_are_replaced_under_new_names(play: Callable[..., Played]) -> None:
    played = play(2)
    names = played.all_here(2)
    for name in names:
        os.kill(played.notes.came_[name], signal.SIGKILL)
    played.all_here(4)
    assert len(played.supervisor.members) == 2
    assert {member.worker_config.slot for member in played.supervisor.members.values()} == {0, 1}
    assert [how for _, how, _ in played.notes.deaths] == ["was killed by SIGKILL"] * 2


def test_unread_batches_are_recalled(play: Callable[..., Played], tmp_path: Any) -> None:
    played = play(1)
    (name,) = played.all_here(1)
    gate = str(tmp_path / "gate")
    played.give(name, call(wait_for_file, gate))
    played.give(name, call(abs, -2), call(abs, -3))
    played.supervisor.recall(name)  # it may not even have begun the first
    played.until(lambda: played.notes.returned_ == [(name, 1)])
    Path(gate).touch()
    played.give(name, call(abs, -9))
    played.until(lambda: 9 in played.notes.values(name))
    assert played.notes.values(name) == [gate, 9]
    played.supervisor.recall(name)
    assert played.notes.returned_ == [(name, 1), (name, 0)]


def test_answers_keep_their_order_whenever_a_message_is_recalled(play: Callable[..., Played]) -> None:
    """The worker must not read the second of two messages while the first is taken back."""
    played = play(1)
    (name,) = played.all_here(1)
    expected: list[int] = []
    for number in range(0, 4000, 2):
        played.give(name, call(double, number + 100))
        played.give(name, call(double, number + 101))
        count = len(played.notes.returned_)
        played.supervisor.recall(name)
        played.until(lambda count=count: len(played.notes.returned_) > count)
        expected += [2 * (number + 100), 2 * (number + 101)][: 2 - played.notes.returned_[-1][1]]
        played.until(partial(played.has_answered, name, len(expected)))
    assert played.notes.values(name) == expected
    assert {count for _, count in played.notes.returned_} <= {0, 1}


def test_batches_given_to_a_dead_worker_count_as_unread(play: Callable[..., Played]) -> None:
    played = play(1)
    (name,) = played.all_here(1)
    pid = played.notes.came_[name]
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    played.give(name, call(abs, -1))
    played.give(name, call(abs, -2))
    played.until(lambda: bool(played.notes.deaths))
    assert played.notes.deaths == [(name, "was killed by SIGKILL", 2)]


def test_a_retired_worker_ends_and_is_replaced(play: Callable[..., Played]) -> None:
    played = play(1)
    (name,) = played.all_here(1)
    played.supervisor.retire(name)
    played.until(lambda: played.notes.left_ == [name] and len(played.notes.came_) == 2)
    assert played.notes.deaths == []


def test_processes_that_die_at_their_start_are_not_started_for_ever(
    play: Callable[..., Played], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nearfar.worker.main.hang_on", lambda _: os._exit(7))
    played = play(2)
    played.until(lambda: bool(played.notes.reasons))
    assert "exited with code 7" in played.notes.reasons[0]
    played.until(lambda: not played.supervisor.members)
    assert len(played.notes.reasons) == 1
    assert played.notes.came_ == {}


def test_workers_ignore_ctrl_c_at_the_terminal(play: Callable[..., Played]) -> None:
    played = play(1)
    (name,) = played.all_here(1)
    os.kill(played.notes.came_[name], signal.SIGINT)
    played.give(name, call(abs, -1))
    played.until(lambda: played.notes.values(name) == [1])


def test_a_sibling_does_not_inherit_a_channel(play: Callable[..., Played]) -> None:
    played = play(3)
    played.all_here(3)
    members = list(played.supervisor.members.values())
    assert len(members) == 3
    for member in members[:2]:
        played.supervisor.unwatch(member.end.fileno())
        member.end.socket.close()  # as its parent's death would do
        assert (
            played.notes.came_[member.name] == os.waitid(os.P_PID, member.pid, os.WEXITED | os.WNOWAIT).si_pid
        )
